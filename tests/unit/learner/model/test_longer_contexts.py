"""Beyond a model's positions, learner, transformers and an exported folder are one policy."""

from pathlib import Path

import pytest
import torch
import transformers
from megatron.core.packed_seq_params import PackedSeqParams

from megatron_rl.config import RopeScalingConfig
from megatron_rl.conversion.families import read_model_spec, read_scaled_fields
from megatron_rl.hf_folder import WeightReader, write_hf_folder
from megatron_rl.learner.hf_weights import load_weights
from megatron_rl.learner.model.gpt_model import build_chunks, transformer_config
from megatron_rl.learner.weight_stream import named_weights
from tests.tiny_models import BASE, write_model

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the CPU platform is for machines without CUDA"
)
ORIGINAL = BASE["max_position_embeddings"]
LENGTHS = [3 * ORIGINAL, 40, ORIGINAL + 70]
TOLERANCE = 1e-4
SCALINGS = {
    "yarn": RopeScalingConfig(type="yarn", factor=4.0),
    "yarn, everything stated": RopeScalingConfig(
        type="yarn",
        factor=5.0,
        original_max_position_embeddings=96,
        beta_fast=16.0,
        beta_slow=0.5,
        mscale=1.5,
        mscale_all_dim=0.5,
    ),
    "llama3": RopeScalingConfig(type="llama3", factor=4.0),
}


def ids_of(lengths: list[int]) -> torch.Tensor:
    return torch.randint(0, BASE["vocab_size"], (sum(lengths),), generator=seeded(1))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def of_transformers(folder: Path) -> torch.Tensor:
    """Return [T, V] log-probs of a folder, one sequence at a time."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    parts = ids_of(LENGTHS).split(LENGTHS)
    return torch.cat([model(part[None]).logits[0] for part in parts]).log_softmax(-1)


@torch.no_grad()
def of_learner(model) -> torch.Tensor:
    """Return [T, V] log-probs of one packed row."""
    ends = torch.tensor([0, *LENGTHS]).cumsum(0).to(torch.int32)
    packed = PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=ends,
        cu_seqlens_kv=ends,
        max_seqlen_q=max(LENGTHS),
        max_seqlen_kv=max(LENGTHS),
    )
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    logits = model(ids_of(LENGTHS)[None], positions[None], None, packed_seq_params=packed)[0]
    return logits.log_softmax(-1)


@pytest.mark.lengthy
@pytest.mark.parametrize("case", ["qwen3", "llama"])
@pytest.mark.parametrize("name", SCALINGS)
def test_logprobs_beyond_the_models_positions_are_those_of_its_export(
    case, name, parallel, platform, tmp_path
):
    scaling = SCALINGS[name]
    folder = write_model(case, tmp_path / "model")
    spec = read_model_spec(folder, scaling)
    assert spec.max_positions > max(LENGTHS) > ORIGINAL
    config = transformer_config(spec, parallel.layout, dtype=torch.float32, overrides={})
    (mine,) = build_chunks(
        spec, config, parallel, platform, overlap_grad_reduce=False, overlap_param_gather=False
    )
    load_weights([mine.module], spec, parallel, WeightReader(folder))
    exported = tmp_path / "hf"
    write_hf_folder(
        exported,
        named_weights([mine.module], spec, parallel, batch_bytes=2**20),
        source=folder,
        config_changes=read_scaled_fields(folder, scaling),
        max_shard_bytes=2**30,
    )
    logprobs_TV = of_learner(mine)
    torch.testing.assert_close(logprobs_TV, of_transformers(exported), atol=TOLERANCE, rtol=0)
    # Without the scaling it is another policy, or the test would show nothing.
    unscaled_TV = of_transformers(folder)
    assert (logprobs_TV - unscaled_TV).abs().max() > 100 * TOLERANCE
