"""Decisions of the seccomp filter, on both processors, by running its program."""

import os
import re
import struct
from pathlib import Path

import pytest

from megatron_rl.sandbox.seccomp import build_filter
from megatron_rl.sandbox.syscalls import ALWAYS, ARCHITECTURES, BY_ARGUMENT, TO_FORK

ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050026, 0x80000000
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
SOCKET = {"x86_64": 41, "aarch64": 198}
HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")

both = pytest.mark.parametrize("machine", ARCHITECTURES)


def decide(program: bytes, arch: int, number: int, *arguments: int) -> int:
    """Interpret the filter as the kernel would: loads of words, jumps, and, return."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", number, arch, 0, *padded)
    accumulator = at = 0
    while True:
        code, if_true, if_false, value = struct.unpack_from("=HBBI", program, 8 * at)
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif code == 0x54:
            accumulator &= value
        elif code == 0x15:
            at += if_true if accumulator == value else if_false
        elif code == 0x35:
            at += if_true if accumulator >= value else if_false
        elif code == 0x06:
            return value
        else:
            raise AssertionError(f"unknown instruction {code:#x}")


def number_of(name: str, machine: str) -> int:
    table = {**ALWAYS, **BY_ARGUMENT, **TO_FORK}
    number = table[name][ARCHITECTURES[machine]]
    assert number is not None
    return number


@both
@pytest.mark.parametrize("may_fork", [True, False])
def test_every_listed_call_is_allowed_and_no_other(machine, may_fork):
    program = build_filter(machine, may_fork=may_fork, own_pid=None)
    column = ARCHITECTURES[machine]
    listed = {**ALWAYS, **(TO_FORK if may_fork else {})}
    allowed = {pair[column] for pair in listed.values()}
    by_argument = {pair[column] for pair in BY_ARGUMENT.values()}
    for number in range(600):
        if number not in by_argument:
            expected = ALLOW if number in allowed else REFUSE
            assert decide(program, ARCH[machine], number) == expected, number


@both
def test_sockets_are_refused(machine):
    program = build_filter(machine, may_fork=True, own_pid=None)
    assert decide(program, ARCH[machine], SOCKET[machine], 2, 1, 0) == REFUSE


@both
def test_another_processors_calls_end_the_program(machine):
    program = build_filter(machine, may_fork=False, own_pid=None)
    assert decide(program, 0x40000003, 4) == KILL  # i386
    if machine == "x86_64":
        assert decide(program, ARCH[machine], 0x40000000) == KILL  # x32


@both
def test_only_threads_may_be_started_and_never_namespaces(machine):
    clone, thread, fork, new_user = number_of("clone", machine), 0x3D0F00, 17, 0x10000000
    solution = build_filter(machine, may_fork=False, own_pid=None)
    compiler = build_filter(machine, may_fork=True, own_pid=None)
    results = {
        (name, flags): decide(program, ARCH[machine], clone, flags)
        for name, program in (("solution", solution), ("compiler", compiler))
        for flags in (thread, fork, thread | new_user, fork | new_user)
    }
    allowed = {key for key, result in results.items() if result == ALLOW}
    assert allowed == {("solution", thread), ("compiler", thread), ("compiler", fork)}
    assert set(results.values()) == {ALLOW, REFUSE}


@both
def test_signals_reach_the_program_itself_only(machine):
    program = build_filter(machine, may_fork=False, own_pid=77)
    for name in ("kill", "tgkill"):
        number = number_of(name, machine)
        assert decide(program, ARCH[machine], number, 77, 6) == ALLOW
        for other in (78, 0, 1, 2**32 - 1, 2**64 - 1, 2**32 + 78):
            assert decide(program, ARCH[machine], number, other, 6) == REFUSE


@both
@pytest.mark.parametrize(
    ("name", "arguments", "is_allowed"),
    [
        ("prlimit64", (0, 3), True),
        ("prlimit64", (77, 3), False),
        ("prlimit64", (0, 0), False),  # RLIMIT_CPU, which ends by SIGKILL
        ("setrlimit", (3,), True),
        ("setrlimit", (0,), False),
        ("kill", (77, 6), True),
        ("kill", (77, 9), False),
        ("tgkill", (77, 80, 6), True),
        ("tgkill", (77, 80, 9), False),
        ("fcntl", (0, 3), True),
        ("fcntl", (0, 8), False),  # F_SETOWN
        ("fcntl", (0, 10), False),  # F_SETSIG
        ("ioctl", (0, 0x5401), True),
        ("ioctl", (0, 0x5412), False),  # TIOCSTI types into a terminal
        ("prctl", (15,), True),
        ("prctl", (1,), False),  # PR_SET_PDEATHSIG
    ],
)
def test_arguments_decide(machine, name, arguments, is_allowed):
    program = build_filter(machine, may_fork=False, own_pid=77)
    decision = decide(program, ARCH[machine], number_of(name, machine), *arguments)
    assert decision == (ALLOW if is_allowed else REFUSE)


@both
@pytest.mark.parametrize("may_fork", [True, False])
def test_no_status_can_be_taken_for_a_sigkill(machine, may_fork):
    program = build_filter(machine, may_fork=may_fork, own_pid=None)
    for name in ("exit", "exit_group"):
        for status in range(-1, 513):
            decision = decide(program, ARCH[machine], number_of(name, machine), status % 2**64)
            assert decision == (KILL if status in (137, 393) else ALLOW)  # 393 - 256 = 137


@pytest.mark.skipif(
    not HEADER.exists() or os.uname().machine != "x86_64", reason="no kernel headers of x86_64"
)
def test_the_numbers_are_those_of_the_kernels_headers():
    defined = dict(re.findall(r"#define __NR_(\w+)\s+(\d+)", HEADER.read_text()))
    for name, (number, _) in {**ALWAYS, **BY_ARGUMENT, **TO_FORK}.items():
        if name in defined:  # an older header lacks newer calls
            assert int(defined[name]) == number, name
