"""Problem files with their prompt token ids, checked before anything starts."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megatron_rl.config import DataConfig, RunConfig, column_names, resolve
from megatron_rl.config.columns import ColumnsConfig
from megatron_rl.conversion.families import read_model_spec
from megatron_rl.data.lazy_sequence import LazySequence
from megatron_rl.data.problem_file import ProblemFile, chosen_rows, open_problem_file
from megatron_rl.data.prompts import longest_prompt, too_long
from megatron_rl.data.vocabulary import check_token_ids
from megatron_rl.errors import DataError, ModelError
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
            longest=self.longest,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ProblemSource:
    """File of problems, with the settings that say how it is read."""

    path: Path
    rows: str | None
    rows_key: str
    columns: ColumnsConfig | None


def training_source(data: DataConfig) -> ProblemSource:
    """Return the problems to train on."""
    return ProblemSource(
        path=data.train, rows=data.rows, rows_key="data.rows", columns=data.columns
    )


def evaluation_source(data: DataConfig) -> ProblemSource | None:
    """Return the held-out problems, None without them."""
    if data.evaluation is None:
        return None
    return ProblemSource(
        path=data.evaluation,
        rows=data.evaluation_rows,
        rows_key="data.evaluation_rows",
        columns=evaluation_columns(data),
    )


def evaluation_columns(data: DataConfig) -> ColumnsConfig | None:
    """Return the columns of held-out problems."""
    return data.columns if data.evaluation_columns is None else data.evaluation_columns


def given_source(path: Path, columns: ColumnsConfig | None) -> ProblemSource:
    """Return a file of the command line, of which all rows are used."""
    return ProblemSource(path=path, rows=None, rows_key="", columns=columns)


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
    file = open_problem_file(source.path, column_names(source.columns))
    chosen = chosen_rows(source.rows, len(file.rows), key=source.rows_key)
    survey = survey_problems(
        file,
        chosen,
        judge=config.judge,
        reward=config.reward,
        drops_unusable=config.data.unusable == "drop",
    )
    make_prompt = prompt_maker(config, tokenizer, open_thinking(config, tokenizer))
    survey, longest = _that_fit(config, survey, make_prompt)
    prompts = _prompts(config, survey, make_prompt)
    problems = LazySequence(lambda row: file.row(row).problem, survey.rows_P)
    _check_vocabulary(config, source.path, problems, prompts, tokenizer)
    lines = LazySequence(file.rows.line, survey.rows_P)
    return PromptSet(problems=problems, prompts=prompts, lines=lines, longest=longest)


def _that_fit(config: RunConfig, survey: Survey, make_prompt: MakePromptFn) -> tuple[Survey, int]:
    """Leave out, or refuse, problems whose prompts are too long; return the longest of the rest."""
    limits = _limits(config)
    limit = longest_prompt(**limits)
    fits_row = config.learner.token_budget - limits["max_new_tokens"]
    measure = functools.partial(_measure, config, survey.file, make_prompt)
    lengths_P = prompt_lengths(
        survey, make_prompt, exact_above=min(limit, fits_row), measure=measure
    )
    rows_of, is_too_long_P = survey.file.rows, lengths_P > limit
    texts = {}
    for place in np.flatnonzero(is_too_long_P)[:10].tolist():
        row = int(survey.rows_P[place])
        fault = too_long(survey.file.row(row).problem.id, int(lengths_P[place]), **limits)
        texts[row] = f"{rows_of.where(row)}: {fault}"
    drops = config.data.unusable == "drop" and not is_too_long_P.all()
    drop_or_refuse(texts, num=int(is_too_long_P.sum()), drops=drops, file=survey.file)
    return survey.only(~is_too_long_P), int(lengths_P[~is_too_long_P].max())


def _prompts(
    config: RunConfig, survey: Survey, make_prompt: MakePromptFn
) -> LazySequence[tuple[int, ...]]:
    limits = _limits(config)

    def make(row: int) -> tuple[int, ...]:
        problem_row = survey.file.row(row)
        prompt = make_prompt(problem_row.asked)
        if len(prompt) > longest_prompt(**limits):
            where, fault = survey.file.rows.where(row), problem_row.problem.id
            raise DataError(f"{where}: {too_long(fault, len(prompt), **limits)}")
        return prompt

    return LazySequence(make, survey.rows_P)


def _limits(config: RunConfig) -> dict[str, int]:
    context_length = config.generators.context_length
    if context_length is None:
        context_length = read_model_spec(config.model.path).max_positions
    return {
        "context_length": context_length,
        "max_new_tokens": config.generators.sampling.max_new_tokens,
    }


def _measure(
    config: RunConfig, file: ProblemFile, make_prompt: MakePromptFn, rows_N: np.ndarray
) -> np.ndarray:
    """Return the lengths of the prompts of [N] rows, which ascend."""
    if len(rows_N) <= _ALONE:
        return _lengths(file, rows_N, make_prompt)
    text = config.model_dump_json()
    pieces = np.split(rows_N, range(_PART, len(rows_N), _PART))
    parts = [
        _Part(file=file.part(int(piece[0]), int(piece[-1]) + 1), rows_N=piece, config=text)
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


def _measure_part(part: _Part) -> np.ndarray:
    return _lengths(part.file, part.rows_N, _maker_of(part.config))


@functools.lru_cache(maxsize=1)
def _maker_of(config_text: str) -> MakePromptFn:
    """Return what makes prompts, made once in each process."""
    config = resolve(json.loads(config_text))
    tokenizer = load_tokenizer(config.model.path)
    return prompt_maker(config, tokenizer, open_thinking(config, tokenizer))


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
    vocab_size = read_model_spec(config.model.path).vocab_size
    if max(tokenizer.get_vocab().values()) < vocab_size:
        return
    names = (f'{path}: the prompt of problem "{problem.id}"' for problem in problems)
    check_token_ids(
        zip(names, prompts, strict=True),
        vocab_size=vocab_size,
        token_of=tokenizer.convert_ids_to_tokens,
    )
