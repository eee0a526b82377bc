"""Traps of Megatron-Core that were fallen into once: what keeps the learner out of each."""

from pathlib import Path

import pytest
import torch

from megatron_rl.conversion.families import model_spec
from megatron_rl.errors import ConfigError
from megatron_rl.learner.logprobs import token_logprobs_and_entropy
from megatron_rl.learner.model.gpt_model import build_chunks, transformer_config
from megatron_rl.parallelism.layouts import Layout
from tests.distributed.tiny_policy import CONFIG, MOE_CONFIG

LAYER = "decoder.layers.0"


@pytest.fixture
def config_of(parallel):
    """Build the TransformerConfig of a layout; no process of it has to be there."""

    def make(config=CONFIG, *, overrides=None, dtype=torch.float32, **changes):
        layout = Layout(
            **({"tp": 1, "sp": False, "pp": 1, "vpp": 1, "cp": 1, "ep": 1, "etp": 1} | changes)
        )
        return transformer_config(
            model_spec(config),
            layout,
            dtype=dtype,
            overrides={} if overrides is None else overrides,
        )

    return make


@pytest.fixture
def build(config_of, parallel, platform):
    def make(config=CONFIG):
        (chunk,) = build_chunks(
            model_spec(config),
            config_of(config),
            parallel,
            platform,
            overlap_grad_reduce=False,
            overlap_param_gather=False,
        )
        return chunk.module

    return make


def test_an_interleaved_pipeline_does_not_batch_its_sends(config_of):
    # Batched, two stages of two chunks mix up microbatches: the loss is off by 5e-3, silently.
    config = config_of(pp=2, vpp=2)
    assert config.overlap_p2p_comm and not config.batch_p2p_comm
    plain = config_of(pp=2)
    assert plain.batch_p2p_comm and not plain.overlap_p2p_comm


@pytest.mark.parametrize("model", [CONFIG, MOE_CONFIG])
def test_rows_of_different_lengths_take_the_dispatcher_that_can(config_of, model):
    config = config_of(model)
    assert config.variable_seq_lengths
    assert config.moe_token_dispatcher_type == "alltoall"  # needed by dense models too
    with pytest.raises(ConfigError, match="allgather does not support variable sequence length"):
        config_of(model, overrides={"moe_token_dispatcher_type": "allgather"})


def test_megatrons_averaging_over_tokens_is_neutralised(config_of):
    assert config_of().calculate_per_token_loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_type_of_parameters_decides_megatrons_flags(config_of, dtype):
    config = config_of(dtype=dtype)
    assert (config.bf16, config.fp16) == (dtype == torch.bfloat16, dtype == torch.float16)
    assert config.params_dtype == config.pipeline_dtype == dtype


@pytest.mark.parametrize("chunk_tokens", [0, 3])
def test_log_probs_leave_hidden_states_and_weights_as_they_are(parallel, chunk_tokens):
    # Megatron's vocab_parallel_cross_entropy overwrites float32 logits in place; ours must leave
    # what it is given, since the entropy and the backward pass read it once more.
    torch.manual_seed(0)
    hidden_TH = torch.randn(8, 16, requires_grad=True)
    weight_VH = torch.randn(11, 16, requires_grad=True)
    before = hidden_TH.detach().clone(), weight_VH.detach().clone()
    logprobs_T, entropy_T = token_logprobs_and_entropy(
        hidden_TH,
        weight_VH,
        torch.randint(11, (8,)),
        temperature=0.7,
        entropy_has_gradient=True,
        num_real=11,
        tp_group=parallel.tp_group,
        chunk_tokens=chunk_tokens,
        is_fp32=True,
    )
    (logprobs_T.sum() + entropy_T.sum()).backward()
    assert torch.equal(hidden_TH, before[0]) and torch.equal(weight_VH, before[1])


def test_megatrons_cross_entropy_still_overwrites_logits(parallel):
    # Should this fail, upstream has mended the trap, and chunks could use its kernel.
    from megatron.core.tensor_parallel import vocab_parallel_cross_entropy

    logits = torch.randn(4, 1, 8)
    before = logits.clone()
    vocab_parallel_cross_entropy(logits, torch.zeros(4, 1, dtype=torch.long))
    assert not torch.equal(logits, before)


def test_torch_layers_have_transformer_engines_parameter_names(build):
    names = {name.removeprefix(f"{LAYER}.") for name, _ in build().named_parameters()}
    assert {
        "self_attention.linear_qkv.layer_norm_weight",
        "self_attention.linear_qkv.weight",
        "self_attention.linear_proj.weight",
        "self_attention.q_layernorm.weight",
        "self_attention.k_layernorm.weight",
        "mlp.linear_fc1.layer_norm_weight",
        "mlp.linear_fc1.weight",
        "mlp.linear_fc2.weight",
        "decoder.final_layernorm.weight",
        "embedding.word_embeddings.weight",
        "output_layer.weight",
    } == {name for name in names if not name.startswith("decoder.layers.")}


def test_torch_experts_have_transformer_engines_parameter_names(build):
    names = {name.removeprefix(f"{LAYER}.") for name, _ in build(MOE_CONFIG).named_parameters()}
    assert {
        "pre_mlp_layernorm.weight",
        "mlp.router.weight",
        "mlp.experts.local_experts.3.linear_fc1.weight",
        "mlp.experts.local_experts.3.linear_fc2.weight",
    } <= names


def test_checkpoints_hold_weights_and_no_state_of_the_layers(build):
    # Transformer Engine's layers have such state and torch's do not; one would not load the other.
    model = build()
    state = model.sharded_state_dict()
    assert set(state) == {name for name, _ in model.named_parameters()}
    plain = {n: t for n, t in model.state_dict().items() if not n.endswith("_extra_state")}
    model.load_state_dict(plain, strict=True)
    del plain["output_layer.weight"]
    with pytest.raises(RuntimeError, match=r"output_layer\.weight"):
        model.load_state_dict(plain, strict=True)


def test_sequence_parallel_norms_are_marked_for_the_reduction_of_their_gradients(config_of):
    # Megatron's torch norm refuses sequence parallelism; unmarked, gradients would be partial sums.
    from megatron_rl.learner.device.torch_layers import TorchRMSNorm

    for sp in (False, True):
        norm = TorchRMSNorm(config_of(tp=2, etp=2, sp=sp), 8)
        assert norm.weight.sequence_parallel == sp


def test_what_checkpoints_need_without_saying_so_is_there():
    import psutil  # dist_checkpointing.save hangs without it

    assert psutil.Process().pid
    assert '"psutil' in (Path(__file__).parents[3] / "setup.py").read_text()
