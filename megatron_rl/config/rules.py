"""Rules that span sections. Each says key, value, rule and remedy."""

from collections.abc import Iterator

from megatron_rl.config.algorithm import (
    NO_FLOOR,
    AlgorithmConfig,
    correction_bounds,
    loss_settings,
)
from megatron_rl.config.sections import RunConfig
from megatron_rl.errors import ConfigError


def check_rules(config: RunConfig) -> None:
    """Raise ConfigError naming every broken rule."""
    broken = [*_rollout(config), *_layout(config), *_optimizers(config), *_algorithm(config)]
    if broken:
        raise ConfigError("\n".join(broken))


def _rollout(config: RunConfig) -> Iterator[str]:
    rollout = config.rollout
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
    if minibatch is not None and rollout.n_batch % minibatch:
        yield (
            f"rollout.n_batch ({rollout.n_batch}) must be a multiple of rollout.n_minibatch "
            f"({minibatch})"
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
    if bounds is None:
        for key in ("correction_low", "correction_high"):
            if getattr(algorithm, key) is not None:
                yield f'algorithm.{key} needs algorithm.correction = "tis", "mis" or "icepop"'
    elif bounds.low > bounds.high:
        yield (
            f"algorithm.correction_low ({bounds.low}) must be <= algorithm.correction_high "
            f"({bounds.high})"
        )
