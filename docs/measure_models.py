"""Table of docs/models.md: per family, what was shown on tiny random models of it.

    python docs/measure_models.py [--server] > table.md

For every case of tests/tiny_models.py the model is made with transformers and read by the learner.
The table has the largest difference of any log-prob and any gradient over the cases of a family,
and whether the weights came out bit for bit. With ``--server`` a real SGLang server of one case is
compared as well (tools/compare_logprobs.py), which takes half a minute each.
"""

import argparse
import itertools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))
sys.path.insert(0, str(REPOSITORY / "tests" / "system"))

LENGTHS = [23, 1, 40, 9, 70, 33]
LATENT_PROMPTS = REPOSITORY / "tests" / "serving_patches" / "latent_prompts"
SERVED: dict[str, dict[str, int]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
    "mixtral": {},
    "qwen3 moe": {"moe_intermediate_size": 32},
    "glm4 moe": {"moe_intermediate_size": 32},
    "glm4": {},
    "gemma3": {},
    "deepseek v2 moe": {"moe_intermediate_size": 32},
    "deepseek v3 moe": {"moe_intermediate_size": 32},
}
"""Cases that a server is asked about, with sizes that its kernels for CPUs take."""
NOT_SERVED = {"qwen2_moe": "no: a Triton kernel", "gpt_oss": "no: sinks"}
PATCHED = ("deepseek_v2", "deepseek_v3")
"""Families whose prompts a server computes only with the patch ``LATENT_PROMPTS``."""
_SIZES = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What one case showed."""

    family: str
    logprobs: float
    gradients: float
    is_exact: bool


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", action="store_true", help="compare with a real server, too")
    options = parser.parse_args()
    cases = list(measure())
    served = dict(measure_servers()) if options.server else {}
    for line in table(cases, served):
        print(line)
    return 0


def table(cases: list[Shown], served: dict[str, str]) -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| `model_type` | cases | weights | log-probs | gradients | SGLang on a CPU |"
    yield "|---|---|---|---|---|---|"
    for family, found in itertools.groupby(cases, key=lambda shown: shown.family):
        mine = list(found)
        exact = "bit for bit" if all(shown.is_exact for shown in mine) else "**differ**"
        numbers = (max(s.logprobs for s in mine), max(s.gradients for s in mine))
        server = served.get(family, NOT_SERVED.get(family, "not asked"))
        cells = [f"`{family}`", str(len(mine)), exact, *(f"{n:.0e}" for n in numbers), server]
        yield f"| {' | '.join(cells)} |"


def measure() -> Iterator[Shown]:
    """Yield what each case shows, by family in the order of the tables."""
    from megatron_rl.conversion.families import FAMILIES, read_model_spec
    from megatron_rl.learner.device.parallel import (
        RankInfo,
        initialize_parallel,
        shut_down_parallel,
    )
    from megatron_rl.learner.device.platform import CpuPlatform
    from megatron_rl.parallelism.layouts import Layout
    from tests.tiny_models import CASES, write_model

    platform = CpuPlatform(num_threads=1)
    platform.install()
    alone = Layout(tp=1, sp=False, pp=1, vpp=1, cp=1, ep=1, etp=1)
    place = RankInfo(rank=0, world_size=1, local_rank=0)
    parallel = initialize_parallel(place, platform, alone, seed=0)
    try:
        with tempfile.TemporaryDirectory() as folder:
            written = {
                case: write_model(case, Path(folder) / str(i)) for i, case in enumerate(CASES)
            }
            families = {case: read_model_spec(path).family for case, path in written.items()}
            for case in sorted(CASES, key=lambda case: list(FAMILIES).index(families[case])):
                yield _show(case, written[case], parallel, platform)
    finally:
        shut_down_parallel()


def _show(case: str, folder: Path, parallel: object, platform: object) -> Shown:
    """Compare one case on one rank; the row is packed of sequences of several lengths."""
    import torch

    from megatron_rl.conversion.families import read_model_spec
    from megatron_rl.hf_folder import WeightReader
    from megatron_rl.learner.hf_weights import load_weights
    from megatron_rl.learner.model.gpt_model import build_chunks, transformer_config
    from megatron_rl.learner.weight_stream import named_weights
    from tests.tiny_models import tensor_on_disk, tiny_model

    spec, read, theirs = read_model_spec(folder), WeightReader(folder), tiny_model(case)
    config = transformer_config(spec, parallel.layout, dtype=torch.float32, overrides={})
    (mine,) = build_chunks(
        spec, config, parallel, platform, overlap_grad_reduce=False, overlap_param_gather=False
    )
    load_weights([mine.module], spec, parallel, read)

    def stream() -> dict[str, torch.Tensor]:
        named = named_weights([mine.module], spec, parallel, batch_bytes=2**20)
        return {name: tensor.clone() for name, tensor in named}

    written = stream()
    is_exact = written.keys() == read.names and all(
        torch.equal(tensor, read(name)) for name, tensor in written.items()
    )
    ids = torch.randint(0, 61, (sum(LENGTHS),), generator=torch.Generator().manual_seed(1))
    mine.zero_grad_buffer()
    actual = _mine(mine, ids).log_softmax(-1)
    expected = torch.cat([theirs(part[None]).logits[0] for part in ids.split(LENGTHS)])
    expected = expected.log_softmax(-1)
    for logprobs in (actual, expected):
        logprobs.gather(1, ids[:, None]).mean().backward()
    gradients = {name: param.grad for name, param in theirs.named_parameters()}
    with torch.no_grad():  # gradients take the way out that weights take
        for param in mine.parameters():
            param.copy_(param.main_grad)
    differences = [
        float((grad - tensor_on_disk(gradients, name)).norm() / (1e-6 + grad.norm()))
        for name, grad in stream().items()
        if not name.endswith("correction_bias")  # has no gradient
    ]
    return Shown(
        family=spec.family,
        logprobs=float((actual - expected).abs().max()),
        gradients=max(differences),
        is_exact=is_exact,
    )


def _mine(model: object, ids: object) -> object:
    import torch
    from megatron.core.packed_seq_params import PackedSeqParams

    edges = torch.tensor([0, *itertools.accumulate(LENGTHS)], dtype=torch.int32)
    packed = PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=edges,
        cu_seqlens_kv=edges,
        max_seqlen_q=max(LENGTHS),
        max_seqlen_kv=max(LENGTHS),
    )
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    return model(ids[None], positions[None], None, packed_seq_params=packed)[0]


def measure_servers() -> Iterator[tuple[str, str]]:
    """Yield (family, largest difference of any log-prob) of a real server and the learner."""
    from tiny_model import build_tiny_tokenizer

    from megatron_rl.conversion.families import read_model_spec
    from tests.tiny_models import write_model

    for case, sizes in SERVED.items():
        with tempfile.TemporaryDirectory() as folder:
            model = write_model(case, Path(folder) / "model", **_SIZES, **sizes)
            build_tiny_tokenizer().save_pretrained(model)
            family = read_model_spec(model).family
            found = subprocess.run(
                [
                    *(sys.executable, REPOSITORY / "tools" / "compare_logprobs.py", model),
                    *("--num-sequences", "16", "--context-length", "128"),
                    *("--run-dir", Path(folder) / "run"),
                ],
                cwd=REPOSITORY,
                env=os.environ | _server_path(family),
                capture_output=True,
                text=True,
            )
            compared = re.findall(r"(\S+) +\S+  (?:agrees|DIFFERS)", found.stdout)
            how = ", patched" if family in PATCHED else ""
            yield family, f"{max(map(float, compared)):.0e}{how}" if compared else "did not run"


def _server_path(family: str) -> dict[str, str]:
    """Return the variable with which a server finds the patch of a family that needs it."""
    if family not in PATCHED:
        return {}
    before = os.environ["PYTHONPATH"] if "PYTHONPATH" in os.environ else ""
    return {"PYTHONPATH": os.pathsep.join(filter(None, (before, str(LATENT_PROMPTS))))}


if __name__ == "__main__":
    sys.exit(main())
