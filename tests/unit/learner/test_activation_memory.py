"""What a layer keeps for its backward pass is what memory is planned for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from megatron.core.packed_seq_params import PackedSeqParams

from megatron_rl.conversion.families import model_spec
from megatron_rl.learner.model.gpt_model import build_frozen_chunks, transformer_config
from megatron_rl.parallelism.memory import layer_activations
from tests.distributed.tiny_policy import CONFIG, GEMMA_CONFIG, MOE_CONFIG

pytestmark = pytest.mark.lengthy

TOKENS = 256
# Wide enough that what is counted outweighs indices, masks and scores.
WIDE = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "head_dim": 16}
DENSE = CONFIG | WIDE | {"intermediate_size": 512}
SANDWICH = {
    key: value
    for key, value in (DENSE | {"model_type": "glm4", "partial_rotary_factor": 1.0}).items()
    if key not in ("use_sliding_window", "max_window_layers")
}
TANH = GEMMA_CONFIG | WIDE | {"intermediate_size": 512}
MIXTURE = MOE_CONFIG | WIDE | {"moe_intermediate_size": 512}
CLAMPED = DENSE | {"model_type": "gpt_oss", "num_local_experts": 4, "num_experts_per_tok": 2}


@contextmanager
def bytes_kept(params: set[int]) -> Iterator[list[int]]:
    """Count the bytes of all storages that are saved for a backward pass, but for parameters."""
    storages: dict[int, Any] = {}
    total = [0]

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in params | storages.keys():
            storages[storage.data_ptr()] = storage  # kept alive, so that no address is used twice
            total[0] += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield total


def layer_of(config, parallel, platform, dtype):
    spec = model_spec(config)
    megatron = transformer_config(spec, parallel.layout, dtype=dtype, overrides={})
    (model,) = build_frozen_chunks(spec, megatron, parallel, platform)
    model.requires_grad_(True)
    for param in model.parameters():
        torch.nn.init.normal_(param, std=0.1)
    return model, model.decoder.layers[0]


def packed_row():
    edges = torch.tensor([0, TOKENS], dtype=torch.int32)
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=edges,
        cu_seqlens_kv=edges,
        max_seqlen_q=TOKENS,
        max_seqlen_kv=TOKENS,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("config", [DENSE, TANH, MIXTURE, CLAMPED])
def test_the_feed_forward_part_keeps_what_is_planned(config, dtype, parallel, platform):
    # The part of the estimate that grows with the feed-forward width: 3 of it for a token and
    # expert. Without the fused activation it is 5 (dense) or 6 (experts).
    width = "moe_intermediate_size" if config is MIXTURE else "intermediate_size"
    narrow = config | {width: 256}
    measured, planned = [], []
    for sizes in (config, narrow):
        model, layer = layer_of(sizes, parallel, platform, dtype)
        hidden = torch.randn(TOKENS, 1, 64, dtype=dtype, requires_grad=True)
        params = {param.untyped_storage().data_ptr() for param in model.parameters()}
        with bytes_kept(params) as total:
            layer.mlp(hidden)
        measured.append(total[0] // dtype.itemsize)
        shape = model_spec(sizes)
        planned.append(layer_activations(shape, parallel.layout, 0, tokens=TOKENS))
    assert measured[0] - measured[1] == planned[0] - planned[1]


@pytest.mark.parametrize("config", [DENSE, SANDWICH, MIXTURE, CLAMPED])
def test_a_whole_layer_keeps_no_more_than_is_planned(config, parallel, platform):
    # In float32, since torch's norms keep another copy of what they turn into it.
    model, layer = layer_of(config, parallel, platform, torch.float32)
    hidden = torch.randn(TOKENS, 1, 64, requires_grad=True)
    params = {param.untyped_storage().data_ptr() for param in model.parameters()}
    rotary = model.rotary_pos_emb(TOKENS)
    params.add(rotary.untyped_storage().data_ptr())
    with bytes_kept(params) as total:
        layer(
            hidden,
            attention_mask=None,
            rotary_pos_emb=rotary,
            packed_seq_params=packed_row(),
        )
    shape = model_spec(config)
    planned = layer_activations(shape, parallel.layout, 0, tokens=TOKENS) * 4
    # Torch keeps what a norm has divided by its length, and cosines and sines of queries and of
    # keys; Transformer Engine's kernels do not.
    divided = (2 + 2 * shape.has_sandwich_norms) * 64 + shape.has_qk_norm * (4 + 2) * 16
    besides = 4 * TOKENS * (divided + 2 * 2 * 16)
    assert 0.85 * planned < total[0] - besides < 1.05 * planned
