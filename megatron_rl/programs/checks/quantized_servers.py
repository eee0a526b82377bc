"""Quantised weights of servers under a learner: what is refused before anything is started."""

from megatron_rl.config import RunConfig
from megatron_rl.conversion.block_fp8.tensors import BLOCK
from megatron_rl.errors import ConfigError
from megatron_rl.learner.device.precision import Capability
from megatron_rl.model_spec import ModelSpec
from megatron_rl.parallelism.serving_blocks import check_serving_blocks
from megatron_rl.programs.checks.server_ranks import expert_parallel_size, is_cut_otherwise

_LEAST, _BELOW = (8, 9), (10, 0)
# Flags of SGLang with which a server quantises weights by itself, or has others than it is sent.
_QUANTISING_FLAGS = (
    *("quantization", "modelopt_quant", "modelopt_checkpoint_restore_path", "quantize_and_serve"),
    *("rl_quant_profile", "torchao_config"),
)
_WITHOUT_SCALES = ("llama", "mistral")
"""Families whose loaders in SGLang 0.5.21 rename the scales of block FP8 (models/llama.py) to what
no parameter is called, and leave them out without a word."""


def check_quantized_servers(config: RunConfig, spec: ModelSpec) -> None:
    """Raise ConfigError for quantised weights that a learner cannot update."""
    for key, value in config.generators.sglang.items():
        flag = key.replace("-", "_")
        overrides = flag == "json_model_override_args" and "quantization_config" in str(value)
        if flag in _QUANTISING_FLAGS or overrides:
            raise ConfigError(
                f"generators.sglang.{key} ({value!r}) cannot be used with a learner: such a server "
                "replaces the weights that it loads, and takes no others while it runs; remove it, "
                'or set generators.quantization = "block_fp8"'
            )
    if config.generators.quantization == "none":
        return
    reason = _why_not(spec)
    if reason is not None:
        raise ConfigError(
            f'generators.quantization ("block_fp8") is not possible for {spec.family}: {reason}; '
            'set generators.quantization = "none"'
        )
    if not is_cut_otherwise(config.generators):
        check_serving_blocks(
            spec,
            block=BLOCK,
            tp=config.generators.tp,
            ep=expert_parallel_size(config.generators),
        )


def check_quantizing_device(config: RunConfig, capability: Capability | None) -> None:
    """Raise ConfigError for servers that change block-FP8 weights after loading.

    Args:
        config: of the run.
        capability: compute capability of the servers' GPUs; None for a CPU.
    """
    if config.generators.quantization == "none":
        return
    reason = why_no_block_fp8(capability)
    if reason is not None:
        raise ConfigError(
            f'generators.quantization ("block_fp8") needs GPUs of compute capability 8.9 or 9.0 '
            f'for the servers: {reason}; set generators.quantization = "none"'
        )


def why_no_block_fp8(capability: Capability | None) -> str | None:
    """Return why a device cannot serve block FP8 that is updated; None where it can."""
    if capability is None:
        return "on a CPU SGLang packs FP8 weights for AMX, in place"
    has = f"this is {capability[0]}.{capability[1]}"
    if capability < _LEAST:
        return f"{has}, where SGLang repacks FP8 weights for Marlin"
    if capability >= _BELOW:
        return f"{has}, where SGLang rewrites scales to powers of two (UE8M0), once"
    return None


def _why_not(spec: ModelSpec) -> str | None:
    if spec.latent is not None:
        return "SGLang multiplies matrices of latent attention with each other when it loads them"
    if spec.has_sinks:
        return "all experts of a layer are one tensor, which SGLang holds in other formats"
    if spec.family in _WITHOUT_SCALES:
        return "SGLang's loader of this family leaves the scales of blocks out"
    return None
