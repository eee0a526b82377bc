r"""Choices of sign in formulas with ``\pm``."""

from collections.abc import Sequence

from megatron_rl.math_answers.text.brackets import is_op
from megatron_rl.math_answers.text.tokens import Token
from megatron_rl.math_answers.tree import Unreadable

_MAX_SIGNS = 4


def expand_signs(tokens: Sequence[Token]) -> list[Sequence[Token]]:
    r"""Return the tokens once for each choice of the signs.

    Several ``\pm`` are independent of each other, unless a ``\mp`` ties them together.
    """
    places = [i for i, token in enumerate(tokens) if is_op(token, "pm", "mp")]
    if not places:
        return [tokens]
    if len(places) > _MAX_SIGNS:
        raise Unreadable("has too many combinations of signs")
    is_tied = any(is_op(tokens[i], "mp") for i in places)
    num_choices = 2 if is_tied else 2 ** len(places)
    variants: list[Sequence[Token]] = []
    for choice in range(num_choices):
        signed = list(tokens)
        for order, place in enumerate(places):
            is_minus = bool(choice & 1) if is_tied else bool(choice >> order & 1)
            if is_op(tokens[place], "mp"):
                is_minus = not is_minus
            signed[place] = Token("op", "-" if is_minus else "+", tokens[place].is_spaced)
        variants.append(signed)
    return variants
