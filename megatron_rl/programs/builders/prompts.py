"""Problem files with their prompt token ids, checked before anything starts."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_rl.config import RunConfig
from megatron_rl.conversion.families import read_model_spec
from megatron_rl.data.problems import load_problems
from megatron_rl.data.prompts import build_prompts
from megatron_rl.data.vocabulary import check_token_ids
from megatron_rl.errors import ModelError
from megatron_rl.programs.builders.judge import find_problem_faults, kinds_of
from megatron_rl.programs.builders.thinking import open_thinking, prompt_maker
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
    """Read and tokenize a problem file under the limits of the run.

    Raises:
        DataError: names what is wrong with the file.
        ConfigError: a prompt opens its thought in tags that are not in force.
        ModelError: a prompt has a token that the model lacks.
    """
    spec = read_model_spec(config.model.path)
    context_length = config.generators.context_length
    if context_length is None:
        context_length = spec.max_positions
    make_prompt = prompt_maker(config, tokenizer, open_thinking(config, tokenizer))
    problems = load_problems(
        path,
        kinds=kinds_of(config.judge),
        check=functools.partial(find_problem_faults, judge=config.judge, reward=config.reward),
    )
    prompts = build_prompts(
        make_prompt,
        problems,
        context_length=context_length,
        max_new_tokens=config.generators.sampling.max_new_tokens,
    )
    names = (f'{path}: the prompt of problem "{problem.id}"' for problem in problems)
    check_token_ids(
        zip(names, prompts, strict=True),
        vocab_size=spec.vocab_size,
        token_of=tokenizer.convert_ids_to_tokens,
    )
    return PromptSet(problems=problems, prompts=prompts)
