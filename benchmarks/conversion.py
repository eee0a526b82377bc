"""Peak memory and time of the conversion tools, beside converting a whole model at once.

    python benchmarks/conversion.py [--quick]

A random bfloat16 model in safetensors files becomes a Megatron checkpoint and a Hugging Face folder
again. "streamed" is what the tools do; "whole" builds Megatron's model in memory and uses its own
checkpoint interface. Each measurement is a process of its own; memory is its peak beyond that of a
process which only imports the same code, beside the bytes of all weights and of the largest layer
(the embedding counts as one). The results of both ways are compared.
"""

import json
import math
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from table import parser_of, show_and_keep

_MIB = 2**20
_MEASURE = "--measure"
"""First argument of a process that is one measurement."""
_SHARD_BYTES = 500 * _MIB
_CONFIG: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 1536,
    "intermediate_size": 4096,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 32768,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
    "torch_dtype": "bfloat16",
}


def measure(way: str, direction: str, source: Path, target: Path) -> dict[str, float]:
    """Convert once in this process; return seconds, and MiB of its peak memory."""
    from megatron_rl.programs.processes.logs import start_logging

    start_logging()
    from megatron_rl.programs.offline import convert

    started = time.perf_counter()
    if (way, direction) == ("streamed", "to Megatron"):
        convert.huggingface_to_megatron(
            source, target, dtype=None, is_verified=False, cpu_threads=1
        )
    elif (way, direction) == ("streamed", "from Megatron"):
        convert.megatron_to_huggingface(
            source,
            target,
            model_folder=None,
            dtype=None,
            max_shard_bytes=_SHARD_BYTES,
            is_verified=False,
            cpu_threads=1,
        )
    elif way == "whole":
        _convert_whole(direction, source, target)
    return {"seconds": time.perf_counter() - started, "mib": _peak_mib()}


def _convert_whole(direction: str, source: Path, target: Path) -> None:
    import torch
    from megatron.core import dist_checkpointing

    from megatron_rl.conversion.families import read_model_spec
    from megatron_rl.hf_folder import WeightReader, write_hf_folder
    from megatron_rl.learner.checkpoint.megatron_format import content_metadata
    from megatron_rl.learner.device.parallel import RankInfo, initialize_parallel
    from megatron_rl.learner.device.platform import CpuPlatform
    from megatron_rl.learner.hf_weights import load_weights
    from megatron_rl.learner.model.gpt_model import (
        build_frozen_chunks,
        transformer_config,
    )
    from megatron_rl.learner.weight_stream import named_weights
    from megatron_rl.parallelism.layouts import Layout

    platform = CpuPlatform(num_threads=1)
    platform.install()
    alone = Layout(tp=1, sp=False, pp=1, vpp=1, cp=1, ep=1, etp=1)
    place = RankInfo(rank=0, world_size=1, local_rank=0)
    parallel = initialize_parallel(place, platform, alone, seed=0)
    spec = read_model_spec(source)
    config = transformer_config(spec, parallel.layout, dtype=torch.bfloat16, overrides={})
    (chunk,) = build_frozen_chunks(spec, config, parallel, platform)
    if direction == "to Megatron":
        load_weights([chunk], spec, parallel, WeightReader(source))
    state = {"model": chunk.sharded_state_dict(metadata=content_metadata())}
    if direction == "to Megatron":
        (target / "step_000000").mkdir(parents=True)
        dist_checkpointing.save(
            state, str(target / "step_000000"), content_metadata=content_metadata()
        )
        return
    loaded = dist_checkpointing.load(state, str(source / "step_000000"))
    chunk.load_state_dict(loaded["model"])
    weights = named_weights([chunk], spec, parallel, batch_bytes=_MIB)
    write_hf_folder(target, weights, source=source, max_shard_bytes=_SHARD_BYTES)


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def in_a_process(way: str, direction: str, source: Path, target: Path) -> dict[str, float]:
    """Measure in a process that has done nothing else."""
    command = [sys.executable, __file__, _MEASURE, way, direction, str(source), str(target)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def write_random_model(folder: Path, *, num_layers: int) -> tuple[int, int]:
    """Write a model tensor by tensor; return bytes of all weights and of the largest layer."""
    import torch

    from megatron_rl.conversion.families import read_model_spec
    from megatron_rl.conversion.families.shapes import tensor_shapes
    from megatron_rl.hf_folder import random_tensor
    from megatron_rl.hf_shards import plan_shards, write_index, write_shard
    from megatron_rl.run_dir import write_json

    write_json(folder / "config.json", _CONFIG | {"num_hidden_layers": num_layers})
    shapes = dict(tensor_shapes(read_model_spec(folder)))
    shards = plan_shards(shapes, dtype=torch.bfloat16, max_shard_bytes=_SHARD_BYTES)

    def read(name: str) -> torch.Tensor:
        return random_tensor(name, shapes[name], std=0.02, seed=0).bfloat16()

    for file, names in shards.items():
        write_shard(folder / file, names, shapes, read, dtype=torch.bfloat16)
    write_index(folder, shards, shapes, dtype=torch.bfloat16)
    layers: dict[str, int] = defaultdict(int)
    for name, shape in shapes.items():
        layer = name.split(".")[2] if ".layers." in name else name
        layers[layer] += math.prod(shape) * torch.bfloat16.itemsize
    return sum(layers.values()), max(layers.values())


def assert_same_weights(actual: Path, expected: Path) -> None:
    """Compare the bytes of every tensor of two folders."""
    import torch

    from megatron_rl.hf_folder import WeightReader

    ours, theirs = WeightReader(actual), WeightReader(expected)
    assert ours.names == theirs.names
    assert all(torch.equal(ours(name), theirs(name)) for name in theirs.names)


def main() -> None:
    """Convert there and back in both ways."""
    if sys.argv[1:2] == [_MEASURE]:
        way, direction, source, target = sys.argv[2:]
        print(json.dumps(measure(way, direction, Path(source), Path(target))))
        return
    options = parser_of(__doc__).parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        total, layer = write_random_model(root / "hf", num_layers=2 if options.quick else 22)
        imports = in_a_process("imports", "", root, root)["mib"]
        for way in ("streamed", "whole"):
            places = root / "hf", root / f"{way}-megatron", root / f"{way}-hf"
            for index, direction in enumerate(("to Megatron", "from Megatron")):
                measured = in_a_process(way, direction, places[index], places[index + 1])
                extra = measured["mib"] - imports
                rows.append(
                    {
                        "way": way,
                        "direction": direction,
                        "weights MiB": total / _MIB,
                        "layer MiB": layer / _MIB,
                        "extra MiB": extra,
                        "extra / weights": extra / (total / _MIB),
                        "seconds": measured["seconds"],
                    }
                )
                if way == "whole" and index == 0:
                    # The model's config lies beside a checkpoint.
                    (places[1] / "config.json").write_bytes((root / "hf/config.json").read_bytes())
            assert_same_weights(places[2], root / "hf")
    title = f"Conversion, beyond {imports:,.0f} MiB of imports"
    show_and_keep("conversion", title, rows, output=options.output)


if __name__ == "__main__":
    main()
