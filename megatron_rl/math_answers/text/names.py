"""Names on a side of an equation: variables, functions, tuples of variables."""

from collections.abc import Sequence

from megatron_rl.math_answers.text.brackets import enclosed, is_op, split, strip_group
from megatron_rl.math_answers.text.tokens import Token


def name_of(tokens: Sequence[Token]) -> str | None:
    """Return the name a side of an equation consists of: ``x``, ``x_1``, ``f(x)``, ``(x,y)``."""
    tokens = strip_group(tokens)
    if not tokens:
        return None
    if all(token.kind in {"word", "text"} for token in tokens):
        return " ".join(token.text for token in tokens)
    inside = enclosed(tokens)
    if inside is not None and is_op(tokens[0], "("):
        parts, _ = split(inside, frozenset({","}))
        names = [name_of(part) for part in parts]
        if len(parts) < 2 or any(name is None for name in names):
            return None
        return "(" + ",".join(name for name in names if name is not None) + ")"
    if tokens[0].kind not in {"symbol", "word", "text"}:
        return None
    if tokens[0].text in {"e", "i"} and len(tokens) == 1:
        return None
    rest = list(tokens[1:])
    text = tokens[0].text
    while rest and is_op(rest[0], "'"):
        text += rest.pop(0).text
    if rest and is_op(rest[0], "_"):
        label = _label(rest[1:])
        if label is None:
            return None
        text, rest = f"{text}_{label[0]}", rest[1 + label[1] :]
    while rest and is_op(rest[0], "'"):
        text += rest.pop(0).text
    if [token.text for token in rest[:5]] == ["^", "{", "-", "1", "}"]:
        text, rest = f"{text}^-1", rest[5:]
    if not rest:
        return text
    argument = enclosed(rest)
    is_function = (
        argument is not None
        and is_op(rest[0], "(")
        and all(t.kind in {"symbol", "number"} or is_op(t, ",") for t in argument)
    )
    if not is_function or argument is None:
        return None
    return f"{text}({','.join(t.text for t in argument if not is_op(t, ','))})"


def _label(tokens: Sequence[Token]) -> tuple[str, int] | None:
    if not tokens:
        return None
    if not is_op(tokens[0], "{"):
        return tokens[0].text, 1
    close = next((i for i, token in enumerate(tokens) if is_op(token, "}")), None)
    return None if close is None else ("".join(t.text for t in tokens[1:close]), close + 1)
