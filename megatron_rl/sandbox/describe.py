"""Sandbox description for people: the backend and the Python of this machine."""

from megatron_rl.sandbox.client import open_sandbox


def describe_sandbox() -> str:
    """Return which backend contains untrusted code here and with which Python.

    Raises:
        SandboxUnavailable: none does; says why.
    """
    with open_sandbox("auto") as sandbox:
        user = "" if sandbox.uid is None else ", as a user of its own"
        return f"{sandbox.backend}, Python {sandbox.python.path}{user}"
