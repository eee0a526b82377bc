"""Validate a run: everything that is known to be wrong before a process or a GPU is touched."""

import logging
import shutil
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from megatron_rl.config import (
    OWN_NAME,
    GeneratorsConfig,
    Precision,
    RunConfig,
    planned_stages,
    resolve_precision,
)
from megatron_rl.data.prompts import build_prompt
from megatron_rl.data.system_message import is_left_out
from megatron_rl.errors import ConfigError
from megatron_rl.learner.checkpoint.model_identity import check_same_model
from megatron_rl.learner.checkpoint.steps import latest_step, step_folder
from megatron_rl.model_spec import ModelSpec
from megatron_rl.parallelism.layouts import Layout, check_world_size
from megatron_rl.programs.builders.demonstrations import load_demonstrations
from megatron_rl.programs.builders.hardware import local_device
from megatron_rl.programs.builders.model import (
    base_weights,
    check_model_folder,
    check_precision_of,
    checked_spec,
    layout_of,
)
from megatron_rl.programs.builders.prompts import (
    PromptSet,
    load_tokenizer,
)
from megatron_rl.programs.builders.server import (
    check_evaluation_sampling,
    check_one_machine,
    check_quantized_serving_here,
    check_served_dtype,
    checked_flags,
    serving_device,
)
from megatron_rl.programs.builders.stop_tokens import warn_of_unstopped_turns
from megatron_rl.programs.builders.thinking import open_thinking
from megatron_rl.programs.campaign.current_stage import naming
from megatron_rl.programs.checks.quantized_servers import check_quantized_servers
from megatron_rl.programs.checks.server_ranks import check_server_ranks
from megatron_rl.programs.checks.weight_transport import check_weight_transport
from megatron_rl.programs.curriculum.sources import load_train_sources
from megatron_rl.programs.loops.held_out import load_held_out
from megatron_rl.programs.processes.logs import start_logging
from megatron_rl.programs.processes.ports import free_port
from megatron_rl.run_dir import RunDir
from megatron_rl.telemetry import check_telemetry

_LOG = logging.getLogger(__name__)


def validate_run(config: RunConfig, *, is_outside: bool = False) -> None:
    """Check model, layout, data, flags and packages; raise the first error with its remedy.

    Args:
        is_outside: whether the programs run in images that cannot be seen from here; what depends
            on their packages, each of them checks itself, and torch is not imported.
    """
    spec = checked_spec(config)
    check_world_size(layout_of(config.learner.parallel), world_size=config.learner.num_processes)
    device = None if is_outside else local_device()
    check_precision_of(config, spec, device)
    if device is not None:
        check_weight_transport(config.weights, on_cpu=device.capability is None)
    check_served_dtype(config)
    check_quantized_servers(config, spec)
    if serving_device(config.generators.sglang) == "cuda":
        check_server_ranks(config.generators, spec)
    _check_checkpoints(RunDir(config.run_dir), spec)
    pretrained = base_weights(config)
    if pretrained is not None:
        check_model_folder(pretrained, spec, compares_copies=not is_outside)
    if not is_outside:
        check_telemetry(
            tensorboard=config.telemetry.tensorboard, wandb_project=config.telemetry.wandb_project
        )
        _check_serving(config.generators)
    tokenizer = load_tokenizer(config.model.path)
    _LOG.info("%s", open_thinking(config, tokenizer))
    _check_system_message(config, tokenizer)
    warn_of_unstopped_turns(config, tokenizer)
    for train in load_train_sources(config, tokenizer):
        _check_row(config, train.config.path, train.prompts)
        if train.reserve is not None and train.config.reserve is not None:
            _check_row(config, train.config.reserve, train.reserve)
    for held_out in load_held_out(config, tokenizer):
        _LOG.info("held-out %s", held_out)
    if config.sft is not None:
        load_demonstrations(config, config.sft, tokenizer)
    if not is_outside:
        _check_pass_through(config, spec)  # takes seconds: last


