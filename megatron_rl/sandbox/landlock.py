"""Landlock: a process gives up every file but those named, for good, without any privilege."""

import ctypes
import os
import stat
import struct
from collections.abc import Sequence

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION = 1
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG, _MAKE_SYM = (
    1 << 4,
    1 << 5,
    1 << 7,
    1 << 8,
    1 << 12,
)
_TRUNCATE = 1 << 14
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_WRITE = _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SYM | _TRUNCATE
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
# File-system access rights that each version of the interface can restrict, one bit each.
_RIGHTS_SINCE = {1: 13, 2: 14, 3: 15, 5: 16}
_NETWORK_SINCE, _BIND_AND_CONNECT = 4, 3
_SCOPES_SINCE, _SIGNALS_AND_ABSTRACT_SOCKETS = 6, 3

DEVICES = {
    "/dev/null": _READ_FILE | _WRITE_FILE,
    "/dev/zero": _READ_FILE,
    "/dev/urandom": _READ_FILE,
}

_LIBC = ctypes.CDLL(None, use_errno=True)


def landlock_version() -> int:
    """Return the version of the kernel's Landlock interface, 0 without Landlock."""
    version = _LIBC.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION)
    return max(version, 0)


def restrict_files(readable: Sequence[str], writable: str | None) -> None:
    """Restrict this process to these files and folders, three devices and its open files.

    Files can be read and executed; below ``writable`` they can also be made, changed and removed.
    Network and signals are restricted as far as the kernel supports it. Raises OSError.
    """
    version = landlock_version()
    if version < 1:
        raise OSError("this kernel has no landlock")
    handled = (1 << max(bits for since, bits in _RIGHTS_SINCE.items() if version >= since)) - 1
    network = _BIND_AND_CONNECT if version >= _NETWORK_SINCE else 0
    scopes = _SIGNALS_AND_ABSTRACT_SOCKETS if version >= _SCOPES_SINCE else 0
    known = 8 if version < _NETWORK_SINCE else 16 if version < _SCOPES_SINCE else 24
    attributes = struct.pack("=QQQ", handled, network, scopes)[:known]
    ruleset = _call(_CREATE_RULESET, attributes, ctypes.c_size_t(known), 0)
    rules = [*((path, _READ) for path in readable), *DEVICES.items()]
    if writable is not None:
        rules.append((writable, _READ | _WRITE))
    for path, rights in rules:
        _allow(ruleset, path, rights & handled)
    if _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot give up privileges")
    _call(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    if not stat.S_ISDIR(os.fstat(target).st_mode):
        rights &= _ON_FILES
    _call(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, struct.pack("=Qi", rights, target), 0)
    os.close(target)


def _call(number: int, *arguments: object) -> int:
    result = _LIBC.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"landlock call {number} failed")
    return result
