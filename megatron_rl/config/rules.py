"""Cross-section rules of the configuration. Each error says key, value, rule and remedy."""

import math
from collections.abc import Iterator
from typing import Any

from megatron_rl.config.algorithm import (
    NO_FLOOR,
    AlgorithmConfig,
    CorrectionBounds,
    LossSettings,
    correction_bounds,
    loss_settings,
)
from megatron_rl.config.columns import ColumnsConfig
from megatron_rl.config.held_out import held_out_faults, held_out_sets
from megatron_rl.config.judging import JudgeConfig, RewardConfig
from megatron_rl.config.learner import Fp8Config, LearnerConfig, resolve_precision
from megatron_rl.config.lifecycle import lifecycle_rules
from megatron_rl.config.rope import rope_override_faults, rope_scaling_faults
from megatron_rl.config.sections import DifficultyConfig, GeneratorsConfig, RunConfig
from megatron_rl.config.sources import source_rules
from megatron_rl.errors import ConfigError

# A worker by itself takes a third of this. A solution's output passes through a pipe, is taken
# apart, and becomes text of up to four bytes a character.
_WORKER_MB, _TIMES_ITS_OUTPUT = 128, 8
# Arguments of a tokenizer's apply_chat_template that are no variables of a template, or are ours.
_OWN_TEMPLATE_ARGUMENTS = {
    *("conversation", "messages", "chat_template", "add_generation_prompt", "tokenize"),
    *("continue_final_message", "return_dict", "return_tensors", "return_assistant_tokens_mask"),
    *("padding", "truncation", "max_length", "tokenizer_kwargs"),
}
# Keys of [learner.fp8] that Megatron and Transformer Engine ignore, or refuse, with other recipes.
_RECIPES_OF_KEY = {
    "margin": ["delayed"],
    "amax_history_len": ["delayed"],
    "amax_compute_algo": ["delayed"],
    "wgrad": ["delayed"],
    "tp_only_amax_red": ["delayed", "tensorwise"],
    "first_last_layers_bf16": ["tensorwise", "blockwise", "mxfp8"],
    "num_layers_at_start_in_bf16": ["tensorwise", "blockwise", "mxfp8"],
    "num_layers_at_end_in_bf16": ["tensorwise", "blockwise", "mxfp8"],
}


def check_rules(config: RunConfig) -> None:
    """Raise ConfigError naming every broken rule."""
    broken = [
        *_rollout(config),
        *_layout(config),
        *_optimizers(config),
        *_precision(config),
        *_algorithm(config),
        *_difficulty(config.difficulty),
        *_containers(config),
        *_judge(config.judge),
        *_thinking(config.reward),
        *_template_kwargs(config.data.template_kwargs),
        *_columns("data.columns", config.data.columns),
        *_columns("data.evaluation_columns", config.data.evaluation_columns),
        *_set_columns(config),
        *held_out_faults(config),
        *_mixture(config),
        *_servers(config.generators),
        *_quantization(config),
        *rope_scaling_faults(config.model.rope_scaling),
        *rope_override_faults(config.generators.sglang),
        *_sampling(config),
        *_cold_start(config),
    ]
    if broken:
        raise ConfigError("\n".join(broken))


def check_judge_rules(judge: JudgeConfig, reward: RewardConfig) -> None:
    """Raise ConfigError naming every broken rule of the judge and the reward."""
    if broken := [*_judge(judge), *_thinking(reward)]:
        raise ConfigError("\n".join(broken))


def _judge(judge: JudgeConfig) -> Iterator[str]:
    least_mb = _WORKER_MB + _TIMES_ITS_OUTPUT * judge.code.output_mb
    if judge.memory_mb < least_mb:
        yield (
            f"judge.memory_mb ({judge.memory_mb}) must be >= {least_mb}, which is {_WORKER_MB} and "
            f"{_TIMES_ITS_OUTPUT} times judge.code.output_mb ({judge.code.output_mb}): a worker "
            "compares what solutions print"
        )


