"""Sandbox description for people: the backend and the Python of this machine."""

from megatron_rl.sandbox.client import open_sandbox


def describe_sandbox() -> str:
    """Return the backend that contains untrusted code on this machine, and its Python.

    Raises:
        SandboxUnavailable: no backend works; says why.
    """
    with open_sandbox("auto") as sandbox:
        user = "" if sandbox.uid is None else ", as a user of its own"
        return f"{sandbox.backend}, Python {sandbox.python.path}{user}"
