"""Runs the attacks under one backend as the user it is started as; JSON in, JSON out.

Started with the package's folder in PYTHONPATH and any Python that this user can run: it needs
nothing but the standard library, as the sandbox itself.
"""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from attacks import ATTACKS, PRELUDE, Attack

from megatron_rl.errors import VerifierError
from megatron_rl.sandbox.client import Sandbox, open_sandbox
from megatron_rl.sandbox.interpreter import system_libraries
from megatron_rl.sandbox.jobs import Job, Limits, SandboxUnavailable

_LIMITS = Limits(
    cpu_s=6.0,  # what ends by itself must have the time for it on a slow machine
    wall_s=20.0,
    memory_mb=200,
    stack_mb=32,
    output_bytes=1 << 20,
    file_bytes=1 << 16,
    may_fork=False,
)
_PATIENCE_S = 60.0
# A program that the machine gave no time to says nothing about its containment.
_ATTEMPTS = 3
_SECRET = "the expected output"


def main() -> None:
    backend, native = sys.argv[1:]
    os.environ["SANDBOX_TOKEN"] = _SECRET
    try:
        sandbox = open_sandbox(backend)
    except SandboxUnavailable as error:
        print(json.dumps({"unavailable": str(error)}))
        return
    with (
        sandbox,
        tempfile.TemporaryDirectory() as folder,
        socket.create_server(("127.0.0.1", 0)) as server,
        subprocess.Popen(["/bin/sleep", "600"]) as victim,
    ):
        world = _World(Path(folder), victim, server.getsockname()[1])
        print(json.dumps({name: _attack(sandbox, a, world, native) for name, a in ATTACKS.items()}))
        victim.kill()


class _World:
    """What an attack could damage."""

    def __init__(self, folder: Path, victim: "subprocess.Popen[bytes]", port: int) -> None:
        self.folder = folder
        self.folder.chmod(0o777)
        self.secret = folder / "secret"
        self.secret.write_text(_SECRET)
        self.secret.chmod(0o666)
        self.before = self.secret.stat()
        self.victim = victim
        # Ours and not 0 where the tests themselves run at a lower one.
        self.priority = os.getpriority(os.PRIO_PROCESS, victim.pid)
        self.port = port

    def damage(self, mark: str) -> list[str]:
        """Return what is not as it was."""
        found = []
        if [path.name for path in self.folder.iterdir()] != ["secret"]:
            found.append("the folder has changed")
        elif self.secret.read_text() != _SECRET:
            found.append("the file has changed")
        else:
            now = self.secret.stat()
            same = ("st_mode", "st_uid", "st_mtime", "st_nlink", "st_ino")
            if any(getattr(now, name) != getattr(self.before, name) for name in same):
                found.append("the file's mode, owner or time has changed")
        state = Path(f"/proc/{self.victim.pid}/stat").read_text().rpartition(")")[2].split()[0]
        if self.victim.poll() is not None or state not in "SRD":
            found.append("the other process was signalled")
        if os.getpriority(os.PRIO_PROCESS, self.victim.pid) != self.priority:
            found.append("the other process has another priority")
        if left := _alive(mark):
            found.append(f"{len(left)} processes are left")
        return found


def _attack(sandbox: Sandbox, attack: Attack, world: _World, native: str) -> dict[str, object]:
    mark = f"mark-{os.getpid()}-{time.monotonic_ns()}"
    facts = [str(world.secret), str(world.folder), world.victim.pid, os.getpid(), world.port, mark]
    if attack.source:
        program = (sandbox.python.path, "-I", "-S", "-c", PRELUDE + attack.source)
        readable = sandbox.python.readable
    else:
        program = (native, attack.name)
        readable = (*system_libraries(), os.path.dirname(native))
    job = Job(
        argv=(*program, *map(str, facts)),
        readable=readable,
        writable=None,
        folder=readable[-1] if not attack.source else "/usr/lib",
        stdin=b"input",
        limits=dataclasses.replace(_LIMITS, may_fork=attack.may_fork, **attack.limits),
    )
    started_s = time.monotonic()
    for _ in range(_ATTEMPTS):
        try:
            outcome = sandbox.run(job)
            break
        except VerifierError as error:
            fault = {"error": str(error), "damage": world.damage(mark)}
            if "waited" not in str(error) or fault["damage"]:
                return fault
    else:
        return fault
    return {
        "ending": outcome.ending,
        "code": outcome.code,
        "stdout": outcome.stdout[:2000].decode(errors="replace"),
        "stderr": outcome.stderr[-500:].decode(errors="replace"),
        "damage": world.damage(mark),
        "is_prompt": time.monotonic() - started_s < _PATIENCE_S,
        "memory_mb": outcome.memory_mb,
    }


def _alive(mark: str) -> list[int]:
    """Return processes started by an attack, which all have its mark among their arguments."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and mark.encode() in Path(f"/proc/{entry}/cmdline").read_bytes():
                found.append(int(entry))
        except OSError:
            continue
    return found


if __name__ == "__main__":
    main()
