"""On one rank: attention of packed rows, and log-probs and entropy against transformers."""

import itertools
import math

import numpy as np
import pytest
import torch
import transformers

from megatron_rl.algorithm.packing import PackedRow, pack_row
from megatron_rl.config import Fp8Config, LossScaleConfig, OptimizerConfig
from megatron_rl.conversion.families import read_model_spec
from megatron_rl.learner.learner import Learner, LearnerSettings
from megatron_rl.learner.logprobs import token_logprobs_and_entropy
from megatron_rl.sequences import Sequences

SETTINGS = {
    "dtype": "float32",
    "precision": "fp32",
    "fp8": Fp8Config(),
    "loss_scale": LossScaleConfig(),
    "token_budget": 64,
    "logprob_chunk_tokens": 16,
    "fp32_lm_head": False,
    "objective": None,
    "optimizer": OptimizerConfig(
        lr=1e-3,
        min_lr=None,
        warmup_steps=0,
        beta1=0.9,
        beta2=0.95,
        eps=1e-8,
        weight_decay=0.0,
        clip_grad=1.0,
    ),
    "total_steps": 4,
    "overlap_grad_reduce": False,
    "overlap_param_gather": False,
    "weight_batch_bytes": 2**20,
    "megatron": {},
}
MODEL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,  # far from uniform, so that a wrong weight shows
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": None,
}
LENGTHS = [23, 1, 40, 2, 9, 70, 33]  # one of a single token, one over the budget


@pytest.fixture(scope="module")
def sequences():
    rng = np.random.default_rng(0)
    total = sum(LENGTHS)
    return Sequences(
        token_ids_T=rng.integers(0, MODEL["vocab_size"], total),
        offsets=np.cumsum([0, *LENGTHS]),
        loss_mask_T=np.ones(total, dtype=bool),
        behavior_logprobs_T=np.zeros(total, dtype=np.float32),
        advantages_N=np.ones(len(LENGTHS), dtype=np.float32),
        weights_N=np.full(len(LENGTHS), 1 / total, dtype=np.float32),
    )


@pytest.mark.lengthy
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["Qwen3", "Mistral"])
def test_logprobs_are_those_of_transformers(
    family, tied, temperature, parallel, platform, sequences, tmp_path
):
    torch.manual_seed(0)
    window = {"sliding_window": None} if family == "Mistral" else {}
    config = getattr(transformers, f"{family}Config")(**MODEL, **window, tie_word_embeddings=tied)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    model.save_pretrained(tmp_path)
    learner = Learner(
        read_model_spec(tmp_path),
        LearnerSettings(**SETTINGS, temperature=temperature),
        parallel,
        platform,
        pretrained=tmp_path,
        seed=0,
    )
    actual = learner.logprobs(sequences)
    assert [len(logprobs_T) for logprobs_T in actual] == [length - 1 for length in LENGTHS]
    for i, logprobs_T in enumerate(actual):
        ids = torch.from_numpy(sequences.token_ids_T[slice(*sequences.offsets[i : i + 2])])
        with torch.no_grad():
            logits = model(ids[None]).logits[0, :-1] / temperature
        expected_T = torch.log_softmax(logits, dim=-1).gather(1, ids[1:, None])[:, 0]
        torch.testing.assert_close(logprobs_T, expected_T, atol=1e-4, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_scores_and_gradients_are_those_of_float64(temperature, parallel):
    torch.manual_seed(0)
    logits_TV = (torch.randn(20, 16) * 5).requires_grad_()
    targets_T, weights_T = torch.randint(0, 13, (20,)), torch.rand(20)
    logprobs_T, entropy_T = token_logprobs_and_entropy(
        logits_TV,
        torch.eye(logits_TV.shape[1]),
        targets_T,
        temperature=temperature,
        num_real=13,  # the last three entries are padding
        entropy_has_gradient=False,
        tp_group=parallel.tp_group,
        chunk_tokens=7,
        is_fp32=False,
    )
    (weights_T * logprobs_T).sum().backward()

    double_TV = logits_TV.detach().double().requires_grad_()
    scores_TV = torch.log_softmax(double_TV[:, :13] / temperature, dim=-1)
    expected_T = scores_TV.gather(1, targets_T[:, None])[:, 0]
    (weights_T * expected_T).sum().backward()
    expected_entropy_T = -(scores_TV.exp() * scores_TV).sum(-1)
    torch.testing.assert_close(logprobs_T.double(), expected_T, atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy_T.double(), expected_entropy_T, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits_TV.grad.double(), double_TV.grad, atol=1e-5, rtol=0)
    assert not entropy_T.requires_grad


def test_padded_vocabulary_never_gets_probability(parallel):
    logits_TV = torch.zeros(1, 8)
    logits_TV[0, 5:] = 1e6  # padding shouts
    targets_T = torch.tensor([2])
    logprobs_T, entropy_T = token_logprobs_and_entropy(
        logits_TV,
        torch.eye(logits_TV.shape[1]),
        targets_T,
        temperature=0.5,
        num_real=5,
        entropy_has_gradient=False,
        tp_group=parallel.tp_group,
        chunk_tokens=7,
        is_fp32=False,
    )
    # Five equal entries: probability 1/5 each, entropy ln 5.
    assert logprobs_T.item() == pytest.approx(-math.log(5))
    assert entropy_T.item() == pytest.approx(math.log(5))


def test_logits_are_left_as_they_were(parallel):
    logits_TV = torch.randn(4, 8)
    before = logits_TV.clone()
    targets_T = torch.zeros(4, dtype=torch.int64)
    token_logprobs_and_entropy(
        logits_TV,
        torch.eye(logits_TV.shape[1]),
        targets_T,
        temperature=1.0,
        num_real=8,
        entropy_has_gradient=False,
        tp_group=parallel.tp_group,
        chunk_tokens=7,
        is_fp32=False,
    )
    assert torch.equal(logits_TV, before)


def core_attention():
    from megatron.core.transformer import TransformerConfig

    from megatron_rl.learner.device.attention import TorchCoreAttention

    config = TransformerConfig(
        num_layers=1, hidden_size=32, num_attention_heads=4, num_query_groups=2, kv_channels=8
    )
    return TorchCoreAttention(config, 1, None, "self")


def plain_attention(query_TQD, key_TGD, value_TGD):
    """Causal softmax attention of one sequence, spelled out."""
    heads_per_group = query_TQD.shape[1] // key_TGD.shape[1]
    key_TQD, value_TQD = (x.repeat_interleave(heads_per_group, 1) for x in (key_TGD, value_TGD))
    scores = torch.einsum("sqd,tqd->qst", query_TQD, key_TQD) / math.sqrt(query_TQD.shape[2])
    length = len(query_TQD)
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -math.inf).softmax(-1)
    return torch.einsum("qst,tqd->sqd", weights, value_TQD)


