"""The in-flight weight update by shards, beside whole tensors and a bare transfer.

    python benchmarks/shard_update.py [--quick]

For models of several sizes, against one real server of one and of two ranks: total and
pause-to-continue time of a publication by shards and by whole tensors, taking turns, and of a bare
gloo broadcast of the same bytes between two processes that do nothing else, before and after them.
Medians of one run, in ms. "in" is what the busiest rank of the server receives, in MB, and "extra"
the most memory, in MB, that it holds during a publication beyond what it held before.
"""

import contextlib
import multiprocessing
import statistics
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from bare_broadcast import broadcast_s
from policies import Shape, run_config, write_model
from safetensors.torch import save_file
from table import parser_of, show_and_keep
from torch import Tensor
from weight_update import MIB, SHAPES, TIMEOUT_S, make_weights

from megatron_rl.conversion.families import model_spec, weight_rules
from megatron_rl.conversion.layouts import to_megatron
from megatron_rl.conversion.resharding import DType, LearnerMap, Place
from megatron_rl.learner.device.platform import CpuPlatform
from megatron_rl.model_spec import ModelSpec
from megatron_rl.programs.builders.server import run_local_server
from megatron_rl.protocols import PublishReport
from megatron_rl.run_dir import RunDir
from megatron_rl.weight_sync.collective import CollectivePublisher
from megatron_rl.weight_sync.shards.opening import open_shards
from megatron_rl.weight_sync.shards.publisher import ShardPublisher

BUCKET_BYTES = 128 * MIB


class HeldWeights:
    """A learner's shards without a learner: of one rank, in Megatron's layout."""

    def __init__(self, spec: ModelSpec, weights: dict[str, Tensor]) -> None:
        rules = list(weight_rules(spec))
        self.spec = spec
        self.dtypes = {name: DType(name="float32", itemsize=4) for name in weights}
        self.places = LearnerMap(
            places=[Place(stage=0, tp_rank=0, ep_rank=0, etp_rank=0)],
            stages={rule.megatron: 0 for rule in rules},
            tp=1,
            etp=1,
            experts_per_rank=0,
        )
        self._weights = weights
        self._parameters = {
            rule.megatron: to_megatron(
                rule.layout,
                [weights[name] for name in rule.huggingface],
                num_groups=spec.num_groups,
                head_dim=spec.head_dim,
                interleaved_dim=spec.interleaved_dim,
                tp_size=1,
            )
            for rule in rules
        }

    def settle(self) -> None:
        """Do nothing: no other rank updates anything."""

    def parameter(self, name: str) -> Tensor:
        """Return a parameter."""
        return self._parameters[name]

    def whole(self, names: frozenset[str] | None) -> Iterator[tuple[str, Tensor]]:
        """Yield whole tensors."""
        return ((n, w) for n, w in self._weights.items() if names is None or n in names)


def measure(
    name: str, shape: Shape, scratch: Path, *, tp: int, rounds: int
) -> Iterator[dict[str, Any]]:
    """Yield the row of one size and server."""
    model = write_model(scratch / "model", shape)
    weights = make_weights(shape)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    config = run_config(scratch / "run", model, in_flight=8, init="pretrained")
    config = config.model_copy(
        update={"generators": config.generators.model_copy(update={"tp": tp})}
    )
    with run_local_server(config, starts_without_weights=False):
        bare = [_bare(weights, rounds=rounds)]
        with _publishers(config.run_dir, shape, weights) as (shards, whole):
            assert isinstance(shards, ShardPublisher)
            shards.publish(version=0)  # by whole tensors, and the proof
            by_shards, by_tensors, extra = [], [], []
            for version in range(1, 2 * rounds + 1, 2):
                with _peak_extra(extra):
                    by_shards.append(shards.publish(version=version))
                by_tensors.append(whole.publish(iter(weights.items()), version=version + 1))
            shards.close()
            whole.close()
        bare.append(_bare(weights, rounds=rounds))
    assert all(report.num_sharded == 1 for report in by_shards), "the server refused shards"
    num_bytes, raw = by_shards[-1].num_bytes, statistics.median(bare)
    ours, theirs = _ms(by_shards, "seconds"), _ms(by_tensors, "seconds")
    yield {
        "model": name,
        "MB": num_bytes / 1e6,
        "tp": tp,
        "shards": ours,
        "paused": _ms(by_shards, "pause_s"),
        "whole": theirs,
        "its pause": _ms(by_tensors, "pause_s"),
        "bare": 1e3 * raw,
        "ratio": ours / (1e3 * raw),
        "its ratio": theirs / (1e3 * raw),
        "in": by_shards[-1].received_bytes / 1e6,
        "whole in": by_tensors[-1].received_bytes / 1e6,
        "extra": max(extra) / 1e6,
    }


@contextlib.contextmanager
def _publishers(run_dir: Path, shape: Shape, weights: dict[str, Tensor]) -> Iterator[Any]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    settings: dict[str, Any] = {
        "backend": "gloo",
        "device": CpuPlatform(num_threads=1),
        "timeout_s": TIMEOUT_S,
        "bucket_bytes": BUCKET_BYTES,
        "retry_after_s": TIMEOUT_S,
    }
    source = HeldWeights(model_spec(shape.config()), weights)
    verify: Literal["admission"] = "admission"
    yield (
        open_shards(RunDir(run_dir), source, verify=verify, passes_on=True, **settings),
        CollectivePublisher(RunDir(run_dir), **settings),
    )
    dist.destroy_process_group()


def _bare(weights: dict[str, Tensor], *, rounds: int) -> float:
    """Return the seconds of a bare broadcast, in processes of their own."""
    shapes = [tuple(weight.shape) for weight in weights.values()]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_broadcast, shapes, rounds).result()


def _broadcast(shapes: list[tuple[int, ...]], rounds: int) -> float:
    torch.set_num_threads(1)
    tensors = [torch.full(shape, 0.01) for shape in shapes]
    return broadcast_s(tensors, bucket_bytes=None, rounds=rounds)


@contextlib.contextmanager
def _peak_extra(found: list[int]) -> Iterator[None]:
    """Note the most memory that a rank of the server held beyond what it had."""
    ranks = [path for path in Path("/proc").glob("[0-9]*") if _is_scheduler(path)]
    before = {}
    for path in ranks:
        (path / "clear_refs").write_text("5")  # forget the highest resident size
        before[path] = _resident(path, "VmRSS")
    yield
    found.append(max(_resident(path, "VmHWM") - before[path] for path in ranks))


def _is_scheduler(path: Path) -> bool:
    try:
        return (path / "cmdline").read_bytes().startswith(b"sglang::scheduler")
    except OSError:
        return False


def _resident(path: Path, field: str) -> int:
    lines = (path / "status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def _ms(reports: list[PublishReport], field: str) -> float:
    return 1e3 * statistics.median(getattr(report, field) for report in reports)


def main() -> None:
    """Measure every size."""
    options = parser_of(__doc__).parse_args()
    torch.set_num_threads(1)
    shapes = dict(list(SHAPES.items())[: 1 if options.quick else None])
    rounds = 3 if options.quick else 9
    rows = []
    for name, shape in shapes.items():
        for tp in (1, 2):
            with tempfile.TemporaryDirectory() as scratch:
                rows.extend(measure(name, shape, Path(scratch), tp=tp, rounds=rounds))
    title = "Weight update of one server by shards and by whole tensors, medians in ms"
    show_and_keep("shard_update", title, rows, output=options.output)


if __name__ == "__main__":
    main()
