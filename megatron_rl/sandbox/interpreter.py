"""Python interpreter for contained programs, with everything it reads and nothing more."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

SYSTEM_LIBRARIES = ("/lib", "/lib64", "/lib32", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
"""Folders that a compiled program may need to start; not /usr, which may hold data."""

_QUERY = """
import json, sys, sysconfig
names = ("LIBDIR", "INSTSONAME", "Py_ENABLE_SHARED")
paths = [sysconfig.get_path("stdlib", vars={"base": sys.base_prefix})]
paths.append(sysconfig.get_path("platstdlib", vars={"platbase": sys.base_prefix}))
print(json.dumps([paths, sysconfig.get_config_vars(*names)]))
"""
_QUERY_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Interpreter:
    """An interpreter and the files and folders that it needs."""

    path: str
    readable: tuple[str, ...]


def system_libraries() -> tuple[str, ...]:
    """Return those of SYSTEM_LIBRARIES that exist here."""
    return tuple(path for path in SYSTEM_LIBRARIES if os.path.exists(path))


def interpreters(uid: int | None) -> Iterator[Interpreter]:
    """Yield interpreters that ``uid`` can run, ours first; None is the user of this process."""
    seen = set()
    # Not sys.executable: in a virtual environment it is a link beside our packages.
    own = getattr(sys, "_base_executable", sys.executable)
    for candidate in (own, "/usr/bin/python3", "/usr/local/bin/python3"):
        path = os.path.realpath(candidate)
        if path in seen or not os.access(path, os.X_OK) or not is_reachable(path, uid):
            continue
        seen.add(path)
        if (readable := _needs(path)) is not None:
            yield Interpreter(path=path, readable=readable)


def is_reachable(path: str, uid: int | None) -> bool:
    """Return whether a user who owns no file could open ``path``; None: this process's user."""
    if uid is None:
        return True
    parts = os.path.realpath(path).split("/")
    folders = ["/".join(parts[:depth]) or "/" for depth in range(1, len(parts))]
    if any(not os.stat(folder).st_mode & stat.S_IXOTH for folder in folders):
        return False
    return bool(os.stat(path).st_mode & (stat.S_IROTH | stat.S_IXOTH))


def _needs(path: str) -> tuple[str, ...] | None:
    """Ask an interpreter for the files it needs; None if it does not answer."""
    command = [path, "-I", "-S", "-c", _QUERY]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_QUERY_TIMEOUT_S, check=True)
    except (subprocess.SubprocessError, OSError):
        return None
    folders, (library_folder, library, is_shared) = json.loads(done.stdout)
    if is_shared:
        folders.append(os.path.join(library_folder, library))
    own = (os.path.realpath(folder) for folder in (path, *folders) if os.path.exists(folder))
    # Twice bound is once too often for bubblewrap only where a link lies between.
    inside = tuple(os.path.realpath(system) + "/" for system in system_libraries())
    outside = [needed for needed in dict.fromkeys(own) if not needed.startswith(inside)]
    return (*system_libraries(), *outside)
