"""Vocabulary of the model: token ids of prompts and demonstrations that its embedding lacks."""

from collections.abc import Callable, Iterable, Sequence

from megatron_rl.errors import ModelError


def check_token_ids(
    sequences: Iterable[tuple[str, Sequence[int]]],
    *,
    vocab_size: int,
    token_of: Callable[[int], str | None],
) -> None:
    """Raise ModelError for the first token id beyond the model's vocabulary.

    A model that is larger than its tokenizer is fine: many are padded.

    Args:
        sequences: (what it is, token ids) pairs.
        vocab_size: rows of the model's embedding.
        token_of: text of a token, for the message.
    """
    for name, token_ids in sequences:
        largest = max(token_ids)
        if largest >= vocab_size:
            raise ModelError(
                f"{name} has token id {largest} ({token_of(largest)!r}), and must have ids < "
                f"vocab_size of the model's config.json ({vocab_size}): the tokenizer has tokens "
                "that the model lacks; use the model's own tokenizer, or give the model more rows "
                "with resize_token_embeddings of transformers"
            )
