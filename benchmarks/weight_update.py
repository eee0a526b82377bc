"""The in-flight weight update beside a bare broadcast of the same bytes.

    python benchmarks/weight_update.py [--quick]

For models of several sizes, against one real server: total and pause-to-continue time of the
collective publication, as the learner does it; the same through a folder on disk; and two bounds. A
bare gloo broadcast takes the same tensors from this process to another one that does nothing else.
"copied" is the same where the receiver does what a stock SGLang server must do besides: receive
each bucket into new memory and, when it is there, copy it to where its parameters are. Each is the
median over several publications in one run, after a first one that opens the group. "MiB" is the
size of a bucket.
"""

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from bare_broadcast import broadcast_s
from policies import Shape, run_config, write_model
from safetensors.torch import save_file
from table import parser_of, show_and_keep
from torch import Tensor

from megatron_rl.conversion.families import model_spec
from megatron_rl.conversion.families.shapes import tensor_shapes
from megatron_rl.learner.device.platform import CpuPlatform
from megatron_rl.programs.builders.server import run_local_server
from megatron_rl.protocols import PublishReport
from megatron_rl.run_dir import RunDir
from megatron_rl.weight_sync.collective import CollectivePublisher
from megatron_rl.weight_sync.disk import DiskPublisher

SHAPES = {
    "2 M": Shape(num_layers=2, hidden_size=256, vocab_size=512),
    "32 M": Shape(num_layers=4, hidden_size=768, vocab_size=4096),
    "127 M": Shape(num_layers=6, hidden_size=1152, vocab_size=20480),
}
TIMEOUT_S = 120.0
MIB = 2**20
BUCKETS_MIB = (128, 512)
"""The first is the default of weights.bucket_mb; the second is measured where the first is smaller
than the model."""


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
    names = [name for name, _ in tensor_shapes(model_spec(config))]
    # The four projections of attention are square here.
    return {
        name: torch.full(shapes.get(name.split(".")[-2], (hidden, hidden)), 0.01) for name in names
    }


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


def measure(name: str, shape: Shape, scratch: Path, *, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of one size, one for each size of bucket."""
    model = write_model(scratch / "model", shape)
    weights = make_weights(shape)
    num_bytes = sum(w.nbytes for w in weights.values())
    # On placeholder weights the server would refuse to load a folder later.
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    config = run_config(scratch / "run", model, in_flight=8, init="pretrained")
    run_dir = RunDir(config.run_dir)
    with run_local_server(config, starts_without_weights=False):
        disk = DiskPublisher(
            run_dir,
            model_folder=model,
            timeout_s=TIMEOUT_S,
            bucket_bytes=BUCKETS_MIB[0] * MIB,
            retry_after_s=TIMEOUT_S,
        )
        slow = list(publications(disk, weights, rounds=rounds))
        for bucket_mib in BUCKETS_MIB:
            if bucket_mib != BUCKETS_MIB[0] and num_bytes < BUCKETS_MIB[0] * MIB:
                continue
            collective = CollectivePublisher(
                run_dir,
                backend="gloo",
                device=CpuPlatform(num_threads=1),
                timeout_s=TIMEOUT_S,
                bucket_bytes=bucket_mib * MIB,
                retry_after_s=TIMEOUT_S,
            )
            ours = list(publications(collective, weights, rounds=rounds))
            tensors = list(weights.values())  # the server is idle from here on
            raw = broadcast_s(tensors, bucket_bytes=None, rounds=rounds)
            copied = broadcast_s(tensors, bucket_bytes=bucket_mib * MIB, rounds=rounds)
            total = statistics.median(report.seconds for report in ours)
            yield {
                "model": name,
                "MB": num_bytes / 1e6,
                "MiB": bucket_mib,
                "ms": 1e3 * total,
                "pause": 1e3 * statistics.median(report.pause_s for report in ours),
                "MB/s": num_bytes / 1e6 / total,
                "bare": 1e3 * raw,
                "its MB/s": num_bytes / 1e6 / raw,
                "ratio": total / raw,
                "copied": 1e3 * copied,
                "its ratio": total / copied,
                "disk": 1e3 * statistics.median(report.seconds for report in slow),
                "paused": 1e3 * statistics.median(report.pause_s for report in slow),
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
            rows.extend(measure(name, shape, Path(scratch), rounds=rounds))
    title = "Weight update of one server, medians in ms"
    show_and_keep("weight_update", title, rows, output=options.output)


if __name__ == "__main__":
    main()