@pytest.mark.parametrize(
    "lengths",
    [
        [17],  # the whole row is one sequence
        [5, 6, 7, 8],  # one bucket
        [1, 2, 33, 4, 31, 1, 16, 17],  # many
        [3, 0, 4],  # a sequence of one token leaves nothing to predict
    ],
)
def test_attention_of_a_packed_row_is_that_of_its_sequences(lengths, platform):
    from megatron.core.packed_seq_params import PackedSeqParams

    torch.manual_seed(0)
    ends = np.cumsum([0, *lengths]).tolist()
    cu_seqlens = torch.tensor(ends, dtype=torch.int32)
    row = [torch.randn(ends[-1], heads, 8, requires_grad=True) for heads in (4, 2, 2)]
    double = [x.detach().double().requires_grad_() for x in row]
    packed = PackedSeqParams(qkv_format="thd", cu_seqlens_q=cu_seqlens, cu_seqlens_kv=cu_seqlens)
    actual = core_attention()(*row, None, packed_seq_params=packed)
    expected = torch.cat(
        [
            plain_attention(*(x[start:end] for x in double)).flatten(1)
            for start, end in itertools.pairwise(ends)
            if end > start
        ]
    )
    torch.testing.assert_close(actual.double(), expected, atol=1e-5, rtol=0)
    upstream = torch.randn_like(actual)
    actual.backward(upstream)
    expected.backward(upstream.double())
    for mine, theirs in zip(row, double, strict=True):
        torch.testing.assert_close(mine.grad.double(), theirs.grad, atol=1e-5, rtol=0)


def test_lengths_that_the_host_has_are_not_read_from_the_device(platform):
    from megatron_rl.learner.device.attention import RowParams

    torch.manual_seed(0)
    row = [torch.randn(9, heads, 8) for heads in (4, 2, 2)]
    edges = (0, 4, 9)
    read, known = torch.tensor(edges), torch.empty(3, dtype=torch.int64, device="meta")
    expected = core_attention()(*row, None, packed_seq_params=RowParams(cu_seqlens_q=read))
    packed = RowParams(cu_seqlens_q=known, edges=edges)
    assert torch.equal(core_attention()(*row, None, packed_seq_params=packed), expected)


def test_attention_without_packing_takes_sequence_first(platform):
    torch.manual_seed(0)
    query, key, value = (torch.randn(6, 3, heads, 8) for heads in (4, 2, 2))
    actual = core_attention()(query, key, value, None)
    for b in range(3):
        expected = plain_attention(query[:, b], key[:, b], value[:, b]).flatten(1)
        torch.testing.assert_close(actual[:, b], expected, atol=1e-5, rtol=0)


def test_padding_does_not_change_a_row(parallel, platform, sequences, tmp_path):
    torch.manual_seed(0)
    transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**MODEL)).save_pretrained(tmp_path)
    learner = Learner(
        read_model_spec(tmp_path),
        LearnerSettings(**SETTINGS, temperature=1.0),
        parallel,
        platform,
        pretrained=tmp_path,
        seed=0,
    )

    def score(row: PackedRow) -> torch.Tensor:
        (logprobs_T,) = learner._runner.logprobs([row], temperature=1.0)
        return logprobs_T[: LENGTHS[0] + LENGTHS[4] - 2]

    with torch.no_grad():
        plain, padded = (score(pack_row(sequences, (0, 4), multiple=m)) for m in (1, 32))
    torch.testing.assert_close(padded, plain, atol=1e-5, rtol=0)
