"""Problem files with their prompt token ids, checked before anything starts."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from megatron_rl.config import DataConfig, HeldOutSet, RunConfig, column_names, resolve
from megatron_rl.config.columns import ColumnsConfig
from megatron_rl.data.lazy_sequence import LazySequence
from megatron_rl.data.problem_file import ProblemFile, chosen_rows, open_problem_file
from megatron_rl.data.prompts import longest_prompt, too_long
from megatron_rl.data.vocabulary import check_token_ids
from megatron_rl.errors import DataError, ModelError
from megatron_rl.programs.builders.model import trained_spec
from megatron_rl.programs.builders.parallel_parts import map_parts
from megatron_rl.programs.builders.problem_survey import Survey, drop_or_refuse, survey_problems
from megatron_rl.programs.builders.prompt_lengths import MakePromptFn, prompt_lengths
from megatron_rl.programs.builders.thinking import open_thinking, prompt_maker
from megatron_rl.types import Problem

_PART = 1000
_ALONE = 4000


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptSet:
    """Problems and the prompt token ids of each, read and made when asked for."""

    problems: Sequence[Problem]
    prompts: Sequence[tuple[int, ...]]
    lines: Sequence[str]
    """The records of the file, as lines of JSON."""
    keys_P: np.ndarray
    """[P] uint64 digests of the ids of the problems."""
    longest: int
    """Tokens of the longest prompt, or more; exact where it decides whether the run can start."""

    def at(self, places: Sequence[int]) -> "PromptSet":
        """Return the problems at some places, in their order."""
        assert isinstance(self.problems, LazySequence) and isinstance(self.prompts, LazySequence)
        assert isinstance(self.lines, LazySequence)
        return PromptSet(
            problems=self.problems.at(places),
            prompts=self.prompts.at(places),
            lines=self.lines.at(places),
            keys_P=self.keys_P[np.asarray(places, dtype=np.int64)],
            longest=self.longest,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """Settings of what is answered otherwise than in training."""

    max_new_tokens: int
    """Longest completion."""
    max_new_tokens_key: str
    """Setting that says so."""
    system_prompt: Path | Literal["default", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProblemSource:
    """File of problems, with the settings that say how it is read."""

    path: Path
    rows: str | None
    rows_key: str
    columns: ColumnsConfig | None
    kind: str | None = None
    """Kind of all problems, None where their rows say it."""
    answered: Answered | None = None
    """None for completions that are trained on."""


def training_sources(data: DataConfig) -> tuple[ProblemSource, ...]:
    """Return the files of problems to train on."""
    return tuple(
        _read_as(data, place, path=source.path, rows=source.rows, rows_key="rows")
        for place, source in enumerate(data.sources)
    )


def reserve_sources(data: DataConfig) -> tuple[ProblemSource | None, ...]:
    """Return the file of harder problems of each source, None where it has none."""
    return tuple(
        None
        if source.reserve is None
        else _read_as(
            data, place, path=source.reserve, rows=source.reserve_rows, rows_key="reserve_rows"
        )
        for place, source in enumerate(data.sources)
    )


def _read_as(
    data: DataConfig, place: int, *, path: Path, rows: str | None, rows_key: str
) -> ProblemSource:
    """Return a file that is read as the source at ``place`` says."""
    source = data.sources[place]
    return ProblemSource(
        path=path,
        rows=rows,
        rows_key=f"data.train.{place}.{rows_key}" if data.is_mixture else f"data.{rows_key}",
        columns=data.columns if source.columns is None else source.columns,
        kind=source.kind,
    )


def held_out_source(held_out: HeldOutSet) -> ProblemSource:
    """Return the problems of a held-out set, which may be answered at greater length."""
    return ProblemSource(
        path=held_out.path,
        rows=held_out.rows,
        rows_key=held_out.rows_key,
        columns=held_out.columns,
        answered=Answered(
            max_new_tokens=held_out.max_new_tokens,
            max_new_tokens_key=held_out.max_new_tokens_key,
            system_prompt=held_out.system_prompt,
        ),
    )


def load_tokenizer(model_path: Path) -> Any:
    """Return the Hugging Face tokenizer of a model folder; ModelError when there is none."""
    from transformers import AutoTokenizer  # late: importing takes seconds

    try:
        return AutoTokenizer.from_pretrained(str(model_path), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{model_path}: its tokenizer cannot be loaded: {error}") from error


def load_run_prompts(config: RunConfig, source: ProblemSource, tokenizer: Any) -> PromptSet:
    """Check a problem file under the limits of the run, and open it.

    Raises:
        DataError: names what is wrong with the file.
        ConfigError: its rows are none, or a prompt opens its thought in tags that are not in
            force.
        ModelError: the chat template refuses a prompt, or the model lacks its tokens.
    """
    file = open_problem_file(source.path, column_names(source.columns, kind=source.kind))
    chosen = chosen_rows(source.rows, len(file.rows), key=source.rows_key)
    survey = survey_problems(
        file,
        chosen,
        judge=config.judge,
        reward=config.reward,
        drops_unusable=config.data.unusable == "drop",
    )
    answered = _answered(config) if source.answered is None else source.answered
    make_prompt = _prompt_maker(config, answered, tokenizer)
    # Rows of the learner hold what is trained on.
    budget = config.learner.token_budget if source.answered is None else None
    survey, longest = _that_fit(config, survey, make_prompt, answered, token_budget=budget)
    prompts = _prompts(config, survey, make_prompt, answered)
    problems = LazySequence(lambda row: file.row(row).problem, survey.rows_P)
    _check_vocabulary(config, source.path, problems, prompts, tokenizer)
    lines = LazySequence(file.rows.line, survey.rows_P)
    return PromptSet(
        problems=problems, prompts=prompts, lines=lines, keys_P=survey.keys_P, longest=longest
    )


def _that_fit(
    config: RunConfig,
    survey: Survey,
    make_prompt: MakePromptFn,
    answered: Answered,
    *,
    token_budget: int | None,
) -> tuple[Survey, int]:
    """Leave out, or refuse, problems whose prompts are too long; return the longest of the rest."""
    limits = _limits(config, answered)
    limit = longest_prompt(**limits)
    fits_row = limit if token_budget is None else token_budget - answered.max_new_tokens
    measure = functools.partial(_measure, config, answered, survey.file, make_prompt)
    lengths_P = prompt_lengths(
        survey, make_prompt, exact_above=min(limit, fits_row), measure=measure
    )
    rows_of, is_too_long_P = survey.file.rows, lengths_P > limit
    texts = {}
    for place in np.flatnonzero(is_too_long_P)[:10].tolist():
        row = int(survey.rows_P[place])
        name = survey.file.row(row).problem.id
        texts[row] = f"{rows_of.where(row)}: {_fault(config, answered, name, lengths_P[place])}"
    drops = config.data.unusable == "drop" and not is_too_long_P.all()
    drop_or_refuse(texts, num=int(is_too_long_P.sum()), drops=drops, file=survey.file)
    return survey.only(~is_too_long_P), int(lengths_P[~is_too_long_P].max())


def _prompts(
    config: RunConfig, survey: Survey, make_prompt: MakePromptFn, answered: Answered
) -> LazySequence[tuple[int, ...]]:
    limit = longest_prompt(**_limits(config, answered))

    def make(row: int) -> tuple[int, ...]:
        problem_row = survey.file.row(row)
        prompt = make_prompt(problem_row.asked)
        if len(prompt) > limit:
            where, name = survey.file.rows.where(row), problem_row.problem.id
            raise DataError(f"{where}: {_fault(config, answered, name, len(prompt))}")
        return prompt

    return LazySequence(make, survey.rows_P)


def _fault(config: RunConfig, answered: Answered, problem_id: str, num_tokens: int) -> str:
    """Return what is wrong with a prompt that is too long."""
    return too_long(
        problem_id,
        int(num_tokens),
        **_limits(config, answered),
        max_new_tokens_key=answered.max_new_tokens_key,
    )


def _answered(config: RunConfig) -> Answered:
    """Return how problems are answered in training."""
    return Answered(
        max_new_tokens=config.generators.sampling.max_new_tokens,
        max_new_tokens_key="generators.sampling.max_new_tokens",
        system_prompt=config.data.system_prompt,
    )


def _prompt_maker(config: RunConfig, answered: Answered, tokenizer: Any) -> MakePromptFn:
    thinking = open_thinking(config, tokenizer)
    return prompt_maker(config, tokenizer, thinking, system_prompt=answered.system_prompt)


def _limits(config: RunConfig, answered: Answered) -> dict[str, int]:
    context_length = config.generators.context_length
    if context_length is None:
        context_length = trained_spec(config).max_positions
    return {"context_length": context_length, "max_new_tokens": answered.max_new_tokens}


def _measure(
    config: RunConfig,
    answered: Answered,
    file: ProblemFile,
    make_prompt: MakePromptFn,
    rows_N: np.ndarray,
) -> np.ndarray:
    """Return the lengths of the prompts of [N] rows, which ascend."""
    if len(rows_N) <= _ALONE:
        return _lengths(file, rows_N, make_prompt)
    text = config.model_dump_json()
    pieces = np.split(rows_N, range(_PART, len(rows_N), _PART))
    parts = [
        _Part(
            file=file.part(int(piece[0]), int(piece[-1]) + 1),
            rows_N=piece,
            config=text,
            answered=answered,
        )
        for piece in pieces
    ]
    sizes = [len(piece) for piece in pieces]
    what = "measuring prompts"
    return np.concatenate(list(map_parts(_measure_part, parts, sizes, what=what, alone=_ALONE)))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """Task of a process: rows whose prompts are made."""

    file: ProblemFile
    rows_N: np.ndarray
    config: str
    answered: Answered


def _measure_part(part: _Part) -> np.ndarray:
    return _lengths(part.file, part.rows_N, _maker_of(part.config, part.answered))


@functools.lru_cache(maxsize=1)
def _maker_of(config_text: str, answered: Answered) -> MakePromptFn:
    """Return what makes prompts, made once in each process."""
    config = resolve(json.loads(config_text))
    return _prompt_maker(config, answered, load_tokenizer(config.model.path))


def _lengths(file: ProblemFile, rows_N: np.ndarray, make_prompt: MakePromptFn) -> np.ndarray:
    lengths = [len(make_prompt(file.row(row).asked)) for row in rows_N.tolist()]
    return np.array(lengths, dtype=np.int64)


def _check_vocabulary(
    config: RunConfig,
    path: Path,
    problems: Sequence[Problem],
    prompts: Sequence[tuple[int, ...]],
    tokenizer: Any,
) -> None:
    """Refuse prompts with tokens that the model lacks; looked for if the tokenizer has such."""
    vocab_size = trained_spec(config).vocab_size
    if max(tokenizer.get_vocab().values()) < vocab_size:
        return
    names = (f'{path}: the prompt of problem "{problem.id}"' for problem in problems)
    check_token_ids(
        zip(names, prompts, strict=True),
        vocab_size=vocab_size,
        token_of=tokenizer.convert_ids_to_tokens,
    )
