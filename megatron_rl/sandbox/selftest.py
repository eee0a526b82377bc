"""Self-test of the sandbox: a program that tries to escape, run before any untrusted program."""

import json
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

from megatron_rl.sandbox.interpreter import Interpreter
from megatron_rl.sandbox.jobs import Job, Limits, Outcome

_LIMITS = Limits(
    cpu_s=10.0,
    wall_s=30.0,
    memory_mb=300,
    stack_mb=64,
    output_bytes=1 << 16,
    file_bytes=1 << 16,
    may_fork=False,
)

# Prints the names of the escapes that worked. The paths are those of files that exist.
_PROBE = """
import json, os, socket, sys
secret, folder, judge = sys.argv[1], sys.argv[2], int(sys.argv[3])

def succeeds(attempt):
    try:
        return attempt() is not False
    except (OSError, PermissionError):
        return False

def capabilities():
    try:
        lines = open("/proc/self/status").read().splitlines()
    except OSError:  # without /proc; changing the root needs a capability as well
        return succeeds(lambda: os.chroot("/"))
    return any(line.startswith("CapEff") and int(line.split()[1], 16) for line in lines)

ways = {
    "reads a file outside": lambda: open(secret).read(),
    "lists a folder outside": lambda: os.listdir(folder),
    "writes outside": lambda: open(folder + "/made", "w"),
    "changes the mode of a file outside": lambda: os.chmod(secret, 0o777),
    "writes to its root": lambda: open("/made", "w"),
    "opens a network connection": lambda: socket.create_connection(("127.0.0.1", judge >> 32), 1),
    "makes a socket": lambda: socket.socket(socket.AF_UNIX),
    "signals the judge": lambda: os.kill(judge & 0xFFFFFFFF, 0),
    "reads the judge's environment": lambda: open(f"/proc/{judge & 0xFFFFFFFF}/environ").read(),
    "starts a process": lambda: os.fork() or os._exit(0),
    "leaves its session": lambda: os.setsid(),
    "has capabilities": capabilities,
    "has files open": lambda: any(succeeds(lambda: os.fstat(fd)) for fd in range(3, 64)),
    "inherits the environment": lambda: "PYTHONPATH" in os.environ,
    "is root": lambda: os.getuid() == 0,
}
print(json.dumps([name for name, attempt in ways.items() if succeeds(attempt)]))
"""


def find_leak(run: Callable[[Job], Outcome], interpreter: Interpreter) -> str | None:
    """Return the forbidden things that a contained program could do, None if there are none.

    Raises:
        VerifierError: the sandbox could not run the program at all.
    """
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        os.chmod(folder, 0o777)
        secret = Path(folder, "secret")
        secret.write_text("secret")
        secret.chmod(0o666)
        judge = server.getsockname()[1] << 32 | os.getpid()
        outcome = run(
            Job(
                argv=(interpreter.path, "-I", "-S", "-c", _PROBE, str(secret), folder, str(judge)),
                readable=interpreter.readable,
                writable=None,
                folder="/",
                stdin=b"",
                limits=_LIMITS,
            )
        )
    if not outcome.is_success:
        message = outcome.stderr.decode(errors="replace").strip()[-300:]
        return f"the test program {outcome.ending} with {outcome.code}: {message}"
    ways = json.loads(outcome.stdout)
    return f"a program {', '.join(ways)}" if ways else None
