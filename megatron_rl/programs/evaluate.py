"""``megatron-rl evaluate``: score a model on held-out problems and print the scores as JSON.

Which servers are asked: see ``programs.builders.served_policy``.
"""

import argparse
import json
from typing import Any

from megatron_rl.config import RunConfig
from megatron_rl.errors import ConfigError
from megatron_rl.programs.builders.inference import evaluate_served_policy
from megatron_rl.programs.builders.prompts import (
    PromptSet,
    evaluation_columns,
    evaluation_source,
    given_source,
    load_run_prompts,
    load_tokenizer,
)
from megatron_rl.programs.builders.served_policy import OpenPolicy, ServedPolicy
from megatron_rl.programs.processes.asyncio_signals import run_until_signal


def main(config: RunConfig, options: argparse.Namespace) -> int:
    """Evaluate and return the exit code.

    Args:
        config: the run.
        options: ``problems``, ``num_samples`` and ``model``, see the command line.

    Raises:
        ConfigError: there is no problem file to evaluate on.
        DataError, ModelError: the problems or the model cannot be used.
        ProgramError: the server did not start.
    """
    source = evaluation_source(config.data)
    if options.problems is not None:
        source = given_source(options.problems, evaluation_columns(config.data))
    if source is None:
        raise ConfigError("nothing to evaluate on: give --problems, or set data.evaluation")
    num_samples = options.num_samples
    if num_samples is None:
        num_samples = config.evaluation.num_samples
    policy = ServedPolicy(config, options.model)
    tokenizer = load_tokenizer(policy.config.model.path)
    prompts = load_run_prompts(policy.config, source, tokenizer)
    with policy.served() as served:
        return run_until_signal(_evaluate(served, prompts, tokenizer, num_samples))


async def _evaluate(
    served: OpenPolicy, prompts: PromptSet, tokenizer: Any, num_samples: int
) -> None:
    async with served.open_inference(tokenizer) as clients:
        result = await evaluate_served_policy(
            served.config, clients, prompts, num_samples=num_samples
        )
    print(json.dumps(result.record(), indent=1))
