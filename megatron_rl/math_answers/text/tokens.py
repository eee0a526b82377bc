r"""Tokens of an answer: numbers with all their spellings, names, words, operators.

Example: ``2\frac{x}{3}`` becomes number 2, operator frac, {, symbol x, }, {, number 3, }.
"""

import re
from typing import NamedTuple

from megatron_rl.math_answers.text.numerals import Literal, read_number
from megatron_rl.math_answers.text.vocabulary import (
    GREEK,
    NAMED_CHARACTERS,
    NUMBER_SETS,
    OPERATORS,
    PLAIN_NAMES,
    SKIPPED,
    SPACES,
    SPELLED_FUNCTIONS,
    STYLES,
    UPRIGHT,
)
from megatron_rl.math_answers.text.word_tables import AND_OR, AND_OR_IN_TEXT
from megatron_rl.math_answers.tree import Unreadable


class Token(NamedTuple):
    """One word of the answer."""

    kind: str
    """``number``, ``symbol``, ``function``, ``word``, ``text``, ``set`` or ``op``."""
    text: str
    is_spaced: bool = False
    """Whether a blank precedes it."""
    literal: Literal | None = None


_MAX_TOKENS = 1500
_MAX_DEPTH = 40

_GROUP = r"(?:,\\!|\{,\}|\\[,;:! ]|[ ~]|,(?: (?=000))?)"
_TOKEN = re.compile(
    rf"""
    (?P<space>(?:\s|~)+)
  | (?P<grouped>[1-9]\d{{0,2}}(?P<separator>{_GROUP})\d{{3}}(?:(?P=separator)\d{{3}})*
        (?!\d)(?!\s*/)(?P<rest>\.\d+)?)
  | (?P<repeating>\d*\.\d*(?:\\overline\s*\{{\s*(?P<over>\d+)\s*\}}|\\bar\s*\{{\s*(?P<bar>\d+)\s*\}}
        |\\dot\s*\{{?(?P<dot>\d)\}}?(?:(?P<dotted>\d*)\\dot\s*\{{?(?P<last>\d)\}}?)?
        |\((?P<parens>\d+)\)))
  | (?P<dotted_off>\d*\.\d{{3,}})(?:\s*\\[lc]?dots|\.\.\.)
  | (?P<decimal_comma>\d+\{{,\}}\d+)
  | (?P<number>(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+(?![\d.]))?)
  | (?P<degree>\^\s*\{{?\s*\\(?:circ|degree)\b\s*\}}?)
  | \\(?P<command>[A-Za-z]+)\*?
  | \\(?P<escaped>.)
  | (?P<letters>[A-Za-z\u00c0-\u024f\u0400-\u052f]+|[\u3040-\u30ff\u3400-\u9fff]+|[^\W\d_]+)
  | (?P<op>\*\*|<=|>=|!=|=<|=>|==|->|\.\.\.|[-+*/^_()\[\]{{}},;:=<>|!'%&.?"@\#])
    """,
    re.VERBOSE | re.DOTALL,
)
_OPS = {"**": "^", "=<": "<=", "=>": "to", "==": "=", "->": "to", "...": "dots"}
_OPENING = {"(": 1, "[": 1, "{": 1, "{s": 1, "<(": 1, ")": -1, "]": -1, "}": -1, "}s": -1, ")>": -1}
# "xsinx", "pir": a known name with at most one variable on either side.
_GLUED = re.compile(
    r"([abkmnrtxyz]?)(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log|exp|sqrt|pi)"
    r"([nrtxy]?)"
)
_WORD_LIKE = re.compile(r"(?=.*[^\W\d_])(?:[^\W\d_]|[\s.'()/^23-])+", re.DOTALL)
_LIST_LIKE = re.compile(rf"\b(?:and|or|{'|'.join(AND_OR)})\b")
_SET_STYLES = frozenset({"mathbb", "Bbb", "mathbf"})
_BOLD_SETS = frozenset({"R", "Z", "Q"})
"""The others are choices or points more often."""
_BARS = frozenset({"overline", "bar"})
_OPERATOR_WORDS = frozenset({"and", "or", "mod", "in", "infinity", "union", "percent", "pi"})
_OPERATOR_WORDS |= AND_OR.keys()
_NOT_GLUED = frozenset({"cost", "tant", "tann"})


def tokenize(text: str) -> list[Token]:
    """Split a normalised answer.

    Raises:
        Unreadable: a character or command is not of the language, or a limit is passed.
    """
    tokens: list[Token] = []
    _tokenize(text, tokens, 0)
    depth = 0
    for token in tokens:
        if token.kind == "op":
            depth += _OPENING.get(token.text, 0)
            if depth > _MAX_DEPTH:
                raise Unreadable("is nested too deeply")
    return tokens


def _tokenize(text: str, tokens: list[Token], nesting: int) -> None:
    if nesting > _MAX_DEPTH:
        raise Unreadable("is nested too deeply")
    position, is_spaced, brackets = 0, False, 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise Unreadable(f"has an unknown character, {text[position]!r}")
        kind, end = match.lastgroup, match.end()
        if match["space"] is not None:
            is_spaced, position = True, end
            continue
        if match["command"] is not None:
            end = _read_command(text, match, tokens, is_spaced, nesting)
            is_spaced = end < 0
            position = abs(end)
        else:
            if match["escaped"] is not None:
                found = _escaped(match["escaped"], is_spaced)
            elif match["letters"] is not None:
                found = _tokens_of_letters(match["letters"], is_spaced)
            elif match["degree"] is not None:
                found = [Token("op", "degree", is_spaced)]
            elif match["op"] is not None:
                found = [Token("op", _OPS.get(match["op"], match["op"]), is_spaced)]
            else:
                spelling, literal, end = read_number(match, is_inside=brackets > 0)
                found = [Token("number", spelling, is_spaced, literal)]
            is_spaced = match["escaped"] is not None and match["escaped"] in SPACES
            tokens.extend(found)
            position = end
        last = tokens[-1] if tokens else None
        if last is not None and last.kind == "op" and last.text in {"(", "[", "{s"}:
            brackets += kind != "space"
        elif last is not None and last.kind == "op" and last.text in {")", "]", "}s"}:
            brackets -= 1
        if len(tokens) > _MAX_TOKENS:
            raise Unreadable("has too many parts")


