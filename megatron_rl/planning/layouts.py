"""Which parallel layouts a model allows. Pure arithmetic with a remedy in every refusal."""

from megatron_rl.errors import ConfigError


def check_tensor_parallel(*, tp_size: int, num_heads: int, num_groups: int, ffn_size: int) -> None:
    """Raise ConfigError when tensor parallelism cannot cut this model evenly.

    Args:
        tp_size: tensor-parallel ranks.
        num_heads: query heads.
        num_groups: key/value heads; a rank needs at least one.
        ffn_size: inner size of the feed-forward layers.
    """
    sizes = {"attention heads": num_heads, "key/value heads": num_groups, "ffn size": ffn_size}
    broken = [f"{name} ({size})" for name, size in sizes.items() if size % tp_size]
    if broken:
        legal = [n for n in range(1, num_groups + 1) if all(s % n == 0 for s in sizes.values())]
        nearest = sorted(legal, key=lambda n: (abs(n - tp_size), n))[:2]
        raise ConfigError(
            f"learner.parallel.tp ({tp_size}) does not divide the model's {' and '.join(broken)}; "
            f"nearest legal: {', '.join(f'tp={n}' for n in sorted(nearest))}"
        )
