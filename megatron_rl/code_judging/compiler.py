"""C++ compiler of this machine: its path, the files it reads, and its precompiled header."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from megatron_rl.errors import VerifierError
from megatron_rl.sandbox.interpreter import system_libraries

FLAGS = ("-std=gnu++20", "-O2", "-pipe", "-w", "-fmax-errors=3", "-DONLINE_JUDGE")
"""Flags of solutions and of the header: g++ ignores a header made with other flags."""

HEADER = "bits/stdc++.h"

_FOLDERS = ("bin", "include", "lib", "lib64", "libexec")
_BUILD_TIMEOUT_S = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Compiler:
    """A g++ that knows C++20."""

    path: str
    version: str
    readable: tuple[str, ...]
    """Files and folders that the compiler reads and executes."""
    run_flags: tuple[str, ...]
    """Flags by which programs find the compiler's own libraries."""


def find_compiler() -> Compiler:
    """Return the compiler in PATH; raise VerifierError if there is none."""
    found = shutil.which("g++")
    if found is None:
        raise VerifierError("there is no g++ in PATH, and a C++ solution waits: install g++ >= 10")
    path = os.path.realpath(found)
    version = _ask(path, "--version").partition("\n")[0]
    prefix = Path(path).parents[1]
    roots = dict.fromkeys((prefix, Path("/usr")))
    folders = [str(root / name) for root in roots for name in _FOLDERS]
    folders += ["/bin", "/etc/alternatives", *system_libraries()]
    for tool in ("cc1plus", "as", "ld"):
        place = _ask(path, f"-print-prog-name={tool}").strip()
        folders += [os.path.dirname(os.path.realpath(place))] if os.path.isabs(place) else []
    library = _ask(path, "-print-file-name=libstdc++.so.6").strip()
    is_own = os.path.isabs(library) and not os.path.realpath(library).startswith("/usr/lib")
    run_flags = (f"-Wl,-rpath,{os.path.dirname(os.path.realpath(library))}",) if is_own else ()
    readable = tuple(folder for folder in dict.fromkeys(folders) if os.path.exists(folder))
    return Compiler(path=path, version=version, readable=readable, run_flags=run_flags)


def ensure_header(compiler: Compiler, cache: Path) -> Path:
    """Return the folder with the precompiled header of these flags, made if need be.

    Making the header takes seconds and 123 MB. Other processes wait for the first that makes it.
    """
    identity = "\0".join((compiler.path, compiler.version, *FLAGS))
    folder = cache / "headers" / hashlib.sha256(identity.encode()).hexdigest()[:16]
    header = folder / f"{HEADER}.gch"
    if header.exists():
        return folder
    for level in (folder.parent, folder, header.parent):
        level.mkdir(exist_ok=True)
        level.chmod(0o755)  # the sandbox's user reads it, whatever our umask is
    with locked(folder / "lock"):
        if not header.exists():
            _build_header(compiler, header)
    return folder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock between processes, if the file system has locks."""
    with path.open("w") as file:
        # Without locks the work may be done twice; renaming keeps that harmless.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build_header(compiler: Compiler, header: Path) -> None:
    with tempfile.TemporaryDirectory(dir=header.parent) as scratch:
        probe, built = Path(scratch, "probe.cpp"), Path(scratch, "header.gch")
        probe.write_text(f"#include <{HEADER}>\n")
        needed = _ask(compiler.path, *FLAGS, "-M", str(probe)).split()
        source = next(path for path in needed if path.endswith(f"/{HEADER}"))
        _ask(compiler.path, *FLAGS, "-x", "c++-header", "-o", str(built), source)
        built.chmod(0o644)
        built.replace(header)


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_BUILD_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        raise VerifierError(f"the C++ compiler failed: {error}") from error
    if done.returncode:
        raise VerifierError(f"the C++ compiler failed: {' '.join(command)}: {done.stderr[:500]}")
    return done.stdout
