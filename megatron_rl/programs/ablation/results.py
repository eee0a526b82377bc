"""Results of an ablation: report.html and summary.json, of however much there is."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_rl.programs.ablation.definition import Variant, overrides_of
from megatron_rl.programs.ablation.plan import Plan, PlannedRun
from megatron_rl.programs.ablation.progress import progress_of
from megatron_rl.programs.ablation.settings_files import settings_in_use
from megatron_rl.report.ablation.page import write_ablation_page
from megatron_rl.report.ablation.records import RunRecords, VariantRecords
from megatron_rl.report.ablation.scores import SetScores, VariantScores, score_variants
from megatron_rl.report.summary import latest_by, phase_seconds
from megatron_rl.run_dir import RunDir, read_jsonl, write_json

UNNAMED_SET = "data.evaluation"
"""Key of the held-out set without a name in summary.json."""


def write_results(plan: Plan) -> Path:
    """Write both files and return the page's path."""
    folder = RunDir(plan.definition.run_dir)
    variants = [_variant_records(plan, variant) for variant in plan.definition.variants]
    scores = score_variants(variants)
    write_json(folder.summary, summarize_ablation(plan, variants, scores))
    num_done = sum(row.num_done for row in scores)
    write_ablation_page(
        folder.report,
        title=folder.root.name,
        question=plan.definition.question,
        subtitle=f"{num_done} of {len(plan.runs)} runs are complete; {_beginning(plan)}. "
        f"Base: {' '.join([plan.definition.base.name, *plan.overrides])}",
        variants=variants,
        scores=scores,
    )
    return folder.report


def summarize_ablation(
    plan: Plan, variants: Sequence[VariantRecords], scores: Sequence[VariantScores]
) -> dict[str, Any]:
    """Return summary.json: each variant's scores with their spread, and where each run is."""
    return {
        "question": plan.definition.question,
        "base": str(plan.definition.base),
        "base_overrides": list(plan.overrides),
        "seeds": list(plan.definition.seeds),
        "reference": variants[0].name,
        "variants": [
            {
                "name": row.name,
                "settings": row.settings,
                "runs": {str(run.seed): run.progress for run in variant.runs},
                "num_done": row.num_done,
                "pass@1": _named(row.sets),
                **{name: None if n is None else asdict(n) for name, n in row.numbers.items()},
            }
            for variant, row in zip(variants, scores, strict=True)
        ],
    }


def describe_variant(variant: Variant) -> str:
    """Return what a variant changes, in one line."""
    if variant.start_of is not None:
        return f"the first evaluation of {variant.start_of}"
    words = [setting.replace("=", " = ", 1) for setting in overrides_of(variant.set)]
    words += ["begins at the model"] if variant.begins_at == "model" else []
    return ", ".join(words) or "nothing"


def _named(sets: Mapping[str | None, SetScores]) -> dict[str, Any]:
    return {UNNAMED_SET if name is None else name: asdict(found) for name, found in sets.items()}


def _beginning(plan: Plan) -> str:
    if not plan.starts:
        return f"each begins at the model of {plan.definition.base}"
    if len(plan.starts) == 1:
        return f"all begin at {plan.starts[0].name}, so that the spread is that of RL alone"
    return "each seed has a start of its own, so that the spread is that of both"


def _variant_records(plan: Plan, variant: Variant) -> VariantRecords:
    return VariantRecords(
        name=variant.name,
        settings=describe_variant(variant),
        runs=[_run_records(run) for run in plan.of_variant(variant.name)],
        start_of=variant.start_of,
    )


def _run_records(run: PlannedRun) -> RunRecords:
    run_dir, progress = RunDir(run.config.run_dir), progress_of(settings_in_use(run.config))
    seconds = phase_seconds(read_jsonl(run_dir.phases))
    return RunRecords(
        seed=run.seed,
        stage=progress.stage,
        progress=str(progress),
        metrics=latest_by(read_jsonl(run_dir.metrics), "step"),
        evaluations=list(read_jsonl(run_dir.evaluations)),
        wall_s=sum(seconds.values()) if seconds else None,
    )
