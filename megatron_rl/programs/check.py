"""``megatron-rl check``: a look before the leap, at what a run would sample and what it would earn.

A few groups are sampled from a server of the run's model, read and judged as in training, and
shown token by token; then the learner computes the log-probs of the same tokens. It costs minutes
where a wrong template costs a week.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from megatron_rl.config import RunConfig
from megatron_rl.data.curriculum.source import CurriculumSource
from megatron_rl.errors import ConfigError, MegatronRLError
from megatron_rl.hf_folder import has_weights
from megatron_rl.programs.builders.prompts import (
    load_tokenizer,
)
from megatron_rl.programs.builders.served_policy import OpenPolicy, ServedPolicy
from megatron_rl.programs.checks.compare_with_learner import LogprobComparison, compare_with_learner
from megatron_rl.programs.checks.validate_run import validate_run
from megatron_rl.programs.curriculum.sources import curriculum_sources, load_train_sources
from megatron_rl.programs.loops.first_look import lines_of, look
from megatron_rl.programs.processes.asyncio_signals import run_until_signal
from megatron_rl.rollout.first_samples import FirstSamples, warnings_of
from megatron_rl.types import Group, Sample

_HEAD, _TAIL = 80, 40
"""Tokens of a long response that are shown."""


def main(config: RunConfig, options: argparse.Namespace) -> int:
    """Look, compare, print, and return the exit code.

    Returns:
        0, or 1 when the run could not learn: no response has the format, or the learner computes
        other log-probs than the server reports.

    Raises:
        ConfigError, DataError, ModelError: what ``train`` would refuse.
        ProgramError: the server did not start.
    """
    # What a model says may look like markup.
    console = Console(soft_wrap=True, markup=False)
    validate_run(config)
    policy = ServedPolicy(config, options.model)
    model = policy.config.model.path
    if not has_weights(model):
        raise ConfigError(
            f"{model} has no weights to sample from (model.init is "
            f'"{config.model.init}"); look after the cold start, or name a model with --model'
        )
    tokenizer = load_tokenizer(model)
    loaded = load_train_sources(policy.config, tokenizer)
    sources = curriculum_sources(policy.config, loaded)
    found: list[tuple[list[Group], FirstSamples]] = []
    with policy.served() as served:
        code = run_until_signal(_look(served, sources, tokenizer, options.groups, found))
    if code != 0:
        return code
    ((groups, first),) = found
    for line in _shown(groups, tokenizer):
        console.print(line)
    for text in lines_of(first):
        console.print(text)
    problems = list(warnings_of(first))
    for warning in problems:
        console.print(Text(f"WARNING: {warning}", style="bold yellow"))
    comparison = None
    if not options.no_learner:
        comparison = _compare(policy.config, groups, first, console)
    is_well = first.well_formed > 0 and (comparison is None or comparison.agrees)
    return 0 if is_well else 1


async def _look(
    served: OpenPolicy,
    sources: Sequence[CurriculumSource],
    tokenizer: Any,
    num_groups: int,
    found: list[tuple[list[Group], FirstSamples]],
) -> None:
    async with served.open_inference(tokenizer) as clients:
        found.append(await look(served.config, clients, sources, num_groups=num_groups))


def _compare(
    config: RunConfig, groups: list[Group], first: FirstSamples, console: Console
) -> LogprobComparison | None:
    """Print how far the learner's log-probs are from the server's; None where it cannot be said."""
    with tempfile.TemporaryDirectory(prefix="megatron-rl-check-") as folder:
        try:
            if first.num_lost:
                raise ConfigError("verifiers failed, so that some groups are not whole")
            comparison = compare_with_learner(config, groups, run_dir=Path(folder))
        except MegatronRLError as error:
            console.print(f"log-probs are not compared with the learner's: {error}")
            return None
    console.print(str(comparison))
    return comparison


def _shown(groups: list[Group], tokenizer: Any) -> Iterator[Text]:
    """Yield a prompt and two responses to it token by token: a right one, if any, and another."""
    group = max(groups, key=lambda group: len({s.verdict.correct for s in group.samples}))
    yield Text(f"problem {group.problem.id}, prompt of {len(group.prompt_ids)} tokens", "bold")
    yield _tokens(tokenizer, group.prompt_ids)
    for sample in _examples(group):
        verdict, length = sample.verdict, len(sample.completion.token_ids)
        outcome = "right" if verdict.correct else f"not right: {verdict.reason}"
        end = sample.completion.finish_reason
        yield Text(
            f"response of {length} tokens ({end}), reward {sample.reward.total:.3f}, {outcome}",
            "bold",
        )
        yield _tokens(tokenizer, sample.completion.token_ids)


def _examples(group: Group) -> list[Sample]:
    ordered = sorted(group.samples, key=lambda sample: not sample.verdict.correct)
    return [ordered[0], ordered[-1]] if len(ordered) > 1 else ordered


def _tokens(tokenizer: Any, token_ids: tuple[int, ...]) -> Text:
    """Return the tokens between bars, without the middle of a long text; line breaks as \\n."""
    words = [repr(tokenizer.decode([token]))[1:-1] for token in token_ids]
    if len(words) > _HEAD + _TAIL:
        left_out = len(words) - _HEAD - _TAIL
        words = [*words[:_HEAD], f"... {left_out} tokens ...", *words[-_TAIL:]]
    return Text("|".join(words))
