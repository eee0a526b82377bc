"""Brackets in tokens: splitting outside of them, stripping and matching them."""

from collections.abc import Collection, Sequence

from megatron_rl.math_answers.text.tokens import Token

_OPENING = frozenset({"(", "[", "{", "{s", "<(", "begin", "lfloor", "lceil", "(|"})
_CLOSING = frozenset({")", "]", "}", "}s", ")>", "end", "rfloor", "rceil", "|)"})
_GROUPS = {"(": ")", "[": "]", "{s": "}s", "<(": ")>"}


def is_op(token: Token, *texts: str) -> bool:
    """Return whether a token is one of these operators."""
    return token.kind == "op" and token.text in texts


def split(
    tokens: Sequence[Token], separators: Collection[str], *, is_flat: bool = False
) -> tuple[list[Sequence[Token]], list[str]]:
    """Split at operators outside of brackets; return the parts and the operators between them.

    ``is_flat`` ignores brackets, for intervals written ``]a, b[``.
    """
    parts: list[Sequence[Token]] = []
    found: list[str] = []
    depth = start = 0
    for index, token in enumerate(tokens):
        if token.kind != "op":
            continue
        if token.text in separators and (depth <= 0 or is_flat):
            parts.append(tokens[start:index])
            found.append(token.text)
            start = index + 1
        elif token.text in _OPENING:
            depth += 1
        elif token.text in _CLOSING:
            depth -= 1
    return [*parts, tokens[start:]], found


def enclosed(tokens: Sequence[Token]) -> Sequence[Token] | None:
    """Return the tokens between a pair of brackets around all, None where there is no pair.

    Round and square brackets may be mixed, since half-open intervals are written so.
    """
    if len(tokens) < 2 or tokens[0].kind != "op" or tokens[0].text not in _GROUPS:
        return None
    first, last = tokens[0].text, tokens[-1].text
    is_pair = tokens[-1].kind == "op" and (
        _GROUPS[first] == last or (first in "([" and last in {")", "]"})
    )
    if not is_pair:
        return None
    depth = 0
    for index, token in enumerate(tokens):
        if token.kind == "op" and token.text in _OPENING:
            depth += 1
        elif token.kind == "op" and token.text in _CLOSING:
            depth -= 1
            if depth == 0 and index < len(tokens) - 1:
                return None
    return tokens[1:-1] if depth == 0 else None


def strip_group(tokens: Sequence[Token]) -> Sequence[Token]:
    """Drop braces of LaTeX around everything."""
    while len(tokens) >= 2 and is_op(tokens[0], "{") and is_op(tokens[-1], "}"):
        depth = 0
        for index, token in enumerate(tokens):
            depth += is_op(token, "{") - is_op(token, "}")
            if depth == 0 and index < len(tokens) - 1:
                return tokens
        tokens = tokens[1:-1]
    return tokens


def strip_punctuation(tokens: Sequence[Token]) -> Sequence[Token]:
    """Drop a final period or comma and quotation marks around everything."""
    while tokens and is_op(tokens[-1], ".", ",", ";", ":", "row"):
        tokens = tokens[:-1]
    while tokens and is_op(tokens[0], ",", ";", ":", "=", "approx"):
        tokens = tokens[1:]
    if len(tokens) > 2 and is_op(tokens[0], '"') and is_op(tokens[-1], '"'):
        tokens = tokens[1:-1]
    return tokens
