"""The seccomp filter: a list of allowed system calls as a classic BPF program."""

import ctypes
import os
import struct
from collections.abc import Iterator, Sequence

from megatron_rl.sandbox.syscalls import ALWAYS, ARCHITECTURES, BY_ARGUMENT, TO_FORK

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_ALLOW, _KILL_PROCESS = 0x7FFF0000, 0x80000000
_REFUSE = 0x00050000 | 38  # SECCOMP_RET_ERRNO with ENOSYS

_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_JUMP_IF_EQUAL, _JUMP_IF_AT_LEAST = 0x15, 0x35
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16

_CLONE_THREAD = 0x00010000
_CLONE_NEW_NAMESPACES = 0x7E020080
# F_SETOWN and F_SETSIG would send any signal to any process; landlock learnt of that late.
_FCNTL_COMMANDS = (0, 1, 2, 3, 4, 5, 6, 7, 1030)
_IOCTL_REQUESTS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # is it a terminal, and flags
_PRCTL_NAMES = (15, 16)
_OWN_LIMITS = (0,)

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2

Instruction = tuple[int, int, int, int]


def build_filter(machine: str, *, may_fork: bool, own_pid: int | None) -> bytes:
    """Return the filter's program.

    Args:
        machine: processor as ``os.uname().machine`` names it, a key of ARCHITECTURES.
        may_fork: whether processes may be started, not only threads.
        own_pid: the only process that may be signalled; None where a namespace sees to that.
    """
    column = ARCHITECTURES[machine]
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_JUMP_IF_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    if machine == "x86_64":  # the same calls again under other numbers
        program += [(_JUMP_IF_AT_LEAST, 0, 1, _X32_BIT), (_RETURN, 0, 0, _KILL_PROCESS)]
    for numbers in (ALWAYS, TO_FORK) if may_fork else (ALWAYS,):
        for pair in numbers.values():
            if (number := pair[column]) is not None:
                program += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    for name, (index, mask, values) in _argument_rules(may_fork, own_pid).items():
        number = BY_ARGUMENT[name][column]
        assert number is not None, name
        block = list(_when_argument(index, mask, values))
        program += [(_JUMP_IF_EQUAL, 0, len(block), number), *block]
    program.append((_RETURN, 0, 0, _REFUSE))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def install_filter(program: bytes) -> None:
    """Put this process under the filter for good; needs no_new_privs. Raises OSError."""

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    buffer = ctypes.create_string_buffer(program, len(program))
    argument = Program(len(program) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(argument), 0, 0):
        raise OSError(ctypes.get_errno(), "cannot install the seccomp filter")


def is_supported() -> bool:
    """Return whether the numbers of this machine's system calls are known."""
    return os.uname().machine in ARCHITECTURES


def _argument_rules(
    may_fork: bool, own_pid: int | None
) -> dict[str, tuple[int, int, Sequence[int]]]:
    """Return call -> (which argument, mask, values it may have under the mask).

    Only the lower half of an argument is looked at, which is all the kernel reads of these.
    """
    every_bit = 0xFFFFFFFF
    signals = (0, 0, (0,)) if own_pid is None else (0, every_bit, (own_pid,))
    clone = (0, _CLONE_NEW_NAMESPACES | (0 if may_fork else _CLONE_THREAD))
    return {
        "fcntl": (1, every_bit, _FCNTL_COMMANDS),
        "ioctl": (1, every_bit, _IOCTL_REQUESTS),
        "prctl": (0, every_bit, _PRCTL_NAMES),
        "prlimit64": (0, every_bit, _OWN_LIMITS),
        "kill": signals,
        "tgkill": signals,
        "clone": (*clone, (0,) if may_fork else (_CLONE_THREAD,)),
    }


def _when_argument(index: int, mask: int, values: Sequence[int]) -> Iterator[Instruction]:
    """Allow the call if its argument has one of the values, else refuse it."""
    yield (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * index)
    yield (_AND, 0, 0, mask)
    for value in values:
        yield (_JUMP_IF_EQUAL, 0, 1, value)
        yield (_RETURN, 0, 0, _ALLOW)
    yield (_RETURN, 0, 0, _REFUSE)
