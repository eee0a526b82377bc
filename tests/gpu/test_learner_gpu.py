"""The learner on a GPU: NCCL, CUDA, and Transformer Engine's layers where it is installed."""

import numpy as np
import pytest
import torch
import transformers

from megatron_rl.algorithm.packing import Sequences
from megatron_rl.conversion.families import read_model_spec
from megatron_rl.learner.learner import Learner, LearnerSettings
from megatron_rl.learner.parallel import Place, initialize_parallel, shut_down_parallel
from megatron_rl.learner.platform import CudaPlatform, detect_platform
from megatron_rl.planning.layouts import Layout

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

LENGTHS = [23, 40, 9, 120, 33, 64]
SETTINGS = {
    "token_budget": 128,
    "logprob_chunk_tokens": 16,
    "fp32_lm_head": False,
    "temperature": 0.7,
    "objective": None,
    "lr": 1e-3,
    "min_lr": None,
    "warmup_steps": 0,
    "total_steps": 8,
    "beta1": 0.9,
    "beta2": 0.95,
    "eps": 1e-8,
    "weight_decay": 0.01,
    "clip_grad": 1.0,
    "overlap_grad_reduce": False,
    "overlap_param_gather": False,
    "megatron": {},
}


@pytest.fixture(scope="module")
def platform():
    platform = detect_platform(cpu_threads=1, local_rank=0)
    assert isinstance(platform, CudaPlatform)
    platform.install()
    return platform


@pytest.fixture(scope="module")
def parallel(platform):
    place = Place(rank=0, world_size=1, local_rank=0)
    layout = Layout(tp=1, sp=False, pp=1, vpp=1, cp=1, ep=1, etp=1)
    yield initialize_parallel(place, platform, layout, seed=0)
    shut_down_parallel()


@pytest.fixture(scope="module")
def model():
    """Reference on the host, float32; sizes that fused kernels accept."""
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=1000,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=512,
        initializer_range=0.05,
        tie_word_embeddings=False,
    )
    return transformers.Qwen3ForCausalLM(config).float().eval()


@pytest.fixture(scope="module")
def sequences():
    rng, total = np.random.default_rng(0), sum(LENGTHS)
    return Sequences(
        token_ids_T=rng.integers(0, 1000, total),
        offsets=np.cumsum([0, *LENGTHS]),
        loss_mask_T=np.ones(total, dtype=bool),
        behavior_logprobs_T=np.zeros(total, dtype=np.float32),
        advantages_N=np.ones(len(LENGTHS), dtype=np.float32),
        weights_N=np.full(len(LENGTHS), 1 / (total - len(LENGTHS)), dtype=np.float32),
    )


@pytest.fixture
def make_learner(platform, parallel, model, tmp_path):
    """Build a learner of the reference's weights in a dtype."""

    def make(dtype):
        model.save_pretrained(tmp_path)
        return Learner(
            read_model_spec(tmp_path),
            LearnerSettings(**SETTINGS, dtype=dtype),
            parallel,
            platform,
            pretrained=tmp_path,
            seed=0,
        )

    return make


def logprobs_on_the_host(model, sequences):
    results = []
    for start, end in zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True):
        ids = torch.from_numpy(sequences.token_ids_T[start:end])
        with torch.no_grad():
            scores = torch.log_softmax(model(ids[None]).logits[0, :-1] / 0.7, dim=-1)
        results.append(scores.gather(1, ids[1:, None])[:, 0])
    return torch.cat(results)


def test_bf16_logprobs_are_close_to_float32_ones_of_the_host(make_learner, model, sequences):
    actual = torch.cat(make_learner("bfloat16").logprobs(sequences))
    difference = (actual - logprobs_on_the_host(model, sequences)).abs()
    # bf16 keeps 8 bits: logits of order 3 are off by about 1 % after four layers. A wrong weight,
    # position or mask is off by more than 1 in most places.
    assert difference.mean() < 0.05
    assert difference.max() < 0.5


def test_training_lowers_the_loss_and_moves_every_weight(make_learner, sequences):
    learner = make_learner("bfloat16")
    before = {name: weight.clone() for name, weight in learner.named_weights()}
    losses = [learner.update_supervised(sequences)["sft/loss"] for _ in range(8)]
    assert losses[-1] < losses[0] - 0.1
    # Norms start at one, where bf16's spacing may swallow a small step.
    stuck = [
        name
        for name, weight in learner.named_weights()
        if weight.dim() > 1 and torch.equal(weight, before[name])
    ]
    assert stuck == []


def test_a_checkpoint_continues_bit_for_bit(make_learner, sequences, tmp_path):
    learner = make_learner("bfloat16")
    learner.update_supervised(sequences)
    learner.save(tmp_path / "checkpoints", 1, extra={"cursor": 5})
    saved = {name: weight.clone() for name, weight in learner.named_weights()}
    again = make_learner("bfloat16")
    assert again.restore(tmp_path / "checkpoints") == (1, {"cursor": 5})
    for name, weight in again.named_weights():
        assert torch.equal(weight, saved[name]), name
