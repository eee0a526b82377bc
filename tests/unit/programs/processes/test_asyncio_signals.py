import asyncio
import os
import signal

import pytest

from megatron_rl.programs.processes.asyncio_signals import run_until_signal


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_cancels_the_program_which_cleans_up(number: int, code: int):
    cleaned = []

    async def program() -> None:
        asyncio.get_running_loop().call_later(0.01, os.kill, os.getpid(), number)
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.append(True)

    assert run_until_signal(program()) == code
    assert cleaned == [True]


def test_a_program_that_ends_returns_0_and_its_errors_pass():
    async def program() -> None:
        await asyncio.sleep(0)

    async def broken() -> None:
        raise KeyError("ours")

    assert run_until_signal(program()) == 0
    with pytest.raises(KeyError, match="ours"):
        run_until_signal(broken())