def _thinking(reward: RewardConfig) -> Iterator[str]:
    if isinstance(reward.thinking, str):
        return
    opening, closing = reward.thinking
    given = f'reward.thinking (["{opening}", "{closing}"])'
    for tag in (opening, closing):
        if not tag or tag != tag.strip():
            yield f'{given} must name two tags without blanks around them, got "{tag}"'
    if opening and closing and (opening in closing or closing in opening):
        yield f"{given} must name two tags of which neither is in the other; change one"


def _template_kwargs(kwargs: dict[str, Any]) -> Iterator[str]:
    for name in sorted(_OWN_TEMPLATE_ARGUMENTS & kwargs.keys()):
        yield (
            f"data.template_kwargs.{name} ({kwargs[name]!r}) must not be set: the package sets it; "
            "remove the key"
        )


def _difficulty(wanted: DifficultyConfig) -> Iterator[str]:
    if wanted.min_pass_rate > wanted.max_pass_rate:
        yield (
            f"difficulty.min_pass_rate ({wanted.min_pass_rate}) must be <= "
            f"difficulty.max_pass_rate ({wanted.max_pass_rate})"
        )


def _columns(where: str, columns: ColumnsConfig | None) -> Iterator[str]:
    if columns is None:
        return
    if columns.problem is not None and columns.messages is not None:
        yield (
            f'{where}.problem ("{columns.problem}") and {where}.messages ("{columns.messages}") '
            "must not be given together: a prompt asks one of them; remove one"
        )
    for key in ("problem", "messages", "answer", "id", "kind"):
        if getattr(columns, key) == "":
            yield f'{where}.{key} ("") must name a column; remove the key, or name one'


def _set_columns(config: RunConfig) -> Iterator[str]:
    for given in config.evaluation.sets:
        yield from _columns(f"evaluation.sets.{given.name}.columns", given.columns)


def _mixture(config: RunConfig) -> Iterator[str]:
    data, rollout = config.data, config.rollout
    if not data.is_mixture:
        if data.reserve_rows is not None and data.reserve is None:
            yield "data.reserve_rows needs data.reserve; name the file, or remove the key"
        yield from lifecycle_rules(data.lifecycle, {"data.reserve": data.reserve is not None})
        return
    given = [key for key in ("rows", "reserve", "reserve_rows") if getattr(data, key) is not None]
    reserves = {
        f"data.train.{place}.reserve": source.reserve is not None
        for place, source in enumerate(data.sources)
    }
    yield from lifecycle_rules(data.lifecycle, reserves)
    yield from source_rules(
        data.sources,
        given=given,
        n_minibatch=rollout.minibatch,
        n_async=rollout.n_async,
    )
    for place, source in enumerate(data.sources):
        yield from _columns(f"data.train.{place}.columns", source.columns)


def _rollout(config: RunConfig) -> Iterator[str]:
    rollout = config.rollout
    yield from _group_size(config)
    if rollout.lag > 1 and rollout.mode != "lagged":
        yield (
            f'rollout.lag ({rollout.lag}) is for rollout.mode = "lagged", which is '
            f'"{rollout.mode}" here; remove it, or set the mode'
        )
    minibatch = rollout.n_minibatch
    if minibatch is not None and rollout.n_batch % minibatch:
        yield (
            f"rollout.n_batch ({rollout.n_batch}) must be a multiple of rollout.n_minibatch "
            f"({minibatch})"
        )


def _group_size(config: RunConfig) -> Iterator[str]:
    """Check rollout.group_size, unless every source has its own."""
    rollout = config.rollout
    if all(source.group_size is not None for source in config.data.sources):
        return
    if rollout.n_batch % rollout.group_size:
        nearest = max(1, round(rollout.n_batch / rollout.group_size)) * rollout.group_size
        yield (
            f"rollout.n_batch ({rollout.n_batch}) must be a multiple of rollout.group_size "
            f"({rollout.group_size}); nearest: {nearest}"
        )
    minibatch = rollout.n_minibatch
    if minibatch is not None and minibatch % rollout.group_size:
        yield (
            f"rollout.n_minibatch ({minibatch}) must be a multiple of rollout.group_size "
            f"({rollout.group_size}), since a group is never split"
        )
    if rollout.n_async < rollout.group_size:
        yield (
            f"rollout.n_async ({rollout.n_async}) must be >= rollout.group_size "
            f"({rollout.group_size}), or no group is ever whole in flight"
        )


