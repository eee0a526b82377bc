"""Every attack is contained, by each backend, for root and for an ordinary user."""

import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from megatron_rl.sandbox.client import BACKENDS
from megatron_rl.sandbox.interpreter import is_reachable

sys.path.insert(0, str(Path(__file__).parent))
from attacks import ATTACKS, PRELUDE

HERE = Path(__file__).parent
ROOT = Path(__file__).parents[3]
NOBODY = 65534
USERS = ("root", "ordinary")

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def native() -> Iterator[str]:
    """Compile the attacks in machine code, readable for everybody."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    # Not tmp_path: pytest closes its folders to other users.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        program = f"{folder}/native"
        command = ["g++", "-std=gnu++20", "-O1", "-w", "-o", program, str(HERE / "native.cpp")]
        subprocess.run(command, check=True)
        yield program


@pytest.fixture(scope="module")
def results(native):
    """Return a function that runs all attacks once per backend and user."""
    return cache(lambda backend, user: run_attacks(backend, user, native))


def run_attacks(backend: str, user: str, native: str) -> dict[str, dict]:
    command = [interpreter_for(user), "-P", str(HERE / "attacker.py"), backend, native]
    if user == "ordinary" and os.geteuid() == 0:
        switch = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        command = [*switch, *command]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{HERE}"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def interpreter_for(user: str) -> str:
    if user == "root" and os.geteuid() != 0:
        pytest.skip("not root")
    if user == "root" or os.geteuid() != 0:
        return sys.executable
    if shutil.which("setpriv") is None:
        pytest.skip("no setpriv to become an ordinary user with")
    for path in (sys.executable, "/usr/bin/python3"):
        if os.path.exists(path) and is_reachable(os.path.realpath(path), NOBODY):
            version = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
            if tuple(map(int, version.split()[1].split(".")[:2])) >= (3, 11):
                return path
    pytest.skip("no Python >= 3.11 that an ordinary user can run")


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_contained(name, backend, user, results):
    outcomes = results(backend, user)
    if "unavailable" in outcomes:
        pytest.skip(outcomes["unavailable"])
    outcome = outcomes[name]
    assert outcome["damage"] == []
    if "error" in outcome and "waited" in outcome["error"]:
        if not ATTACKS[name].may_starve:
            pytest.skip(f"the machine is too busy: {outcome['error']}")
        return
    assert "error" not in outcome, outcome
    assert "ESCAPED" not in outcome["stdout"], outcome["stdout"]
    assert outcome["ending"] in ATTACKS[name].endings, outcome
    assert outcome["is_prompt"]


@pytest.mark.parametrize(
    "name",
    [
        "read a file of the judge",
        "list folders",
        "read the judge's environment, memory and arguments",
        "find secrets in the environment",
        "change the mode, owner, times and attributes of a file",
        "open network connections",
        "make sockets of every family",
        "leave memory behind",
        "fork",
    ],
)
def test_the_attack_succeeds_where_nothing_contains_it(name, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        subprocess.Popen([shutil.which("sleep"), "60"]) as victim,
    ):
        facts = [secret, tmp_path, victim.pid, victim.pid, server.getsockname()[1], "mark"]
        program = [sys.executable, "-I", "-S", "-c", PRELUDE + ATTACKS[name].source]
        environment = {"SANDBOX_TOKEN": "secret"}
        command = [*program, *map(str, facts)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        victim.kill()
    assert "ESCAPED" in done.stdout, done.stderr
    remove_shared_memory()


def remove_shared_memory() -> None:
    """Remove what the attack on shared memory leaves: that it can is the point."""
    libc = ctypes.CDLL(None)
    for get, control in ((libc.shmget, libc.shmctl), (libc.msgget, libc.msgctl)):
        number = get(4242, 0, 0) if get is libc.shmget else get(4242, 0)
        if number >= 0:
            control(number, 0, None)
    if (number := libc.semget(4242, 0, 0)) >= 0:
        libc.semctl(number, 0, 0)


def test_there_are_many_attacks_in_both_languages():
    native = [attack for attack in ATTACKS.values() if not attack.source]
    assert len(ATTACKS) >= 50
    assert len(native) >= 10
