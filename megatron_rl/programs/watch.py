"""``megatron-rl watch RUN_DIR``: the report of a run, live in a browser, read-only.

It may be started before the run, beside it or after it, on any machine that sees the run folder.
"""

import argparse
import asyncio
import functools
import logging
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiohttp import web
from tokenizers import Tokenizer

from megatron_rl.config import read_resolved
from megatron_rl.errors import ConfigError, DataError
from megatron_rl.programs.builders.judge import KEY_VARIABLE
from megatron_rl.programs.builders.prompts import load_tokenizer
from megatron_rl.programs.processes.asyncio_signals import run_until_signal
from megatron_rl.programs.processes.ports import is_loopback
from megatron_rl.report.completion_views import Decode
from megatron_rl.report.hang.forensics import examine, forensics_text
from megatron_rl.report.live.logs import log_sizes, tail
from megatron_rl.report.live.samples import RecordedSamples
from megatron_rl.report.live.server import LiveServer
from megatron_rl.run_dir import RunDir

_LOG = logging.getLogger(__name__)
_LEAST_KEY_LENGTH = 16
_SHUTDOWN_S = 1.0


def main(config: None, options: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C, and return the exit code; or print the stacks and return 0.

    Args:
        config: none; what is needed of the run's is read when it is there.
        options: ``run_dir``, ``port``, ``host``, ``key_file`` and ``stacks``, see the command line.

    Raises:
        ConfigError: address, port or key cannot be used.
        DataError: there is no such folder, nor one that it could appear in.
    """
    run_dir = RunDir(options.run_dir.absolute())
    if options.stacks:
        print(forensics_text(examine(run_dir.root, _learner_lines(run_dir))))
        return 0
    if not run_dir.root.parent.is_dir():
        raise DataError(f"{run_dir.root}: there is no such folder; name the run_dir of a run")
    key = _read_key(options.key_file)
    if not is_loopback(options.host) and options.key_file is None:
        raise ConfigError(
            f"--host {options.host}: other machines could reach this page, so give it a key of "
            "your own with --key-file FILE; or leave --host away and use ssh -L"
        )
    return run_until_signal(_serve(run_dir, host=options.host, port=options.port, key=key))


async def _serve(run_dir: RunDir, *, host: str, port: int, key: str) -> None:
    server = LiveServer(
        run_dir,
        RecordedSamples(run_dir, _decoder(run_dir)),
        key=key,
        hidden_texts=functools.partial(_judge_keys, run_dir),
    )
    runner = web.AppRunner(server.make_app(), access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"--host {host} --port {port}: {error}; name another port, or 0 for any free one"
            ) from error
        bound = runner.addresses[0][1]
        # Printed, not logged: what is logged may be kept where others read it.
        print(f"http://{_in_address(host)}:{bound}/?key={key}", flush=True)
        print(
            f"from another machine: ssh -N -L {bound}:127.0.0.1:{bound} {os.uname().nodename}, "
            "then open the same address; Ctrl-C ends it",
            flush=True,
        )
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def _in_address(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _read_key(path: Path | None) -> str:
    """Return the key in a file, a random one without a file."""
    if path is None:
        return secrets.token_urlsafe(24)
    try:
        key = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--key-file {path} cannot be read: {error}") from error
    if len(key) < _LEAST_KEY_LENGTH or not set(key) <= _of_addresses():
        raise ConfigError(
            f"--key-file {path} must hold {_LEAST_KEY_LENGTH} or more letters, digits, - and _: "
            "they become part of an address"
        )
    return key


def _of_addresses() -> set[str]:
    return set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


def _decoder(run_dir: RunDir) -> Decode:
    """Return a decoder that loads the run's tokenizer when it is first needed."""
    # Several threads ask at once, and transformers cannot be imported by two of them.
    lock = threading.Lock()

    @functools.cache
    def tokenizer() -> Any:
        folder = read_resolved(run_dir.config).model.path
        path = folder / "tokenizer.json"
        # Without transformers it takes no time and little memory, as a login node likes it.
        return Tokenizer.from_file(str(path)) if path.exists() else load_tokenizer(folder)

    def decode(token_ids: list[int]) -> str:
        with lock:
            return str(tokenizer().decode(token_ids, skip_special_tokens=False))

    return decode


def _judge_keys(run_dir: RunDir) -> Iterator[str]:
    """Yield the keys of judges on other machines, which no log may show."""
    if os.environ.get(KEY_VARIABLE):
        yield os.environ[KEY_VARIABLE]
    try:
        path = read_resolved(run_dir.config).judge.key_file
        if path is not None and (key := path.read_text().strip()):
            yield key
    except (ConfigError, OSError, UnicodeDecodeError):  # not started yet, or not ours to read
        return


def _learner_lines(run_dir: RunDir) -> Iterator[str]:
    for name in log_sizes(run_dir.logs):
        if Path(name).name.startswith(("learn", "sft")):
            yield from tail(run_dir.logs / name, secrets=_judge_keys(run_dir)).splitlines()
