"""TCP ports of this machine: which are free, and who can reach them."""

import contextlib
import errno
import ipaddress
import random
import socket
from pathlib import Path

from megatron_rl.errors import ConfigError

_HIGHEST_PORT = 65535
_LOWEST_PORT = 16_384
_TRIES = 64
_CONNECTIONS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_USUAL_FIRST = 32_768


def free_port(host: str = "127.0.0.1", port: int = 0) -> int:
    """Return ``port`` if it can be bound, or any free port when it is 0.

    Args:
        host: as generators.host, or "" for all addresses of this machine.
        port: as generators.port; of a server, its index is added.

    Raises:
        ConfigError: the port is taken, or the host is not an address of this machine.
    """
    if port > _HIGHEST_PORT:
        raise ConfigError(f"generators.port + server index is {port}; the highest is 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        # As the server does: a connection of its predecessor in TIME_WAIT is no obstacle.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen()
        except OSError as error:
            raise ConfigError(_explain_bind(error, host, port)) from error
        return int(listener.getsockname()[1])


def rendezvous_port(host: str = "127.0.0.1") -> int:
    """Return a free port at which ranks that start later will meet.

    It is below those that the kernel gives to connections: one of these may take any port of its
    range between now and then.
    """
    ports = range(_LOWEST_PORT, max(_LOWEST_PORT, _first_of_connections()))
    for port in random.SystemRandom().sample(ports, k=min(_TRIES, len(ports))):
        with contextlib.suppress(ConfigError):
            return free_port(host, port)
    return free_port(host)


def _first_of_connections() -> int:
    try:
        return int(_CONNECTIONS.read_text().split()[0])
    except (OSError, ValueError, IndexError):  # not Linux, or hidden
        return _USUAL_FIRST


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may mean any interface
        return False


def _explain_bind(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"generators.port: {port} is already in use on {host}; set another one, or 0 to let "
            "every server pick a free one"
        )
    if error.errno == errno.EACCES:
        return f"generators.port: {port} needs privileges; set one above 1023, or 0"
    return (
        f"generators.host ({host!r}) is not an address of this machine ({error.strerror}); set "
        "127.0.0.1 for servers used from this machine only, 0.0.0.0 for all interfaces"
    )