def _read_command(
    text: str, match: re.Match[str], tokens: list[Token], is_spaced: bool, nesting: int
) -> int:
    """Append the tokens of a command; return where it ends, negative when it is a blank."""
    name, end = match["command"], match.end()
    if name in NUMBER_SETS:
        tokens.append(Token("set", NUMBER_SETS[name], is_spaced))
        return end
    if name in STYLES:
        return _read_styled(text, name, end, tokens, is_spaced, nesting)
    if name in {"begin", "end"}:
        close = text.find("}", end)
        environment = text[end:close].strip(" {*").rstrip("*")
        if close < 0 or not environment.isalpha():
            raise Unreadable(rf"has \{name} without a name")
        tokens.append(Token("op", name, is_spaced))
        tokens.append(Token("text", environment))
        return close + 1
    if name in SKIPPED:
        if name in {"left", "right"} and text[end : end + 1] == ".":
            end += 1
        return -end
    if name in SPELLED_FUNCTIONS and name != "sqrt":
        tokens.append(Token("function", SPELLED_FUNCTIONS[name], is_spaced))
    elif name in OPERATORS:
        tokens.append(Token("op", OPERATORS[name], is_spaced))
    elif name in GREEK:
        tokens.append(Token("symbol", "\\" + name.removeprefix("var"), is_spaced))
    else:
        raise Unreadable(rf"has an unknown command, \{name}")
    return end


def _read_styled(
    text: str, style: str, start: int, tokens: list[Token], is_spaced: bool, nesting: int
) -> int:
    while start < len(text) and text[start].isspace():
        start += 1
    if text[start : start + 1] != "{":
        # \mathbb R and \mathbf x need no braces; \bf without any is a switch.
        content, end = text[start : start + 1], start + 1
    else:
        end = _closing_brace(text, start) + 1
        content = text[start + 1 : end - 1]
    content = content.strip() if style not in UPRIGHT else content
    bare = content.strip()
    if bare in (_BOLD_SETS if style == "mathbf" else NUMBER_SETS) and style in _SET_STYLES:
        tokens.append(Token("set", NUMBER_SETS[bare], is_spaced))
    elif bare in SPELLED_FUNCTIONS:
        tokens.append(Token("function", SPELLED_FUNCTIONS[bare], is_spaced))
    elif bare in _OPERATOR_WORDS:
        tokens.append(Token("op", PLAIN_NAMES[bare], True))
    elif bare in AND_OR_IN_TEXT and content[0].isspace() and content[-1].isspace():
        tokens.append(Token("op", AND_OR_IN_TEXT[bare], True))
    elif style == "mathrm" and bare in {"e", "i", "d"}:
        tokens.append(Token("symbol", bare, is_spaced))
    elif style in UPRIGHT and _WORD_LIKE.fullmatch(bare) and not _LIST_LIKE.search(bare):
        has_blank = is_spaced or content[0].isspace()
        tokens.append(Token("text", " ".join(bare.split()), has_blank))
    elif style in {"overline", "bar"} and bare.isalpha():
        tokens.append(Token("symbol", rf"\bar {bare}", is_spaced))
    elif style in _BARS:
        tokens.extend([Token("function", "conjugate", is_spaced), Token("op", "(")])
        _tokenize(content, tokens, nesting + 1)
        tokens.append(Token("op", ")"))
    else:
        before = len(tokens)
        _tokenize(content, tokens, nesting + 1)
        if len(tokens) > before and is_spaced:
            tokens[before] = tokens[before]._replace(is_spaced=True)
    return end


def _closing_brace(text: str, start: int) -> int:
    depth = 0
    position = start
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 1
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return position
        position += 1
    raise Unreadable("has a brace that is not closed")


def _escaped(character: str, is_spaced: bool) -> list[Token]:
    if character in SPACES:
        return []
    if character not in NAMED_CHARACTERS:
        raise Unreadable(rf"has an unknown command, \{character}")
    return [Token("op", NAMED_CHARACTERS[character], is_spaced)]


def _tokens_of_letters(run: str, is_spaced: bool) -> list[Token]:
    if run in PLAIN_NAMES:
        return [Token("op", PLAIN_NAMES[run], is_spaced)]
    if run in SPELLED_FUNCTIONS:
        return [Token("function", SPELLED_FUNCTIONS[run], is_spaced)]
    if len(run) == 1:
        # Variables are letters of English; Greek ones are commands since the normalization.
        return [Token("symbol" if run.isascii() else "word", run, is_spaced)]
    glued = None if run in _NOT_GLUED else _GLUED.fullmatch(run)
    if glued is None:
        return [Token("word", run, is_spaced)]
    parts = [part for part in glued.groups() if part]
    return [
        token
        for index, part in enumerate(parts)
        for token in _tokens_of_letters(part, is_spaced and index == 0)
    ]