def _layout(config: RunConfig) -> Iterator[str]:
    learner, parallel = config.learner, config.learner.parallel
    model_size = parallel.tp * parallel.pp * parallel.cp
    if learner.num_processes % model_size:
        yield (
            f"learner.num_processes ({learner.num_processes}) must be a multiple of "
            f"learner.parallel tp * pp * cp ({parallel.tp} * {parallel.pp} * {parallel.cp} = "
            f"{model_size})"
        )
    if parallel.sp and parallel.tp == 1:
        yield "learner.parallel.sp needs learner.parallel.tp >= 2; set sp = false"
    if parallel.overlap_param_gather and not parallel.overlap_grad_reduce:
        yield "learner.parallel.overlap_param_gather needs overlap_grad_reduce = true"
    limit = config.generators.sampling.max_new_tokens
    if learner.token_budget < limit:
        yield (
            f"learner.token_budget ({learner.token_budget}) must hold one completion: "
            f"generators.sampling.max_new_tokens is {limit}"
        )


def _optimizers(config: RunConfig) -> Iterator[str]:
    optimizers = {"learner.optimizer": config.learner.optimizer}
    if config.sft is not None:
        optimizers["sft.optimizer"] = config.sft.optimizer
    for where, optimizer in optimizers.items():
        if optimizer.min_lr is not None and optimizer.min_lr > optimizer.lr:
            yield f"{where}.min_lr ({optimizer.min_lr}) must be <= {where}.lr ({optimizer.lr})"


def _precision(config: RunConfig) -> Iterator[str]:
    learner = config.learner
    precision = resolve_precision(learner.precision, dtype=config.model.dtype)
    for section, owner in (("fp8", "fp8"), ("loss_scale", "fp16")):
        is_default = getattr(learner, section) == getattr(LearnerConfig(), section)
        if precision != owner and not is_default:
            yield (
                f'[learner.{section}] is for learner.precision = "{owner}", which is "{precision}" '
                "here; remove the table, or set the precision"
            )
    if precision == "fp8":
        yield from _fp8(learner.fp8)
    yield from _loss_scale(learner)


def _fp8(fp8: Fp8Config) -> Iterator[str]:
    for key, recipes in _RECIPES_OF_KEY.items():
        is_default = getattr(fp8, key) == getattr(Fp8Config(), key)
        if fp8.recipe not in recipes and not is_default:
            yield (
                f"learner.fp8.{key} ({getattr(fp8, key)}) does nothing or fails with "
                f'learner.fp8.recipe = "{fp8.recipe}"; remove it, or use {" or ".join(recipes)}'
            )


def _loss_scale(learner: LearnerConfig) -> Iterator[str]:
    scale = learner.loss_scale
    if scale.minimum > scale.initial:
        yield (
            f"learner.loss_scale.minimum ({scale.minimum}) must be <= learner.loss_scale.initial "
            f"({scale.initial})"
        )


def _containers(config: RunConfig) -> Iterator[str]:
    container = config.launch.container
    if container.runtime != "none" and container.learner_image is None:
        yield (
            f'launch.container.runtime ("{container.runtime}") needs '
            "launch.container.learner_image, in which learn, rollout and preflight run"
        )
    if container.unpack_once and not (container.runtime == "pyxis" and config.launch.preflight):
        yield (
            'launch.container.unpack_once (true) needs launch.container.runtime = "pyxis" and '
            "launch.preflight = true, which unpacks the images; set it to false"
        )


def _servers(generators: GeneratorsConfig) -> Iterator[str]:
    tp, span = generators.tp, generators.nodes_per_server
    if tp % span:
        yield (
            f"generators.tp ({tp}) must be a multiple of generators.nodes_per_server ({span}), "
            "whose nodes all get as many ranks"
        )


