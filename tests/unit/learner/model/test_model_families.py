"""On one rank: every family computes what transformers computes, and its weights come out again."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from megatron.core.packed_seq_params import PackedSeqParams

from megatron_rl.conversion.families import read_model_spec
from megatron_rl.hf_folder import WeightReader
from megatron_rl.learner.hf_weights import load_weights, random_weights
from megatron_rl.learner.model.gpt_model import build_chunks, transformer_config
from megatron_rl.learner.weight_stream import named_weights
from tests.tiny_models import CASES, tensor_on_disk, tiny_model

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the CPU platform is for machines without CUDA"
)
LENGTHS = [23, 1, 40, 9, 70, 33]  # longer and shorter than every window


@pytest.fixture(scope="module", params=CASES)
def policy(request, parallel, platform, tmp_path_factory):
    """The same model twice: transformers' and the learner's, read from its folder."""
    folder = tmp_path_factory.mktemp("model")
    theirs = tiny_model(request.param)
    theirs.save_pretrained(folder)
    spec = read_model_spec(folder)
    config = transformer_config(spec, parallel.layout, dtype=torch.float32, overrides={})
    (mine,) = build_chunks(
        spec, config, parallel, platform, overlap_grad_reduce=False, overlap_param_gather=False
    )
    load_weights([mine.module], spec, parallel, WeightReader(folder))
    return SimpleNamespace(mine=mine, theirs=theirs, spec=spec, folder=folder, parallel=parallel)


def packed_row():
    ends = [0, *itertools.accumulate(LENGTHS)]
    ids = torch.randint(0, 61, (ends[-1],), generator=torch.Generator().manual_seed(1))
    edges = torch.tensor(ends, dtype=torch.int32)
    packed = PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=edges,
        cu_seqlens_kv=edges,
        max_seqlen_q=max(LENGTHS),
        max_seqlen_kv=max(LENGTHS),
    )
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    return ids, positions, packed


def score(policy):
    """Return (mine, transformers') [T, V] log-probs of one packed row, with gradients."""
    ids, positions, packed = packed_row()
    logits_TV = policy.mine(ids[None], positions[None], None, packed_seq_params=packed)[0]
    expected = [policy.theirs(part[None]).logits[0] for part in ids.split(LENGTHS)]
    return logits_TV.log_softmax(-1), torch.cat(expected).log_softmax(-1)


@pytest.mark.lengthy
def test_logprobs_are_those_of_transformers(policy):
    with torch.no_grad():
        actual_TV, expected_TV = score(policy)
    torch.testing.assert_close(actual_TV, expected_TV, atol=1e-4, rtol=0)


@pytest.mark.lengthy
def test_gradients_are_those_of_transformers(policy):
    ids, _, _ = packed_row()
    policy.mine.zero_grad_buffer()
    policy.theirs.zero_grad()
    for logprobs_TV in score(policy):
        logprobs_TV.gather(1, ids[:, None]).mean().backward()
    expected = {name: param.grad for name, param in policy.theirs.named_parameters()}
    for name, grad in huggingface_grads(policy).items():
        if name.endswith("correction_bias"):
            continue  # takes part in the choice of experts alone
        theirs = tensor_on_disk(expected, name)
        assert (grad - theirs).norm() < 1e-3 * theirs.norm() + 1e-6, name


@torch.no_grad()
def huggingface_grads(policy):
    """Return the gradients by Hugging Face name: they take the way out that weights take."""
    params = list(policy.mine.parameters())
    weights = [param.clone() for param in params]
    for param in params:
        param.copy_(param.main_grad)
    named = named_weights([policy.mine.module], policy.spec, policy.parallel, batch_bytes=2**20)
    grads = {name: grad.clone() for name, grad in named}
    for param, weight in zip(params, weights, strict=True):
        param.copy_(weight)
    return grads


def test_weights_come_out_as_they_went_in_bit_for_bit(policy):
    read = WeightReader(policy.folder)
    stream = named_weights([policy.mine.module], policy.spec, policy.parallel, batch_bytes=2**20)
    written = dict(stream)
    assert set(written) == read.names
    for name, tensor in written.items():
        assert torch.equal(tensor, read(name)), name


def test_random_weights_have_norms_that_do_not_scale_and_biases_of_zero(policy):
    read = random_weights([policy.mine.module], policy.spec, policy.parallel, seed=0)
    for name in WeightReader(policy.folder).names:
        weight = read(name)
        if name.endswith("bias"):
            assert not weight.any()
        elif "norm" in name:
            assert (weight == (0 if policy.spec.has_centred_norms else 1)).all()
        else:
            assert 0 < weight.std() < 2 * policy.spec.init_std
