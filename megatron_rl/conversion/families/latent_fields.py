"""Latent attention as a Hugging Face config states it (DeepSeek-V2 and V3)."""

from collections.abc import Mapping
from typing import Any

from megatron_rl.conversion.families.rope_fields import rope_table
from megatron_rl.errors import ModelError
from megatron_rl.model_spec import LatentAttention

Config = Mapping[str, Any]

_ROPE_KINDS = ("default", "yarn")
# transformers reads these, servers do not.
_UNREAD_BY_SERVERS = ("attention_factor", "truncate")


def latent_head_dims(config: Config) -> tuple[int, int]:
    """Return how many dimensions of a query or key are not rotated, and how many are.

    Raises:
        ModelError: other fields of the config say something else.
    """
    plain, rotated = config["qk_nope_head_dim"], config["qk_rope_head_dim"]
    if rotated % 2:
        raise ModelError(
            f"qk_rope_head_dim ({rotated}) must be even: the rotary embedding turns pairs"
        )
    # transformers writes the two down that follow from these.
    implied = {"head_dim": rotated, "qk_head_dim": plain + rotated}
    for name, size in implied.items():
        if config[name] not in (None, size):
            raise ModelError(
                f"{name} ({config[name]}) must be {size}, which follows from qk_nope_head_dim "
                f"({plain}) and qk_rope_head_dim ({rotated}); remove it"
            )
    return plain, rotated


def read_latent(config: Config) -> LatentAttention:
    """Return the latent attention of a config that is completed by what its family implies.

    Raises:
        ModelError: a variant that Megatron does not have, or that servers read in another way.
    """
    heads, keys = config["num_attention_heads"], config["num_key_value_heads"]
    if keys not in (None, heads):
        raise ModelError(
            f"num_key_value_heads ({keys}) must be num_attention_heads ({heads}): every head of "
            "latent attention has a key and a value of its own"
        )
    return LatentAttention(
        query_rank=config["q_lora_rank"],
        kv_rank=config["kv_lora_rank"],
        value_dim=config["v_head_dim"],
        mscale=_mscale(rope_table(config)),
    )


def _mscale(table: Config) -> float:
    """Return the factor in the scale of scores, of a rotary embedding that is understood."""
    kind = table["rope_type"]
    if kind not in _ROPE_KINDS:
        raise ModelError(
            f"rope_type {kind!r} with latent attention is not supported: servers compute YaRN "
            f"whatever it says; known: {', '.join(_ROPE_KINDS)}"
        )
    if kind == "default":
        return 0.0
    unread = sorted(name for name in _UNREAD_BY_SERVERS if name in table)
    if unread:
        raise ModelError(
            f"{' and '.join(unread)} of yarn rope scaling with latent attention is not supported: "
            "servers pass over it"
        )
    mscale, of_all = (table.get(name) for name in ("mscale", "mscale_all_dim"))
    if not mscale or mscale != of_all:
        raise ModelError(
            f"mscale ({mscale}) of yarn rope scaling with latent attention must be > 0 and equal "
            f"mscale_all_dim ({of_all}), as in every release: rotated dimensions would be scaled "
            "apart from the others, which transformers and servers do differently"
        )
    return float(mscale)
