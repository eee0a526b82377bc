"""Whether the weights of a Hugging Face folder are those that its config.json describes."""

from collections.abc import Mapping
from pathlib import Path

from megatron_rl.conversion.families import ModelSpec
from megatron_rl.conversion.families.shapes import check_tensors
from megatron_rl.errors import ModelError
from megatron_rl.hf_folder import WeightReader

_EMBEDDING, _OUTPUT = "model.embed_tokens.weight", "lm_head.weight"


def check_model_folder(
    folder: Path, spec: ModelSpec, *, compares_copies: bool = True
) -> Mapping[str, str]:
    """Raise ModelError naming the first tensor that disagrees with config.json.

    Only headers are read, and of a tied model that holds an output layer all the same, both copies.

    Args:
        compares_copies: whether those two are read, which takes torch.

    Returns:
        The type of each tensor as its file states it ("F32").
    """
    read = WeightReader(folder)
    stated = read.shapes_and_dtypes()
    try:
        check_tensors(spec, {name: shape for name, (shape, _) in stated.items()})
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error
    # One after the other: each may be the largest tensor of the model.
    is_second = spec.is_tied and _OUTPUT in stated
    if compares_copies and is_second and _differ(read):
        raise ModelError(
            f"{folder}: {_OUTPUT} is not the embedding, though config.json says "
            "tie_word_embeddings = true; set it to false to keep both"
        )
    return {name: dtype for name, (_, dtype) in stated.items()}


def _differ(read: WeightReader) -> bool:
    from megatron_rl.conversion.manifest import record_of  # late: it imports torch

    return record_of(read(_OUTPUT)) != record_of(read(_EMBEDDING))
