"""Head node's HTTP server in preflight: tells the time, and connects back to each node."""

import contextlib
import socket
import struct
import threading
import time
from typing import Self

_TIMEOUT_S = 20.0
_CALL_S = 5.0
_DOUBLE = struct.Struct(">d")


class HeadServer:
    """HTTP server that tells nodes the time, and connects back to those that ask for it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("", 0), backlog=1024)
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, name="head", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone does not wake a thread that waits in accept.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(timeout=_TIMEOUT_S)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                caller, _ = self._listener.accept()
                # A name that leads nowhere takes seconds, which are not the next caller's.
                threading.Thread(target=_answer, args=(caller,), daemon=True).start()


def _answer(caller: socket.socket) -> None:
    with caller, contextlib.suppress(OSError):
        caller.sendall(_DOUBLE.pack(time.time()))
        caller.settimeout(_TIMEOUT_S)
        words = caller.makefile().readline().split()
        if words:
            caller.sendall(_call(words[0], int(words[1])).encode())


def _call(name: str, port: int) -> str:
    """Return why a node cannot be reached by its name, nothing if it can."""
    try:
        socket.create_connection((name, port), timeout=_CALL_S).close()
    except OSError as error:
        return str(error)
    return ""


def ask_head(address: str, *, listens_as: str | None, problems: list[str]) -> float:
    """Return how far this clock is ahead of the head node's, in seconds.

    Args:
        address: HOST:PORT of the :class:`HeadServer`.
        listens_as: name under which other nodes are to reach servers of this one; None for none.
        problems: a line is added for each thing that is wrong.
    """
    with contextlib.ExitStack() as stack:
        where = ""
        if listens_as is not None:
            try:
                listener = stack.enter_context(socket.create_server((listens_as, 0)))
            except OSError as error:
                problems.append(
                    f"its own name {listens_as} is not this node's address ({error.strerror}); "
                    "correct that name in DNS or /etc/hosts"
                )
            else:
                where = f"{listens_as} {listener.getsockname()[1]}"
        return _ask(address, where, problems)


def _ask(address: str, where: str, problems: list[str]) -> float:
    host, _, port = address.rpartition(":")
    try:
        sent = time.time()
        with socket.create_connection((host, int(port)), _TIMEOUT_S) as head:
            (there,) = _DOUBLE.unpack(head.recv(_DOUBLE.size, socket.MSG_WAITALL))
            skew = (sent + time.time()) / 2 - float(there)
            head.sendall(f"{where}\n".encode())
            complaint = head.makefile().read()
    except socket.gaierror:
        problems.append(f"the name {host} means nothing here; add it to DNS or /etc/hosts")
        return 0.0
    except OSError as error:
        problems.append(f"{host} cannot be reached ({error}); open the ports between nodes")
        return 0.0
    if complaint:
        problems.append(
            f"{host} cannot reach it as {where.split()[0]} ({complaint}); correct that name in DNS "
            "or /etc/hosts, or open the ports between nodes"
        )
    return skew


def own_name(problems: list[str]) -> str | None:
    """Return this node's name if other nodes can reach it so; else note a problem."""
    name = socket.gethostname()
    try:
        address = str(socket.getaddrinfo(name, None)[0][4][0])
    except socket.gaierror:
        problems.append(f"its own name {name} means nothing here; add it to DNS or /etc/hosts")
        return None
    if address.startswith("127.") or address == "::1":
        problems.append(
            f"its own name {name} is {address} here, where other nodes cannot reach it; take the "
            "name out of that line of /etc/hosts"
        )
        return None
    return name
