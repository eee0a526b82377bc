"""``megatron-rl judge``: lend this machine's verifier processes to runs on other machines."""

import argparse
import asyncio
import logging

from aiohttp import web

from megatron_rl.code_judging import CodeLimits, prepare_code_judging
from megatron_rl.config import JudgingConfig
from megatron_rl.errors import ConfigError, VerifierError
from megatron_rl.judge.http_server import make_app
from megatron_rl.judge.worker_pool import PoolSettings, WorkerPool
from megatron_rl.programs.builders.judge import (
    KEY_VARIABLE,
    grading_fingerprint,
    pool_settings,
    read_key,
    verifier_settings,
    with_workers,
)
from megatron_rl.programs.processes.asyncio_signals import run_until_signal
from megatron_rl.programs.processes.ports import is_loopback

_LOG = logging.getLogger(__name__)


def main(config: JudgingConfig, options: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C, and return the exit code.

    Args:
        config: verifier processes, and the kinds of problems they judge.
        options: ``listen``, ``key_file``, ``workers`` and ``config``, see the command line.

    Raises:
        ConfigError: the address or the key cannot be used.
    """
    judge = with_workers(config.judge, options.workers, is_given=options.config is not None)
    if not judge.num_workers:
        raise ConfigError("judge.num_workers (0) must be >= 1 to lend workers; give --workers")
    host, port = parse_address(options.listen)
    key_file = config.judge.key_file if options.key_file is None else options.key_file
    key = read_key(key_file)
    if key is None and not is_loopback(host):
        raise ConfigError(
            f"--listen {options.listen}: other machines could use this judge, so it needs a key; "
            f"give --key-file FILE, or set {KEY_VARIABLE}"
        )
    settings = pool_settings(judge, verifier_settings(judge, config.reward))
    _try_code(settings)
    return run_until_signal(_serve(settings, host=host, port=port, key=key))


def parse_address(text: str) -> tuple[str, int]:
    """Split ``HOST:PORT``; a bare port is one of 127.0.0.1."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"--listen {text}: expected HOST:PORT, such as 127.0.0.1:8700")
    return host.strip("[]") or "127.0.0.1", int(port)


def _try_code(settings: PoolSettings) -> None:
    """Make what judging code needs; a machine that cannot may still judge everything else."""
    try:
        prepare_code_judging(CodeLimits(**settings.settings["code"]), needs_cpp=True)
    except VerifierError as error:
        _LOG.warning("code problems cannot be judged here: %s", error)


async def _serve(settings: PoolSettings, *, host: str, port: int, key: str | None) -> None:
    async with WorkerPool(settings) as pool:
        # A client that hangs up wants no verdict any more.
        runner = web.AppRunner(
            make_app(pool, grading_fingerprint=grading_fingerprint(settings.settings), key=key),
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=1.0,
        )
        await runner.setup()
        try:
            site = web.TCPSite(runner, host, port)
            try:
                await site.start()
            except OSError as error:
                raise ConfigError(f"--listen {host}:{port}: {error.strerror}") from error
            addresses = ", ".join(f"http://{a[0]}:{a[1]}" for a in runner.addresses)
            _LOG.info("judging with %d workers at %s", settings.num_workers, addresses)
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()
