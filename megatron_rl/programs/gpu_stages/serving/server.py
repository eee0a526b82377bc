"""Server of the stages that need one, and the learner and publisher that they bring."""

import contextlib
import faulthandler
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from megatron_rl.config import RunConfig, read_resolved, resolve
from megatron_rl.programs.gpu_stages.shapes import write_model
from megatron_rl.programs.gpu_stages.sizes import Sizes, sizes_of
from megatron_rl.programs.stage_runs.result import Outcome
from megatron_rl.programs.stage_runs.servers import gpus_beside_learner
from megatron_rl.programs.stage_runs.stage import Place
from megatron_rl.run_dir import RunDir

EAGER, GRAPHS = "without CUDA graphs", "with CUDA graphs"
"""Names of the servers; a rehearsal has one for both."""
DTYPE = "bfloat16"
TEMPERATURE = 0.7


def keep(place: Place) -> Outcome:
    """Serve the policy, registered in ``server_dir``, until this process is ended."""
    from megatron_rl.programs.builders.server import run_local_server

    faulthandler.unregister(signal.SIGTERM)  # it is the usual end here
    sizes = sizes_of(place)
    assert place.server_dir is not None
    model = write_model(
        place.shared / "policy",
        sizes.policy.config(max_positions=sizes.context_length),
        dtype=DTYPE,
        seed=0,
    )
    config = _config(place, sizes, model, place.server_dir)
    with _ended_by_sigterm(), run_local_server(config, starts_without_weights=False):
        signal.pause()
    return Outcome()


def _config(place: Place, sizes: Sizes, model: Path, run_dir: Path) -> RunConfig:
    """Return the settings of server, learner and publisher."""
    flags: dict[str, Any] = {
        "max-total-tokens": sizes.cache_tokens,
        "max-running-requests": max(sizes.in_flight, sizes.num_sequences),
    }
    if place.is_rehearsal or place.server == EAGER:
        flags["disable-cuda-graph"] = True
    return resolve(
        {
            "run_dir": run_dir,
            "num_steps": 1_000_000,
            "model": {"path": model, "dtype": DTYPE},
            "data": {"train": model / "none"},
            "generators": {
                "python": place.serving_python,
                "context_length": sizes.context_length,
                "sampling": {
                    "temperature": TEMPERATURE,
                    "max_new_tokens": sizes.context_length - 1,
                },
                "sglang": flags,
            },
            "learner": {
                "token_budget": max(2048, sizes.context_length),
                "optimizer": {"lr": 2e-4, "warmup_steps": 0},
            },
            # NCCL does not connect a learner and a server that share a GPU.
            "weights": {"backend": "gloo" if gpus_beside_learner(place).are_shared else "auto"},
        }
    )


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Leave the body at SIGTERM in the ordinary way, so that the server is ended as well."""

    def leave(*_: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, leave)
    yield


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """A learner of the served policy, and the publisher to its server."""

    config: RunConfig
    run_dir: RunDir
    learner: Any
    publisher: Any
    device: str


@contextlib.contextmanager
def learner_of_server(
    place: Place, *, total_steps: int, weights: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Served]:
    """Open the learner with the weights that the server has read from the folder.

    Args:
        place: of the stage.
        total_steps: of the learner's schedule.
        weights: settings of [weights] instead of those of the server's run.
    """
    from megatron_rl.learner.device.parallel import shut_down_parallel
    from megatron_rl.programs.builders.learner import open_learner
    from megatron_rl.programs.builders.publisher import open_publisher

    config = server_config(place)
    changed = config.weights.model_copy(update=dict(weights))
    config = config.model_copy(update={"weights": changed})
    learner, parallel, platform = open_learner(
        config,
        config.learner.optimizer,
        objective=None,
        pretrained=config.model.path,
        temperature=TEMPERATURE,
        total_steps=total_steps,
    )
    with contextlib.ExitStack() as stack:
        stack.callback(shut_down_parallel)
        publisher = open_publisher(config, platform, learner, parallel)
        stack.callback(publisher.close)
        yield Served(
            config=config,
            run_dir=RunDir(config.run_dir),
            learner=learner,
            publisher=publisher,
            device=str(platform.device),
        )


def server_config(place: Place) -> RunConfig:
    """Return the configuration of the stage's server."""
    assert place.server_dir is not None
    return read_resolved(RunDir(place.server_dir).config)


def backend_note(config: RunConfig, place: Place) -> str:
    """Say by which way weights go."""
    if place.is_rehearsal:
        return "CPU twin: the broadcast goes over gloo"
    if config.weights.backend == "gloo":
        return "learner and server share the one GPU, so the broadcast goes over gloo, not NCCL"
    return "the broadcast goes over NCCL, between two GPUs"
