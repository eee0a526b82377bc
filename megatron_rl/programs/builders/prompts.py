"""Problem files with their prompt token ids, checked before anything starts."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from megatron_rl.config import JudgeConfig, RewardConfig, RunConfig
from megatron_rl.conversion.families import read_model_spec
from megatron_rl.data.problems import load_problems
from megatron_rl.data.prompts import build_prompts, load_system_prompt
from megatron_rl.data.vocabulary import check_token_ids
from megatron_rl.errors import ModelError
from megatron_rl.programs.builders.judge import find_problem_faults, kinds_of
from megatron_rl.types import Problem


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptSet:
    """Problems and the prompt token ids of each."""

    problems: Sequence[Problem]
    prompts: Sequence[tuple[int, ...]]


def load_tokenizer(model_path: Path) -> Any:
    """Return the Hugging Face tokenizer of a model folder; ModelError when there is none."""
    from transformers import AutoTokenizer  # late: importing takes seconds

    try:
        return AutoTokenizer.from_pretrained(str(model_path), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{model_path}: its tokenizer cannot be loaded: {error}") from error


def load_run_prompts(config: RunConfig, path: Path, tokenizer: Any) -> PromptSet:
    """Load a problem file under the limits of the run."""
    return load_prompts(
        path,
        tokenizer=tokenizer,
        model_path=config.model.path,
        system_prompt=config.data.system_prompt,
        context_length=config.generators.context_length,
        max_new_tokens=config.generators.sampling.max_new_tokens,
        judge=config.judge,
        reward=config.reward,
    )


def load_prompts(
    path: Path,
    *,
    tokenizer: Any,
    model_path: Path,
    system_prompt: Path | Literal["default", "none"],
    context_length: int | None,
    max_new_tokens: int,
    judge: JudgeConfig,
    reward: RewardConfig,
) -> PromptSet:
    """Read and tokenize a problem file; DataError names what is wrong with it.

    Args:
        path: problem file.
        tokenizer: of the model.
        model_path: Hugging Face folder, asked for its vocabulary, and for its limit when
            ``context_length`` is None.
        system_prompt: the setting ``data.system_prompt``.
        context_length: longest prompt plus completion.
        max_new_tokens: longest completion.
        judge: names the kinds of problems that can be judged.
        reward: what is judged.
    """
    spec = read_model_spec(model_path)
    if context_length is None:
        context_length = spec.max_positions
    problems = load_problems(
        path,
        kinds=kinds_of(judge),
        check=functools.partial(find_problem_faults, judge=judge, reward=reward),
    )
    prompts = build_prompts(
        tokenizer,
        problems,
        system_prompt=load_system_prompt(system_prompt),
        context_length=context_length,
        max_new_tokens=max_new_tokens,
    )
    names = (f'{path}: the prompt of problem "{problem.id}"' for problem in problems)
    check_token_ids(
        zip(names, prompts, strict=True),
        vocab_size=spec.vocab_size,
        token_of=tokenizer.convert_ids_to_tokens,
    )
    return PromptSet(problems=problems, prompts=prompts)
