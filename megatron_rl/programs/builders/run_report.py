"""Summary and report of a run, from what it left in its folder."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from megatron_rl.batch import Batch, load_batch
from megatron_rl.config import RunConfig
from megatron_rl.programs.builders.prompts import load_tokenizer
from megatron_rl.report.completion_views import view_of
from megatron_rl.report.completions import CompletionView
from megatron_rl.report.page import write_report
from megatron_rl.report.summary import phase_seconds, summarize
from megatron_rl.run_dir import RunDir, read_jsonl, write_json

_MAX_STEPS_SHOWN = 24
_PER_STEP = 6


def write_run_report(config: RunConfig) -> dict[str, Any]:
    """Write both files and return the summary."""
    run_dir = RunDir(config.run_dir)
    metrics = list(read_jsonl(run_dir.metrics))
    evaluations = list(read_jsonl(run_dir.evaluations))
    sft_metrics = list(read_jsonl(run_dir.sft / "metrics.jsonl"))
    summary = summarize(
        metrics=metrics,
        evaluations=evaluations,
        sft_metrics=sft_metrics,
        phase_seconds=phase_seconds(read_jsonl(run_dir.phases)),
    )
    write_json(run_dir.summary, summary)
    write_report(
        run_dir.report,
        title=run_dir.root.name,
        summary=summary,
        metrics=metrics,
        evaluations=evaluations,
        sft_metrics=sft_metrics,
        stages=list(read_jsonl(run_dir.stages)),
        completions=list(_completions(run_dir, load_tokenizer(config.model.path))),
    )
    return summary


def _completions(run_dir: RunDir, tokenizer: Any) -> Iterator[CompletionView]:
    """Yield a few completions of steps spread over the run."""
    paths = sorted(run_dir.batches.glob("step_*.safetensors"))
    if not paths:
        return
    shown = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), _MAX_STEPS_SHOWN)).astype(int))
    for index in shown:
        path = paths[index]
        batch = load_batch(path)
        step = int(path.stem.removeprefix("step_"))
        picked = np.linspace(0, batch.num_sequences - 1, min(batch.num_sequences, _PER_STEP))
        for sequence in np.unique(picked.astype(int)):
            yield _view(batch, int(sequence), step, tokenizer)


def _view(batch: Batch, index: int, step: int, tokenizer: Any) -> CompletionView:
    tokens = slice(int(batch.sequences.offsets[index]), int(batch.sequences.offsets[index + 1]))
    mask = batch.sequences.loss_mask_T[tokens]
    return view_of(
        batch.samples[index],
        step=step,
        token_ids=batch.sequences.token_ids_T[tokens][mask].tolist(),
        versions=batch.policy_versions_T[tokens][mask].tolist(),
        decode=tokenizer.decode,
    )
