"""Kernel that Transformer Engine chooses for attention of packed rows, and our rule for it."""

import itertools

import pytest
import torch

from megatron_rl.learner.device.attention import TorchCoreAttention
from megatron_rl.learner.device.precision import has_engine_attention
from tests.cuda_build.surroundings import learner_of, ranks_of

HEAD_DIMS = (
    *((size, size) for size in (16, 20, 64, 80, 96, 128, 136, 192, 256, 264)),
    *((64, 32), (96, 128), (128, 64), (192, 64), (192, 128), (192, 136), (256, 192)),
)
"""Of queries and keys, and of values."""


def choice(head_dim, value_dim, *, cp, window, dtype, is_deterministic, softmax="vanilla"):
    from transformer_engine.pytorch.attention.dot_product_attention import utils

    parameters = utils.AttentionParams(
        qkv_dtype=dtype,
        qkv_layout="thd_thd_thd",
        batch_size=4,
        num_heads=8,
        num_gqa_groups=4,
        max_seqlen_q=8192,
        max_seqlen_kv=8192,
        head_dim_qk=head_dim,
        head_dim_v=value_dim,
        attn_mask_type="padding_causal",
        window_size=window,
        context_parallel=cp > 1,
        cp_comm_type="p2p",
        deterministic=is_deterministic,
        is_training=True,
        softmax_type=softmax,
        core_attention_bias_requires_grad=False,
    )
    flash, _, fused, _, unfused, _ = utils.get_attention_backend(parameters)
    return "flash" if flash else "cuDNN" if fused else "unfused" if unfused else "none"


@pytest.mark.parametrize("is_deterministic", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dims", HEAD_DIMS, ids=str)
def test_our_rule_is_transformer_engines_choice(dims, dtype, is_deterministic, gpu, platform):
    ours = has_engine_attention(
        gpu.capability, head_dim=dims[0], value_dim=dims[1], is_deterministic=is_deterministic
    )
    for cp, window in itertools.product((1, 2), ((-1, 0), (4095, 0))):
        theirs = choice(*dims, cp=cp, window=window, dtype=dtype, is_deterministic=is_deterministic)
        print(gpu.capability, dims, cp, window, dtype, is_deterministic, theirs)
        assert (theirs == "cuDNN") == ours
        if not ours:
            assert theirs == ("unfused" if cp == 1 else "none")


@pytest.mark.parametrize("cp", [1, 2])
def test_no_kernel_of_packed_rows_has_sinks(cp, gpu, platform):
    theirs = choice(
        64,
        64,
        cp=cp,
        window=(-1, 0),
        dtype=torch.bfloat16,
        is_deterministic=False,
        softmax="learnable",
    )
    assert theirs == "none"
    assert not has_engine_attention(gpu.capability, head_dim=64, value_dim=64, has_sinks=True)


def test_layers_attend_by_the_rule(gpu, platform, specs):
    spec = specs["qwen3"]
    with ranks_of("alone", platform) as parallel, gpu.dropping():
        (chunk,) = learner_of(spec, parallel, platform, "bf16")._bare_chunks()
    kinds = {type(layer.self_attention.core_attention) for layer in chunk.decoder.layers}
    is_engines = has_engine_attention(
        gpu.capability, head_dim=spec.head_dim, value_dim=spec.value_dim
    )
    assert (kinds == {TorchCoreAttention}) is not is_engines
