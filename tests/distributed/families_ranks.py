"""What the ranks of test_families_tp2.py do."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from megatron.core.distributed import finalize_model_grads
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy

from megatron_rl.conversion.families import read_model_spec
from megatron_rl.hf_folder import WeightReader
from megatron_rl.learner.device.parallel import (
    Parallel,
    initialize_parallel,
    rank_from_environment,
    shut_down_parallel,
)
from megatron_rl.learner.device.platform import CpuPlatform
from megatron_rl.learner.hf_weights import load_weights
from megatron_rl.learner.model.gpt_model import build_chunks, transformer_config
from megatron_rl.learner.weight_stream import named_weights
from megatron_rl.model_spec import ModelSpec
from megatron_rl.parallelism.layouts import Layout
from tests.tiny_models import tensor_on_disk, tiny_model

LENGTHS = [23, 1, 40, 9, 70, 33]  # sequence parallelism divides their sum by 2


def compare_at_tp2(argument: Any) -> dict[str, Any]:
    """Return per case how far two ranks are from transformers, and whether weights came back.

    Args:
        argument: {"folders": case of tiny_models -> its Hugging Face folder, "etp"}.
    """
    platform = CpuPlatform(num_threads=1)
    platform.install()
    etp = argument["etp"]
    # What both ranks hold of an expert would have its gradient scattered over them.
    layout = Layout(tp=2, sp=True, pp=1, vpp=1, cp=1, ep=2 // etp, etp=etp)
    parallel = initialize_parallel(rank_from_environment(os.environ), platform, layout, seed=0)
    outcome = {
        case: _compare(case, Path(folder), parallel, platform)
        for case, folder in argument["folders"].items()
    }
    shut_down_parallel()
    return outcome


def _compare(case: str, folder: Path, parallel: Parallel, platform: CpuPlatform) -> dict[str, Any]:
    spec, read = read_model_spec(folder), WeightReader(folder)
    config = transformer_config(spec, parallel.layout, dtype=torch.float32, overrides={})
    (mine,) = build_chunks(
        spec, config, parallel, platform, overlap_grad_reduce=False, overlap_param_gather=False
    )
    load_weights([mine.module], spec, parallel, read)
    written = {name: t.clone() for name, t in _stream(mine.module, spec, parallel)}
    is_exact = set(written) == read.names and all(
        torch.equal(tensor, read(name)) for name, tensor in written.items()
    )
    ids = torch.randint(0, 61, (sum(LENGTHS),), generator=torch.Generator().manual_seed(1))
    actual_T, grads = _mine(mine, ids, spec, parallel)
    expected_T, expected_grads = _theirs(case, ids)
    return {
        "logprobs": float((actual_T - expected_T).abs().max()),
        "gradients": {
            name: float((grad - tensor_on_disk(expected_grads, name)).norm() / (1e-6 + grad.norm()))
            for name, grad in grads.items()
            if not name.endswith("correction_bias")  # takes part in the choice of experts alone
        },
        "is exact": is_exact,
    }


def _stream(
    model: torch.nn.Module, spec: ModelSpec, parallel: Parallel
) -> Iterator[tuple[str, torch.Tensor]]:
    return named_weights([model], spec, parallel, batch_bytes=10_000)


def _theirs(case: str, ids: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model = tiny_model(case)
    logits = torch.cat([model(part[None]).logits[0] for part in ids.split(LENGTHS)])
    logprobs_T = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]
    logprobs_T.mean().backward()
    return logprobs_T.detach(), {name: param.grad for name, param in model.named_parameters()}


def _mine(
    model: Any, ids: torch.Tensor, spec: ModelSpec, parallel: Parallel
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the [T] log-probs of one packed row, and the gradients by Hugging Face name."""
    edges = torch.tensor([0, *itertools.accumulate(LENGTHS)], dtype=torch.int32)
    packed = PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=edges,
        cu_seqlens_kv=edges,
        max_seqlen_q=max(LENGTHS),
        max_seqlen_kv=max(LENGTHS),
    )
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    model.zero_grad_buffer()
    logits_TV = model(ids[None], positions[None], None, packed_seq_params=packed)[0]
    part = logits_TV.shape[1]
    is_padding = torch.arange(part) + parallel.tp_rank * part >= spec.vocab_size
    logprobs_T = -vocab_parallel_cross_entropy(logits_TV.masked_fill(is_padding, -1e9), ids)
    logprobs_T.mean().backward()
    finalize_model_grads([model], None)
    with torch.no_grad():  # gradients take the way out that weights take
        for param in model.parameters():
            param.copy_(param.main_grad)
    grads = {name: t.clone() for name, t in _stream(model.module, spec, parallel)}
    return logprobs_T.detach(), grads
