"""Rules that span sections. Each says key, value, rule and remedy."""

from collections.abc import Iterator

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
    if learner.num_processes % parallel.tp:
        yield (
            f"learner.parallel.tp ({parallel.tp}) must divide learner.num_processes "
            f"({learner.num_processes})"
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
    algorithm, sampling = config.algorithm, config.generators.sampling
    if algorithm.clip_high < algorithm.clip_low:
        yield (
            f"algorithm.clip_high ({algorithm.clip_high}) must be >= algorithm.clip_low "
            f"({algorithm.clip_low})"
        )
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
