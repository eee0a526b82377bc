"""Fork server of verifier processes: verifiers are loaded once, not per worker.

Run as ``python -m megatron_rl.judge.fork_server PARENT_PID`` with a socket of whole messages
(SOCK_SEQPACKET) as stdin. The first message names the verifier to load. Then the server forks a
worker for every ``{"start"}``, which comes with the worker's socket; ends the process group of
``{"kill": PID}``; and sends ``{"ended": PID, "code": N}`` for each worker that has ended. The
server ends with its parent, and the workers end with the server. A fork takes milliseconds, loading
takes most of a second of CPU time: without a fork server, many answers whose workers must be killed
would keep all others waiting for new workers.
"""

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
from typing import Any

from megatron_rl.judge.worker import serve
from megatron_rl.process_lifetime import die_with
from megatron_rl.protocols import GradeFn

MAX_MESSAGE_BYTES = 1 << 17
"""Longest message to or from the fork server."""


def main() -> None:
    """Load the verifier and fork workers until the parent goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with(int(sys.argv[1]))
    control = _claim_control()
    payload = control.recv(MAX_MESSAGE_BYTES)
    if not payload:
        return
    setup = json.loads(payload)
    module, _, function = setup["verifier"].partition(":")
    verifier = getattr(importlib.import_module(module), function)(setup["settings"])
    # Loaded objects are shared with the workers until a process writes to them.
    gc.freeze()
    _send(control, {"ready": True})
    _fork_on_demand(control, verifier, memory_mb=setup["memory_mb"])


def _fork_on_demand(control: socket.socket, verifier: GradeFn, *, memory_mb: int) -> None:
    workers: set[int] = set()
    woken, waker = socket.socketpair()
    for end in (woken, waker):
        end.setblocking(False)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    selector.register(woken, selectors.EVENT_READ)
    while True:
        ready = {key.fileobj for key, _ in selector.select()}
        if woken in ready:
            woken.recv(4096)
            _report_ended(control, workers)
        if control not in ready:
            continue
        payload, sockets, _, _ = socket.recv_fds(control, MAX_MESSAGE_BYTES, 1)
        if not payload:
            for worker in workers:
                _kill_group(worker)
            return
        message = json.loads(payload)
        if "kill" in message and message["kill"] in workers:
            _kill_group(message["kill"])
        if "start" not in message:
            continue
        (number,) = sockets
        server_pid = os.getpid()
        worker = os.fork()
        if worker == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setpgid(0, 0)
            die_with(server_pid)
            selector.close()
            for end in (control, woken, waker):
                end.close()
            serve(socket.socket(fileno=number), verifier, memory_mb=memory_mb)
            sys.exit()
        os.close(number)
        # Parent and child both set the group, so that it is set whichever runs first; the worker
        # may also have ended already.
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(worker, worker)
        workers.add(worker)
        _send(control, {"started": message["start"], "pid": worker})


def _report_ended(control: socket.socket, workers: set[int]) -> None:
    # WNOWAIT: until a worker is reaped, its process and group numbers cannot be given away.
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while workers and (ended := os.waitid(os.P_ALL, 0, options)) is not None:
        _kill_group(ended.si_pid)  # children that the verifier started outlive it
        _, status = os.waitpid(ended.si_pid, 0)
        if ended.si_pid in workers:
            workers.discard(ended.si_pid)
            code = os.waitstatus_to_exitcode(status)
            _send(control, {"ended": ended.si_pid, "code": code})


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # the group is empty
        os.killpg(pid, signal.SIGKILL)


def _claim_control() -> socket.socket:
    """Move the socket off stdin: a verifier that reads stdin or prints must not reach it."""
    control = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return control


def _send(control: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(ConnectionError):  # the parent is gone; the next recv says so
        control.sendall(json.dumps(message).encode())


if __name__ == "__main__":
    main()
