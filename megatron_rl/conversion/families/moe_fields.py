"""Mixture of experts as a Hugging Face config states it, in the names of every family."""

from collections.abc import Mapping, Sequence
from typing import Any

from megatron_rl.conversion.families.tables import ExpertNames
from megatron_rl.errors import ModelError
from megatron_rl.model_spec import MoeSpec, SharedExpert, SigmoidRouting

# transformers 5 saves Qwen3's num_experts under Mixtral's name.
_NUM_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
# The releases of gpt-oss state it twice.
_PER_TOKEN = ("num_experts_per_tok", "experts_per_token")
_BEST_OF_A_GROUP = 2
"""Experts whose scores add up to that of their group, in transformers."""

Config = Mapping[str, Any]


def read_moe(config: Config, names: ExpertNames) -> MoeSpec:
    """Return the mixture of a config that is completed by what its family implies.

    Raises:
        ModelError: a variant that Megatron does not have.
    """
    per_token, is_renormalised = _agreed(config, _PER_TOKEN), config["norm_topk_prob"]
    if per_token == 1 and is_renormalised:
        raise ModelError(
            "num_experts_per_tok = 1 with renormalised probabilities is not supported: the router "
            "would have no gradient"
        )
    layers = _mixture_layers(config)
    if not any(layers):
        raise ModelError("no layer is a mixture of experts; use the dense family")
    return MoeSpec(
        num_experts=_agreed(config, _NUM_EXPERTS),
        ffn_size=config[
            "moe_intermediate_size" if "moe_intermediate_size" in config else "intermediate_size"
        ],
        experts_per_token=per_token,
        is_renormalised=is_renormalised,
        layers=layers,
        shared=_shared(config, names),
        routing=None if names.selection_bias is None else _sigmoid_routing(config),
        softmax_factor=1.0 if names.selection_bias is not None else _softmax_factor(config),
    )


def _mixture_layers(config: Config) -> tuple[bool, ...]:
    layers = range(config["num_hidden_layers"])
    if "first_k_dense_replace" in config:
        return tuple(layer >= config["first_k_dense_replace"] for layer in layers)
    step, dense = config["decoder_sparse_step"], config["mlp_only_layers"]
    # transformers looks at the number of a layer for the step, and at its index for the list.
    return tuple(
        (layer + 1) % step == 0 and (dense is None or layer not in dense) for layer in layers
    )


def _agreed(config: Config, spellings: Sequence[str]) -> int:
    """Return a number that may be stated under several names, if it is the same under all."""
    stated = {key: int(config[key]) for key in spellings if key in config}
    if len(set(stated.values())) > 1:
        raise ModelError(f"{' and '.join(stated)} differ")
    if not stated:
        raise KeyError(spellings[0])
    return next(iter(stated.values()))


def _shared(config: Config, names: ExpertNames) -> SharedExpert | None:
    if names.shared is None:
        return None
    field = "n_shared_experts"
    if "shared_expert_intermediate_size" in config:
        field = "shared_expert_intermediate_size"
    if not config[field]:
        raise ModelError(f"{field} ({config[field]}) must be > 0 in this family")
    each = config["moe_intermediate_size"] if field == "n_shared_experts" else 1
    return SharedExpert(ffn_size=config[field] * each, has_gate=names.shared_gate is not None)


def _softmax_factor(config: Config) -> float:
    """Return the factor of the chosen experts' probabilities; only DeepSeek-V2 states one."""
    if "routed_scaling_factor" not in config:
        return 1.0
    method, num_groups = config["topk_method"], config["n_group"]
    if method != "greedy" or num_groups != 1:
        raise ModelError(
            f"topk_method {method!r} with n_group ({num_groups}) is not supported, only 'greedy' "
            "with 1: Megatron rates a group by the sum of its best experts' probabilities, "
            "DeepSeek-V2 by the best one's"
        )
    if config["norm_topk_prob"]:
        raise ModelError(
            "norm_topk_prob = true is not supported in this family: transformers passes over it, "
            "and servers scale by routed_scaling_factor where the release's own code does not"
        )
    return float(config["routed_scaling_factor"])


def _sigmoid_routing(config: Config) -> SigmoidRouting:
    num_groups, per_token = config["n_group"], config["topk_group"]
    if not config["norm_topk_prob"]:
        raise ModelError(
            "norm_topk_prob = false with sigmoid scores is not supported: Megatron scales them to "
            "sum to 1"
        )
    experts_of_group = config["num_experts_per_tok"] // per_token
    if num_groups > 1 and experts_of_group != _BEST_OF_A_GROUP:
        raise ModelError(
            f"num_experts_per_tok ({config['num_experts_per_tok']}) must be "
            f"{_BEST_OF_A_GROUP} * topk_group ({per_token}): Megatron rates a group by as many of "
            f"its experts as a token takes of it, transformers and servers by {_BEST_OF_A_GROUP}"
        )
    return SigmoidRouting(
        scale=float(config["routed_scaling_factor"]),
        num_groups=num_groups,
        groups_per_token=per_token,
    )
