"""``megatron-rl traces``: correct completions of a run as demonstrations of a cold start.

The batch files are read twice: once for numbers, by which lines are chosen, and once to write the
chosen ones. So a few batches are in memory at a time, and some numbers of each correct completion.
"""

import argparse
import logging
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from megatron_rl.algorithm.trace_selection import (
    Selection,
    SelectionRules,
    language_gaps,
    num_general,
    select,
)
from megatron_rl.batch_files import written_steps
from megatron_rl.config import RunConfig
from megatron_rl.data.rows import Rows
from megatron_rl.data.sft_files import open_sft_rows
from megatron_rl.errors import ConfigError, DataError
from megatron_rl.programs.distillation.batch_survey import (
    BatchFile,
    batch_files,
    survey_batches,
)
from megatron_rl.programs.distillation.run_survey import RunSurvey, gather
from megatron_rl.programs.distillation.trace_files import ChosenTraces, manifest_of, write_traces
from megatron_rl.run_dir import RunDir

_LOG = logging.getLogger(__name__)
_GENERAL_SHARE = 0.1  # arXiv:2506.10910, section 5.3
_FORMAT_VERSION = 1
# What few problems are taken for is likely a mistake of the classifier.
_SHARE_WORTH_A_WARNING = 0.01


def main(config: RunConfig, options: argparse.Namespace) -> int:
    """Write the traces of a run and their manifest; exit code 0.

    Args:
        config: of the run.
        options: see the command line.

    Raises:
        DataError: there is no batch, one is damaged, no completion is left, or a general pair is
            malformed.
        ConfigError: arguments that do not go together, or an output that cannot be written.
    """
    rules = SelectionRules(
        from_step=options.from_step,
        min_length_quantile=options.min_length_quantile,
        per_problem=options.per_problem,
        upsample=options.upsample,
        seed=options.seed,
    )
    share = _share(options)
    general = None if options.mix is None else open_sft_rows(options.mix)
    steps, missing = _steps(config)
    files = batch_files(_with_model(config, options.model), steps)
    survey = gather(survey_batches(files), from_step=rules.from_step)
    selection = _select(survey, rules, RunDir(config.run_dir))
    places = _general_places(general, selection, share, options)
    header = {
        "format_version": _FORMAT_VERSION,
        "run_dir": str(config.run_dir),
        "steps": _ranges(steps),
        "missing_steps": _ranges(missing),
        "rules": _rules_given(options, share),
        "totals": _totals(survey, selection, num_mixed=len(places)),
    }
    _warn_of_languages(survey, selection)
    chosen = [_chosen_of(file, survey, selection) for file in files]
    try:
        write_traces(options.out, header, chosen, general=general, general_places=places)
    except OSError as error:
        raise ConfigError(f"--out {options.out}: cannot be written: {error.strerror}") from error
    _show(options.out, header["totals"])
    return 0


def _with_model(config: RunConfig, folder: Path | None) -> RunConfig:
    if folder is None:
        return config
    model = config.model.model_copy(update={"path": folder.absolute()})
    return config.model_copy(update={"model": model})


def _share(options: argparse.Namespace) -> float:
    """Return the share of general pairs; ConfigError where there are none to take."""
    if options.mix is None:
        if options.share is not None:
            raise ConfigError(f"--share {options.share:g}: of which pairs? Name them with --mix")
        return 0.0
    return _GENERAL_SHARE if options.share is None else options.share


def _steps(config: RunConfig) -> tuple[list[int], list[int]]:
    """Return the steps whose batches are there, and those before the last that are gone."""
    run_dir, kept = RunDir(config.run_dir), config.checkpoint.keep_batches
    steps = written_steps(run_dir)
    if not steps:
        raise DataError(f"{run_dir.batches}: no batch is there, so there are no traces to take")
    missing = sorted(set(range(steps[-1])) - set(steps))
    if missing:
        remedy = (
            "bring them back if traces of them are wanted"
            if kept is None
            else f"the run removed them, for checkpoint.keep_batches was {kept}; leave that key "
            "out and a run keeps all its batches"
        )
        _LOG.warning(
            "%s: the batches of %d of %d steps are not there (%s), and no trace of them; %s",
            *(run_dir.batches, len(missing), steps[-1] + 1, _ranges(missing), remedy),
        )
    return steps, missing


def _select(survey: RunSurvey, rules: SelectionRules, run_dir: RunDir) -> Selection:
    """Return the lines to write; DataError or ConfigError where there are none."""
    num_candidates = len(survey.places_C)
    if not num_candidates:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(survey.left_out.items()))
        raise DataError(
            f"{run_dir.batches}: none of {survey.num_completions} completions is a correct one "
            f"that a pair can say ({counts}), so there are no traces to take"
        )
    selection = select(
        survey.candidates,
        pass_rates_P=survey.pass_rates_P,
        language_counts_L=survey.language_counts_L,
        rules=rules,
    )
    if not selection.copies_C.any():
        last = int(survey.candidates.steps_C[-1])
        raise ConfigError(
            f"--from-step {rules.from_step} and --min-length-quantile "
            f"{rules.min_length_quantile:g} leave none of {num_candidates} traces, the last of "
            f"which is of step {last}; lower them"
        )
    return selection


