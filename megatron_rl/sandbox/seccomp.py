"""Seccomp filter: a list of allowed system calls as a classic BPF program.

A program under the filter cannot make itself end by SIGKILL: it cannot send SIGKILL, lower its
limit of processor time, or exit with the status by which a shell reports SIGKILL. So a program that
dies by SIGKILL within its limits was killed from outside.
"""

import ctypes
import os
import signal
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
# Not F_SETOWN and F_SETSIG, which send any signal to any process; old landlocks allow them.
_FCNTL_COMMANDS = (0, 1, 2, 3, 4, 5, 6, 7, 1030)
_IOCTL_REQUESTS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # is it a terminal, and flags
_PRCTL_NAMES = (15, 16)
_RLIMIT_CPU = 0
_LIKE_SIGKILL = 128 + signal.SIGKILL
_EVERY_BIT, _STATUS_BITS = 0xFFFFFFFF, 0xFF

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2

Instruction = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Check:
    """Condition on an argument's lower half, which is all that the kernel reads of it."""

    index: int
    """Index of the argument."""
    values: Sequence[int]
    mask: int = _EVERY_BIT
    is_allowed: bool = True
    """Whether only these values are allowed, or all others."""
    otherwise: int = _REFUSE


def build_filter(machine: str, *, may_fork: bool, own_pid: int | None) -> bytes:
    """Return the filter's program.

    Args:
        machine: processor as ``os.uname().machine`` names it, a key of ARCHITECTURES.
        may_fork: whether processes may be started, not only threads.
        own_pid: the only process that may be signalled; None in a process namespace.
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
    for name, checks in _checks(may_fork, own_pid).items():
        number = BY_ARGUMENT[name][column]
        assert number is not None, name
        block = [instruction for check in checks for instruction in _compiled(check)]
        block.append((_RETURN, 0, 0, _ALLOW))
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


def _checks(may_fork: bool, own_pid: int | None) -> dict[str, Sequence[_Check]]:
    """Return the conditions on the arguments of each call that has any."""
    target = () if own_pid is None else (_Check(index=0, values=(own_pid,)),)
    clone = _Check(
        index=0,
        mask=_CLONE_NEW_NAMESPACES | (0 if may_fork else _CLONE_THREAD),
        values=(0,) if may_fork else (_CLONE_THREAD,),
    )
    status = _Check(
        index=0,
        mask=_STATUS_BITS,
        values=(_LIKE_SIGKILL,),
        is_allowed=False,
        otherwise=_KILL_PROCESS,  # C libraries cannot handle a refusal of exit
    )
    return {
        "fcntl": [_Check(index=1, values=_FCNTL_COMMANDS)],
        "ioctl": [_Check(index=1, values=_IOCTL_REQUESTS)],
        "prctl": [_Check(index=0, values=_PRCTL_NAMES)],
        "setrlimit": [_never(0, _RLIMIT_CPU)],
        "prlimit64": [_Check(index=0, values=(0,)), _never(1, _RLIMIT_CPU)],
        "kill": [*target, _never(1, signal.SIGKILL)],
        "tgkill": [*target, _never(2, signal.SIGKILL)],
        "clone": [clone],
        "exit": [status],
        "exit_group": [status],
    }


def _never(index: int, value: int) -> _Check:
    return _Check(index=index, values=(value,), is_allowed=False)


def _compiled(check: _Check) -> Iterator[Instruction]:
    """Return the instructions that refuse a call unless its argument is allowed."""
    yield (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * check.index)
    yield (_AND, 0, 0, check.mask)
    for left, value in zip(reversed(range(len(check.values))), check.values, strict=True):
        # Jump over the values that are left, to the return.
        if check.is_allowed:
            yield (_JUMP_IF_EQUAL, left + 1, 0, value)
        else:
            yield (_JUMP_IF_EQUAL, left, 0 if left else 1, value)
    yield (_RETURN, 0, 0, check.otherwise)
