"""Words as answers: text, letters of a multiple choice, phrases for sets."""

import re
from collections.abc import Callable, Sequence

from megatron_rl.math_answers.kinds.real_sets import ALL_REALS, EMPTY
from megatron_rl.math_answers.kinds.records import Answer, Choice, Words
from megatron_rl.math_answers.text.brackets import enclosed, is_op
from megatron_rl.math_answers.text.juxtaposition import is_product, is_product_alone
from megatron_rl.math_answers.text.tokens import Token
from megatron_rl.math_answers.text.units import CURRENCIES, KNOWN_WORDS
from megatron_rl.math_answers.text.word_tables import ANSWER_IS, EVERY_REAL, NO_SOLUTION
from megatron_rl.math_answers.tree import Unreadable

_LETTER = re.compile(r"\(?\s*([A-Za-z])\s*(?:\)|\.|:)?")
_CHOICES = frozenset("ABCDEFGHIJ")
_JOINING = frozenset({"+", "*", "/", "^", "=", ",", "and", "or"})
_LABEL = re.compile(r"option|choice|(?:the )?(?:final )?answer(?: is)?|" + ANSWER_IS, re.IGNORECASE)
_NO_SOLUTION = re.compile(
    r"(?:there (?:is|are) )?no (?:real |integer )?(?:solutions?|roots?|such \w+)(?: exists?)?"
    rf"|(?:the )?empty set|null set|no real numbers?|{NO_SOLUTION}"
)
_ALL_REALS = re.compile(
    r"(?:(?:for )?all )?(?:the )?real numbers?|(?:for )?all reals?(?: \w)?|any real number|reals"
    rf"|{EVERY_REAL}"
)
_SYNONYMS = {"dne": "does not exist", "doesn't exist": "does not exist"}
# Operators that glue or end words; any other makes a formula.
_PUNCTUATION = frozenset({"-", ",", ".", "'", "(", ")", ":", ";", "?", "!", "/", "&", "and", "or",
                          "in", '"', "{", "}", "mod", "bmod"})  # fmt: skip


def read_choice(
    tokens: Sequence[Token], read_rest: Callable[[Sequence[Token]], Answer]
) -> Answer | None:
    """Read "(A) 12", "A. 12" or "option A"; a bare letter is left to the reader of symbols."""
    first = tokens[0]
    if first.kind in {"word", "text"} and len(tokens) > 1 and _LABEL.fullmatch(first.text):
        return read_rest(tokens[1:])
    labelled = re.fullmatch(r"(?:[Oo]ption|[Cc]hoice|[Aa]nswer):?\s*\(?([A-Z])\)?", first.text)
    if first.kind == "text" and labelled and len(tokens) == 1:
        return read_rest([Token("symbol", labelled[1])])
    letter, rest = _leading_letter(tokens)
    if letter is None:
        return None
    if not rest:
        return read_rest([Token("symbol", letter)])
    try:
        return Choice(letter=letter, content=read_rest(rest))
    except Unreadable:
        return None


def _leading_letter(tokens: Sequence[Token]) -> tuple[str | None, Sequence[Token]]:
    first = tokens[0]
    if first.kind == "text":
        match = _LETTER.fullmatch(first.text)
        if match and (len(first.text) > 1 or len(tokens) == 1):
            is_choice = match[1] in _CHOICES or len(tokens) == 1
            return (match[1], tokens[1:]) if is_choice else (None, tokens)
        begun = re.match(r"\(?([A-J])[).:]\s*(?=\S)", first.text)
        if begun:
            left = first.text[begun.end() :]
            rest: Sequence[Token] = [
                Token("text" if len(left) > 1 else "symbol", left),
                *tokens[1:],
            ]
            return begun[1], rest
        return None, tokens
    for length, pattern in ((3, "(L)"), (2, "L)"), (2, "L."), (2, "L:")):
        head = tokens[:length]
        if len(head) < length:
            continue
        spelled = "".join("L" if t.kind == "symbol" or _is_letter(t) else t.text for t in head)
        letter = head[pattern.index("L")].text
        if spelled != pattern or letter not in _CHOICES:
            continue
        rest = tokens[length:]
        if not rest and pattern != "(L)":
            return letter, rest
        # (A)(B) is a product; (A) 12 is not.
        if rest and (rest[0].is_spaced or rest[0].kind in {"text", "word"} or pattern != "(L)"):
            is_operator = rest[0].kind == "op" and rest[0].text in _JOINING
            return (None, tokens) if is_operator else (letter, rest)
    return None, tokens


def _is_letter(token: Token) -> bool:
    return token.kind == "text" and len(token.text) == 1 and token.text.isalpha()


def read_words(tokens: Sequence[Token]) -> Answer | None:
    """Read text; None where formulas, numbers with units or single letters are meant."""
    inside = enclosed(tokens)
    if inside is not None and len(inside) == 1 and inside[0].kind in {"word", "text"}:
        tokens = inside
    kinds = {token.kind for token in tokens}
    if not kinds & {"word", "text"} or kinds & {"set"}:
        return None
    if any(token.kind == "op" and token.text not in _PUNCTUATION for token in tokens):
        return None
    if tokens[0].kind == "number" or _is_list(tokens) or _is_amount(tokens):
        return None
    if tokens[0].kind in {"op"} and tokens[0].text not in {"in", "'", '"'}:
        return None
    if not _has_real_word(tokens):
        return None
    text = _spell(tokens)
    if _NO_SOLUTION.fullmatch(text):
        return EMPTY
    if _ALL_REALS.fullmatch(text):
        return ALL_REALS
    return Words(text=_SYNONYMS.get(text, text))


def _is_list(tokens: Sequence[Token]) -> bool:
    return any(is_op(token, ",", "and", "or") for token in tokens)


def _is_amount(tokens: Sequence[Token]) -> bool:
    """Return whether a currency precedes a number."""
    return tokens[0].text.casefold() in CURRENCIES and tokens[-1].kind == "number"


def _has_real_word(tokens: Sequence[Token]) -> bool:
    """Return whether something names a thing rather than multiplies letters."""
    if (
        len(tokens) > 1
        and tokens[0].kind == "symbol"
        and len(tokens) == 2
        and (tokens[1].text in KNOWN_WORDS)
    ):
        return False
    for token in tokens:
        if token.kind == "text" and len(token.text) > 1:
            return True
        if token.kind == "word":
            judge = is_product_alone if len(tokens) == 1 else is_product
            if not judge(token.text):
                return True
    return False


def _spell(tokens: Sequence[Token]) -> str:
    parts: list[str] = []
    for token in tokens:
        if is_op(token, "{", "}", '"'):
            continue
        glue = " " if token.is_spaced and parts else ""
        parts.append(glue + token.text)
    text = " ".join("".join(parts).casefold().split())
    return text.strip(" .\"'")
