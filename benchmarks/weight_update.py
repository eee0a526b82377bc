"""The in-flight weight update beside a bare broadcast of the same bytes.

    python benchmarks/weight_update.py [--quick]

For models of several sizes, against one real server: total and pause-to-continue time of the
collective publication, as the learner does it; the same through a folder on disk; and the bound, a
gloo broadcast of the same tensors from this process to another one that does nothing else. Each is
the median over several publications in one run, after a first one that opens the group.
"""

import multiprocessing
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from policies import Shape, run_config, write_model
from safetensors.torch import save_file
from table import parser_of, show_and_keep
from torch import Tensor

from megatron_rl.conversion.families import model_spec, weight_rules
from megatron_rl.programs.local_server import serving
from megatron_rl.protocols import PublishReport
from megatron_rl.run_dir import RunDir
from megatron_rl.weight_sync.collective import CollectivePublisher
from megatron_rl.weight_sync.disk import DiskPublisher

SHAPES = {
    "2 M": Shape(num_layers=2, hidden_size=256, vocab_size=512),
    "32 M": Shape(num_layers=4, hidden_size=768, vocab_size=4096),
    "124 M": Shape(num_layers=6, hidden_size=1152, vocab_size=16384),
}
TIMEOUT_S = 120.0
BUCKET_BYTES = 512 * 2**20


def make_weights(shape: Shape) -> dict[str, Tensor]:
    """Make up float32 weights under Hugging Face names."""
    config = shape.config()
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    shapes = {
        "embed_tokens": (config["vocab_size"], hidden),
        "gate_proj": (ffn, hidden),
        "up_proj": (ffn, hidden),
        "down_proj": (hidden, ffn),
        "q_norm": (config["head_dim"],),
        "k_norm": (config["head_dim"],),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
        "norm": (hidden,),
    }
    names = [name for rule in weight_rules(model_spec(config)) for name in rule.huggingface]
    # The four projections of attention are square here.
    return {
        name: torch.full(shapes.get(name.split(".")[-2], (hidden, hidden)), 0.01) for name in names
    }


def raw_broadcast_s(weights: dict[str, Tensor], *, rounds: int) -> float:
    """Return the median seconds in which gloo takes the tensors to another process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shapes = [tuple(w.shape) for w in weights.values()]
    receiver = multiprocessing.get_context("spawn").Process(
        target=_receive, args=(port, shapes, rounds), daemon=True
    )
    receiver.start()
    store = dist.TCPStore("127.0.0.1", port, 2, is_master=True)
    dist.init_process_group("gloo", store=store, rank=0, world_size=2)
    seconds = []
    for _ in range(rounds):
        dist.barrier()
        started = time.perf_counter()
        _broadcast(list(weights.values()))
        dist.barrier()  # the receiver has it all
        seconds.append(time.perf_counter() - started)
    dist.destroy_process_group()
    receiver.join()
    return statistics.median(seconds)


def _receive(port: int, shapes: list[tuple[int, ...]], rounds: int) -> None:
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, 2, is_master=False)
    dist.init_process_group("gloo", store=store, rank=1, world_size=2)
    tensors = [torch.zeros(shape) for shape in shapes]
    for _ in range(rounds):
        dist.barrier()
        _broadcast(tensors)
        dist.barrier()
    dist.destroy_process_group()


def _broadcast(tensors: list[Tensor]) -> None:
    for work in [dist.broadcast(tensor, src=0, async_op=True) for tensor in tensors]:
        work.wait()


def publications(
    publisher: Any, weights: dict[str, Tensor], *, rounds: int
) -> Iterator[PublishReport]:
    """Publish again and again; the first time, which opens the group, is left out."""
    for version in range(rounds + 1):
        report = publisher.publish(iter(weights.items()), version=version)
        assert report.num_servers == 1, "the server did not take the weights"
        if version:
            yield report
    publisher.close()


def measure(name: str, shape: Shape, scratch: Path, *, rounds: int) -> dict[str, Any]:
    """Return one row of the table."""
    model = write_model(scratch / "model", shape)
    weights = make_weights(shape)
    # On placeholder weights the server would refuse to load a folder later.
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    config = run_config(scratch / "run", model, in_flight=8, init="pretrained")
    run_dir = RunDir(config.run_dir)
    with serving(config, awaits_weights=False):
        collective = CollectivePublisher(
            run_dir,
            backend="gloo",
            device=torch.device("cpu"),
            timeout_s=TIMEOUT_S,
            bucket_bytes=BUCKET_BYTES,
        )
        ours = list(publications(collective, weights, rounds=rounds))
        raw = raw_broadcast_s(weights, rounds=rounds)  # the server is idle meanwhile
        disk = DiskPublisher(
            run_dir, model_folder=model, timeout_s=TIMEOUT_S, bucket_bytes=BUCKET_BYTES
        )
        slow = list(publications(disk, weights, rounds=rounds))
    total = statistics.median(report.seconds for report in ours)
    return {
        "model": name,
        "MB": sum(w.nbytes for w in weights.values()) / 1e6,
        "collective ms": 1e3 * total,
        "pause ms": 1e3 * statistics.median(report.pause_s for report in ours),
        "bare gloo ms": 1e3 * raw,
        "over bare": total / raw,
        "disk ms": 1e3 * statistics.median(report.seconds for report in slow),
        "disk pause ms": 1e3 * statistics.median(report.pause_s for report in slow),
    }


def main() -> None:
    """Measure every size."""
    options = parser_of(__doc__).parse_args()
    torch.set_num_threads(1)
    shapes = dict(list(SHAPES.items())[: 1 if options.quick else None])
    rounds = 2 if options.quick else 5
    rows = []
    for name, shape in shapes.items():
        with tempfile.TemporaryDirectory() as scratch:
            rows.append(measure(name, shape, Path(scratch), rounds=rounds))
    title = "Weight update of one server, medians"
    show_and_keep("weight_update", title, rows, output=options.output)


if __name__ == "__main__":
    main()
