"""Served policy of a program without a learner: the run's own servers, or one started for it.

The servers of the run folder are asked: those that have the learner's current weights, or, without
a learner, those that serve the weights of a folder. When a model is named, or there is no such
server, one is started, in a run folder of its own.
"""

import contextlib
import logging
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from megatron_rl.config import RunConfig
from megatron_rl.errors import WeightSyncError
from megatron_rl.generation.router import Admit
from megatron_rl.programs.builders.inference import InferenceClients, open_inference
from megatron_rl.programs.builders.server import run_local_server
from megatron_rl.registry import (
    ServerInfo,
    routable_servers,
    standalone_servers,
)
from megatron_rl.run_dir import RunDir
from megatron_rl.weight_sync.admin import ServerAdmin

_LOG = logging.getLogger(__name__)
_ANSWER_S = 10.0
_ACKNOWLEDGED: Admit = "acknowledged"
_STANDALONE: Admit = "standalone"


class ServedPolicy:
    """What is to be asked. Nothing is started before ``served`` is entered."""

    def __init__(self, config: RunConfig, model: Path | None) -> None:
        """Look for servers of the run, unless ``model`` names a Hugging Face folder to serve."""
        self._admit = None if model is not None else answering(RunDir(config.run_dir))
        if self._admit is None:
            model = _trained_model(config) if model is None else model
            config = _with_model(config, model)
        self.config = config
        """The run's configuration, with the model that is asked."""

    @contextlib.contextmanager
    def served(self) -> Iterator["OpenPolicy"]:
        """Run a server of our own where one is needed, and end it on the way out.

        Raises:
            ProgramError: it did not start; carries its last log lines.
        """
        if self._admit is not None:
            yield OpenPolicy(self.config, self._admit)
            return
        with tempfile.TemporaryDirectory(prefix="megatron-rl-served-") as folder:
            config = self.config.model_copy(update={"run_dir": Path(folder)})
            with run_local_server(config, starts_without_weights=False):
                yield OpenPolicy(config, _STANDALONE)


class OpenPolicy:
    """A policy whose servers run."""

    def __init__(self, config: RunConfig, admit: Admit) -> None:
        self.config = config
        self._admit = admit

    @contextlib.asynccontextmanager
    async def open_inference(self, tokenizer: Any) -> AsyncIterator[InferenceClients]:
        """Open router and judge."""
        async with open_inference(self.config, tokenizer, admit=self._admit) as clients:
            yield clients


def answering(run_dir: RunDir) -> Admit | None:
    """Return which servers of a run can be asked, None when there are none.

    A job that was killed leaves some that do not answer. One that waits for a learner's weights
    answers, but what it has is no policy.
    """
    for admit, servers in (
        (_ACKNOWLEDGED, routable_servers(run_dir)),
        (_STANDALONE, standalone_servers(run_dir)),
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


def _trained_model(config: RunConfig) -> Path:
    """Return what the run has made, or what it starts from."""
    trained = RunDir(config.run_dir).hf
    return trained if (trained / "config.json").exists() else config.model.path


def _with_model(config: RunConfig, folder: Path) -> RunConfig:
    """Return the configuration of a run that serves ``folder`` as it is."""
    model = config.model.model_copy(update={"path": folder.absolute(), "init": "pretrained"})
    return config.model_copy(update={"model": model, "sft": None})