def validate_local_run(config: RunConfig) -> None:
    """Check a run, and each of its stages, that is to run on this machine alone."""
    for planned in planned_stages(config):
        with naming(planned):
            check_one_machine(planned.generators)
            validate_run(planned)
            check_quantized_serving_here(planned)


def _check_system_message(config: RunConfig, tokenizer: Any) -> None:
    """Refuse a chat template that refuses a system message; warn of one that leaves it out."""
    asked = _system_prompts(config)
    if not asked:
        return
    kwargs = config.data.template_kwargs

    def prompt_of(system_prompt: str) -> tuple[int, ...]:
        return build_prompt(
            tokenizer, "1 + 1?", system_prompt=system_prompt, template_kwargs=kwargs
        )

    if not is_left_out(prompt_of):
        return
    for key, setting in asked.items():
        _LOG.warning(
            '%s ("%s") is left out by the chat template of model.path, so that responses are never '
            "asked for their format; write the system message in the template, or set "
            '%s = "none" and ask in the problems',
            *(key, setting, key),
        )


def _system_prompts(config: RunConfig) -> dict[str, Path | str]:
    """Return the system prompts that are asked with, by the key that sets each."""
    asked: dict[str, Path | str] = {"data.system_prompt": config.data.system_prompt}
    own = {
        f"evaluation.sets.{given.name}.system_prompt": given.system_prompt
        for given in config.evaluation.sets
    } | {
        f"data.train.{place}.system_prompt": source.system_prompt
        for place, source in enumerate(config.data.sources)
    }
    asked |= {key: setting for key, setting in own.items() if setting is not None}
    return {key: setting for key, setting in asked.items() if setting != "none"}


def _check_checkpoints(run_dir: RunDir, spec: ModelSpec) -> None:
    """Refuse to resume with another model than the run's checkpoints are of."""
    for folder in (run_dir.checkpoints, run_dir.sft / "checkpoints"):
        step = latest_step(folder)
        if step is not None:
            check_same_model(step_folder(folder, step), spec)


def _check_row(config: RunConfig, path: Path, prompts: PromptSet) -> None:
    """Refuse a token budget that a prompt with its longest completion would not fit."""
    longest = prompts.longest
    needed = longest + config.generators.sampling.max_new_tokens
    if needed > config.learner.token_budget:
        raise ConfigError(
            f"learner.token_budget ({config.learner.token_budget}) must be >= {needed}: the "
            f"longest prompt of {path} has {longest} tokens, and "
            f"generators.sampling.max_new_tokens is {config.generators.sampling.max_new_tokens}"
        )


def _check_serving(generators: GeneratorsConfig) -> None:
    """Look for the serving interpreter, and for ports that are taken."""
    if shutil.which(generators.python) is None:
        raise ConfigError(
            f"generators.python ({generators.python}) is not an executable; make the serving "
            "environment (make env) or name its interpreter"
        )
    # In a job of several nodes servers bind their own nodes' ports, and this is none of them.
    if generators.port and generators.host != OWN_NAME:
        for index in range(generators.num_servers):
            free_port(generators.host, generators.port + index)


def _check_pass_through(config: RunConfig, spec: ModelSpec) -> None:
    """Ask the installed Megatron and SGLang whether they know the settings handed to them."""
    learner = config.learner
    if learner.megatron:
        precision = resolve_precision(learner.precision, dtype=config.model.dtype)
        # In another process: Megatron has no place in the launcher, which only looks on.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            layout = layout_of(learner.parallel)
            pool.submit(_check_megatron, learner.megatron, spec, layout, precision).result()
    checked_flags(config.generators)
    check_evaluation_sampling(config)


def _check_megatron(
    overrides: Mapping[str, Any], spec: ModelSpec, layout: Layout, precision: Precision
) -> None:
    start_logging()
    # They import Megatron, which takes seconds.
    from megatron_rl.learner.model.gpt_model import PARAMETER_TYPES, transformer_config
    from megatron_rl.learner.model.overrides import check_overrides

    check_overrides(overrides)
    # Values that do not go together, Megatron itself refuses.
    transformer_config(spec, layout, dtype=PARAMETER_TYPES[precision], overrides=overrides)