def _general_places(
    general: Rows | None, selection: Selection, share: float, options: argparse.Namespace
) -> list[int]:
    """Draw the rows of the general pairs; ConfigError where the file has too few."""
    if general is None:
        return []
    num_lines = int(selection.copies_C.sum())
    wanted = num_general(num_lines, share)
    if wanted > len(general):
        most = len(general) / (len(general) + num_lines)
        raise ConfigError(
            f"--share {share:g} beside {num_lines} traces needs {wanted} general pairs, and --mix "
            f"{options.mix} has {len(general)}; add some, or lower --share to {most:.3g}"
        )
    random = np.random.default_rng([options.seed, 1])
    places: list[int] = random.permutation(len(general))[:wanted].tolist()
    return places


def _rules_given(options: argparse.Namespace, share: float) -> dict[str, Any]:
    return {
        "from_step": options.from_step,
        "min_length_quantile": options.min_length_quantile,
        "per_problem": options.per_problem,
        "upsample": options.upsample,
        "mix": None if options.mix is None else str(options.mix),
        "share": share,
        "seed": options.seed,
    }


def _totals(survey: RunSurvey, selection: Selection, *, num_mixed: int) -> dict[str, Any]:
    """Return the counts of the manifest: completions = those left out + traces."""
    copies_C, candidates = selection.copies_C, survey.candidates
    num_lines, num_traces = int(copies_C.sum()), int((copies_C > 0).sum())
    lines_L = np.bincount(candidates.languages_C, weights=copies_C, minlength=len(survey.languages))
    counts_L = survey.language_counts_L
    return {
        "batches": survey.num_batches,
        "completions": survey.num_completions,
        "left_out": {**survey.left_out, **selection.left_out},
        "traces": num_traces,
        "problems": len(np.unique(candidates.problems_C[copies_C > 0])),
        "repeated_lines": num_lines - num_traces,
        "general_lines": num_mixed,
        "lines": num_lines + num_mixed,
        "retokenised_traces": int(survey.is_retokenised_C[copies_C > 0].sum()),
        "shortest_thoughts": selection.min_length,
        "languages": {
            name: {
                "share_in_batches": round(int(counts_L[i]) / max(1, int(counts_L.sum())), 6),
                "share_in_traces": round(int(lines_L[i]) / num_lines, 6),
            }
            for i, name in enumerate(survey.languages)
        },
    }


def _warn_of_languages(survey: RunSurvey, selection: Selection) -> None:
    """Name the languages that have too few traces to keep their share."""
    counts_L = survey.language_counts_L
    gaps_L = language_gaps(selection.copies_C, survey.candidates.languages_C, counts_L)
    worth_L = counts_L >= _SHARE_WORTH_A_WARNING * counts_L.sum()
    named = [
        f"{survey.languages[i]} by {gaps_L[i]}" for i in np.flatnonzero((gaps_L > 0) & worth_L)
    ]
    if named:
        _LOG.warning(
            "languages with fewer lines than their share in the batches asks for, since a line is "
            "repeated a few times at most: %s",
            ", ".join(named),
        )


def _chosen_of(file: BatchFile, survey: RunSurvey, selection: Selection) -> ChosenTraces:
    """Return what becomes lines of one file; candidates are in the order of the steps."""
    steps_C = survey.candidates.steps_C
    start, stop = np.searchsorted(steps_C, [file.step, file.step + 1])
    copies = selection.copies_C[start:stop]
    return ChosenTraces(
        file=file,
        places=tuple(survey.places_C[start:stop][copies > 0].tolist()),
        copies=tuple(copies[copies > 0].tolist()),
    )


def _ranges(steps: Sequence[int]) -> str:
    """Return whole numbers, which ascend, as people write them: "0 to 3, 7"."""
    runs = [
        [step for _, step in run]
        for _, run in groupby(enumerate(steps), key=lambda pair: pair[1] - pair[0])
    ]
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _show(out: Path, totals: dict[str, Any]) -> None:
    """Print the counts on stderr and the files on stdout."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row(f"completions of {totals['batches']} batches", f"{totals['completions']:,}")
    for reason, count in totals["left_out"].items():
        table.add_row(f"  left out: {reason.replace('_', ' ')}", f"{count:,}")
    table.add_row(f"traces of {totals['problems']:,} problems", f"{totals['traces']:,}")
    table.add_row("lines that repeat one", f"{totals['repeated_lines']:,}")
    table.add_row("general pairs", f"{totals['general_lines']:,}")
    table.add_row("lines", f"{totals['lines']:,}")
    Console(stderr=True).print(table)
    print(out)
    print(manifest_of(out))
