"""``megatron-rl evaluate``: score a model on held-out problems and print the scores as JSON.

Without ``--model`` the servers of the run folder are asked: those that have the learner's current
weights, or, without a learner, those that serve the weights of a folder. With it, or when there is
no such server, one is started for the time of the evaluation, in a run folder of its own.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_rl.config import RunConfig
from megatron_rl.errors import ConfigError, ServerStartError, WeightSyncError
from megatron_rl.generation.router import Admit
from megatron_rl.programs.questions import Questions, load_run_questions, load_tokenizer
from megatron_rl.programs.rooms import POLL_S, evaluate_served_policy, open_rooms
from megatron_rl.programs.signals import run_until_signal
from megatron_rl.registry import (
    ServerInfo,
    registered_servers,
    routable_servers,
    unguided_servers,
)
from megatron_rl.run_dir import RunDir, write_json
from megatron_rl.weight_sync.admin import ServerAdmin

_LOG = logging.getLogger(__name__)
_STOP_TIMEOUT_S = 30.0
_ANSWER_S = 10.0
_ACKNOWLEDGED: Admit = "acknowledged"
_UNGUIDED: Admit = "unguided"


def main(config: RunConfig, options: argparse.Namespace) -> int:
    """Evaluate and return the exit code.

    Args:
        config: the run.
        options: ``problems``, ``num_samples`` and ``model``, see the command line.

    Raises:
        ConfigError: there is no problem file to evaluate on.
        DataError, ModelError: the problems or the model cannot be used.
        ServerStartError: the server did not become healthy.
    """
    path = config.data.evaluation if options.problems is None else options.problems
    if path is None:
        raise ConfigError("nothing to evaluate on: give --problems, or set data.evaluation")
    num_samples = options.num_samples
    if num_samples is None:
        num_samples = config.evaluation.num_samples
    admit = answering(RunDir(config.run_dir)) if options.model is None else None
    if admit is None:
        model = _trained_model(config) if options.model is None else options.model
        config = _with_model(config, model)
    tokenizer = load_tokenizer(config.model.path)
    questions = load_run_questions(config, path, tokenizer)
    if admit is not None:
        return run_until_signal(_evaluate(config, questions, tokenizer, num_samples, admit))
    with tempfile.TemporaryDirectory(prefix="megatron-rl-evaluate-") as folder:
        config = config.model_copy(update={"run_dir": Path(folder)})
        with _server(config) as server:
            return run_until_signal(
                _evaluate(config, questions, tokenizer, num_samples, "unguided", server)
            )


def answering(run_dir: RunDir) -> Admit | None:
    """Return which servers of a run can be asked, None when there are none.

    A job that was killed leaves some that do not answer. One that waits for a learner's weights
    answers, but what it has is no policy.
    """
    for admit, servers in (
        (_ACKNOWLEDGED, routable_servers(run_dir)),
        (_UNGUIDED, unguided_servers(run_dir)),
    ):
        answers = [_answers(name, info) for name, info in servers.items()]  # names all that do not
        if any(answers):
            return admit
    return None


def _answers(name: str, info: ServerInfo) -> bool:
    try:
        ServerAdmin(info).weight_version(timeout_s=_ANSWER_S)
    except WeightSyncError as error:
        _LOG.warning("%s is registered at %s, but: %s", name, info.url, error)
        return False
    return True


async def _evaluate(
    config: RunConfig,
    questions: Questions,
    tokenizer: Any,
    num_samples: int,
    admit: Admit,
    server: "subprocess.Popen[bytes] | None" = None,
) -> None:
    if server is not None:
        await _wait_until_registered(RunDir(config.run_dir), server)
    async with open_rooms(config, tokenizer, admit=admit) as rooms:
        result = await evaluate_served_policy(config, rooms, questions, num_samples=num_samples)
    print(json.dumps(result.record(), indent=1))


async def _wait_until_registered(run_dir: RunDir, server: "subprocess.Popen[bytes]") -> None:
    """Wait; `serve` itself gives up after generators.start_timeout_s."""
    while not registered_servers(run_dir):
        code = server.poll()
        if code is not None:
            raise ServerStartError(f"megatron-rl serve ended with exit code {code}; see above")
        await asyncio.sleep(POLL_S)


@contextlib.contextmanager
def _server(config: RunConfig) -> Iterator["subprocess.Popen[bytes]"]:
    """Run ``serve`` for ``config`` and stop it on the way out."""
    path = RunDir(config.run_dir).config
    write_json(path, config.model_dump(mode="json"))
    argv = [sys.executable, "-m", "megatron_rl", "serve", str(path)]
    # Ours is the standard output that people parse. The server gets its own session, so that
    # Ctrl-C reaches it through us, after our requests are cancelled.
    server = subprocess.Popen(argv, stdout=sys.stderr, start_new_session=True)
    try:
        yield server
    finally:
        server.terminate()
        try:
            server.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _trained_model(config: RunConfig) -> Path:
    """Return what the run has made, or what it starts from."""
    trained = RunDir(config.run_dir).hf
    return trained if (trained / "config.json").exists() else config.model.path


def _with_model(config: RunConfig, folder: Path) -> RunConfig:
    """Return the configuration of a run that serves ``folder`` as it is."""
    model = config.model.model_copy(update={"path": folder.absolute(), "init": "pretrained"})
    return config.model_copy(update={"model": model, "sft": None})
