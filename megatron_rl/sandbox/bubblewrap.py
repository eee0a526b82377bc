"""Bubblewrap: the command line of a container that holds one program and what it may see."""

import os
from collections.abc import Mapping, Sequence

_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
_NOBODY = "65534"
_STREAMS = {"/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1"}


def bubblewrap_command(
    bwrap: str,
    argv: Sequence[str],
    *,
    readable: Sequence[str],
    writable: str | None,
    folder: str,
    environment: Mapping[str, str],
    seccomp_fd: int,
    status_fd: int,
) -> list[str]:
    """Return the command that runs ``argv`` in new namespaces, with the paths of this process.

    Args:
        bwrap: path of the bubblewrap program.
        seccomp_fd: open file with the filter.
        status_fd: pipe that receives JSON; an ``exit-code`` in it proves that argv was started;
            argv itself cannot write to the pipe.
    """
    command = [bwrap, "--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL"]
    command += ["--uid", _NOBODY, "--gid", _NOBODY]
    # A new session: kill(0) must not reach the bubblewrap process outside.
    command += ["--die-with-parent", "--new-session", "--clearenv"]
    for name, value in environment.items():
        command += ["--setenv", name, value]
    # Read-only: a solution has the user of the container's first process, so it could write that
    # process's memory and OOM scores.
    command += ["--proc", "/proc", "--remount-ro", "/proc"]
    for device in _DEVICES:
        command += ["--dev-bind", device, device]
    for name, target in _STREAMS.items():
        command += ["--symlink", target, name]
    for path in readable:
        command += ["--symlink", os.readlink(path), path] if os.path.islink(path) else []
        command += [] if os.path.islink(path) else ["--ro-bind", path, path]
    if writable is not None:
        command += ["--bind", writable, writable]
    # The root is a tmpfs that bubblewrap makes: an unlimited disk unless it is read-only.
    command += ["--remount-ro", "/", "--chdir", folder]
    return [*command, "--seccomp", str(seccomp_fd), "--json-status-fd", str(status_fd), *argv]