def _quantization(config: RunConfig) -> Iterator[str]:
    if config.generators.quantization == "none":
        return
    asked = f'generators.quantization ("{config.generators.quantization}")'
    if config.model.dtype != "bfloat16":
        yield (
            f'{asked} needs model.dtype = "bfloat16", which is "{config.model.dtype}" here: '
            "servers compute with bfloat16 on both sides of an FP8 matrix"
        )
    if config.weights.transport == "disk":
        yield (
            f'{asked} cannot be used with weights.transport ("disk"), whose folders have weights '
            'of model.dtype; set weights.transport = "auto"'
        )
    for flag in config.generators.sglang:
        if flag.replace("-", "_") == "json_model_override_args":
            yield (
                f"generators.sglang.{flag} cannot be used with {asked}, which sets this flag; "
                "write the changes into config.json of model.path"
            )


def _cold_start(config: RunConfig) -> Iterator[str]:
    if config.sft is None or config.sft.select != "evaluation":
        return
    if not held_out_sets(config):
        yield (
            'sft.select ("evaluation") needs held-out problems; set data.evaluation or '
            '[[evaluation.sets]], or sft.select = "last"'
        )
    if config.generators.nodes_per_server > 1:
        yield (
            'sft.select ("evaluation") serves each candidate on one node, and '
            f"generators.nodes_per_server is {config.generators.nodes_per_server}; "
            'set sft.select = "last"'
        )


def _sampling(config: RunConfig) -> Iterator[str]:
    training, flags = config.generators.sampling, config.generators.sglang
    drafts = [name for name in flags if name.replace("-", "_") == "speculative_algorithm"]
    if training.is_truncated and drafts:
        yield (
            f"generators.sglang.{drafts[0]} ({flags[drafts[0]]!r}) cannot be used with "
            "generators.sampling.top_p < 1, top_k or min_p: SGLang does not report what drafted "
            "tokens were chosen from, without which training is biased; remove one of them"
        )


def _algorithm(config: RunConfig) -> Iterator[str]:
    yield from _loss(config.algorithm)
    sampling = config.generators.sampling
    cache = config.reward.length_cache
    if cache is not None and cache > sampling.max_new_tokens:
        yield (
            f"reward.length_cache ({cache}) must be <= generators.sampling.max_new_tokens "
            f"({sampling.max_new_tokens})"
        )
    context = config.generators.context_length
    if context is not None and context <= sampling.max_new_tokens:
        yield (
            f"generators.context_length ({context}) must be > "
            f"generators.sampling.max_new_tokens ({sampling.max_new_tokens}): the prompt needs room"
        )


def _loss(algorithm: AlgorithmConfig) -> Iterator[str]:
    settings = loss_settings(algorithm)
    if settings.clip_low < NO_FLOOR and settings.clip_high < settings.clip_low:
        yield (
            f"algorithm.clip_high ({settings.clip_high}) must be >= algorithm.clip_low "
            f"({settings.clip_low})"
        )
    bounds = correction_bounds(algorithm)
    yield from _log_ratio_bound(algorithm.log_ratio_bound, settings, bounds)
    if bounds is None:
        for key in ("correction_low", "correction_high"):
            if getattr(algorithm, key) is not None:
                yield f'algorithm.{key} needs algorithm.correction = "tis", "mis" or "icepop"'
    elif bounds.low > bounds.high:
        yield (
            f"algorithm.correction_low ({bounds.low}) must be <= algorithm.correction_high "
            f"({bounds.high})"
        )


def _log_ratio_bound(
    bound: float, settings: LossSettings, correction: CorrectionBounds | None
) -> Iterator[str]:
    ceilings = {"1 + algorithm.clip_high": 1 + settings.clip_high}
    if correction is not None:
        ceilings["algorithm.correction_high"] = correction.high
    for name, ceiling in ceilings.items():
        if math.log(ceiling) >= bound:
            yield (
                f"algorithm.log_ratio_bound ({bound}) must be > the logarithm of {name} "
                f"({math.log(ceiling):.3g}): ratios are bounded before they are clipped or masked"
            )
