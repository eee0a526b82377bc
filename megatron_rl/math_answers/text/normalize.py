"""Normalization of text: Unicode and Markdown respelled as ASCII LaTeX."""

import re
import unicodedata

_SPELLINGS = {
    "\u2212\u2010\u2011\u2012\u2013\u2014\ufe63\uff0d": "-",
    "\u00d7\u2715\u2a2f": r"\times ",
    "\u00b7\u22c5\u2219\u2022": r"\cdot ",
    "\u00f7": r"\div ",
    "\u2044\u2215": "/",
    "\u03c0\U0001d70b\U0001d6d1": r"\pi ",
    "\u221e": r"\infty ",
    "\u221a": r"\sqrt ",
    "\u221b": r"\sqrt[3]",
    "\u221c": r"\sqrt[4]",
    "\u2264\u2a7d\u2266": r"\le ",
    "\u2265\u2a7e\u2267": r"\ge ",
    "\u2260": r"\ne ",
    "\u2261": r"\equiv ",
    "\u2248": r"\approx ",
    "\u222a": r"\cup ",
    "\u2229": r"\cap ",
    "\u2216": r"\setminus ",
    "\u2208": r"\in ",
    "\u2205\u00d8": r"\emptyset ",
    "\u00b1": r"\pm ",
    "\u2213": r"\mp ",
    "\u00b0\u02da\u00ba": r"^\circ ",
    "\u2220": r"\angle ",
    "\u25b3": r"\triangle ",
    "\u2032\u2019\u2018\u02b9": "'",
    "\u2033\u201c\u201d": '"',
    "\u27e8\u2329\u3008": r"\langle ",
    "\u27e9\u232a\u3009": r"\rangle ",
    "\u211d": r"\mathbb{R}",
    "\u2102": r"\mathbb{C}",
    "\u2124": r"\mathbb{Z}",
    "\u2115": r"\mathbb{N}",
    "\u211a": r"\mathbb{Q}",
    "\u2223": r"\mid ",
    "\u2026\u22ef": r"\ldots ",
    "\u3001\uff0c": ",",
    "\u3002": ".",
    "\u20ac": r"\text{euro}",
    "\u00a3": r"\text{pound}",
    "\u00a5\uffe5": r"\text{yen}",
    "\u00a2": r"\text{cent}",
    "\u2227": r"\text{ and }",
    "\u2228": r"\text{ or }",
    "\u230a": r"\lfloor ",
    "\u230b": r"\rfloor ",
    "\u2308": r"\lceil ",
    "\u2309": r"\rceil ",
    "\u2211": r"\sum ",
    "\u222b": r"\int ",
}
_CHARACTERS = {ord(c): spelling for group, spelling in _SPELLINGS.items() for c in group}
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho "
    "varsigma sigma tau upsilon phi chi psi omega"
)
_CHARACTERS |= {0x3B1 + k: f"\\{name} " for k, name in enumerate(_GREEK.split())}
_CHARACTERS |= {0x393: r"\Gamma ", 0x394: r"\Delta ", 0x398: r"\Theta ", 0x3A9: r"\Omega "}
_CHARACTERS |= {0x3A3: r"\Sigma ", 0x3A6: r"\Phi ", 0xB5: r"\mu "}
_SUPERSCRIPT = re.compile(r"[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207a\u207b\u207f]+")
_SUBSCRIPT = re.compile(r"[\u2080-\u2089\u2090-\u209c]+")
_RAISED_SIGNS = str.maketrans("\u2212", "-")
_TIMES_TEN = re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*(?:\^|\*\*))")
_DELIMITERS = re.compile(r"(?<!\\)\\[()\[\]]|``?`?")
_TIME_OF_DAY = re.compile(r"\b([ap])\.\s?m\b\.?")
_MIXED_GROUPS = re.compile(r"[+-]?[1-9]\d{0,2}(?:(?:\{,\}|,)\d{3}){2,}(?:\.\d+)?")
_RAISED_O = re.compile(r"(?<=\d)\s*\^\s*(?:o(?![a-z])|\{\s*(?:\\text\{)?o\}{1,2})")
_ORDINAL = re.compile(
    r"^(?:\\text\{)?(\d+)\s*(?:\^|\\textsuperscript)?\s*\{?\s*(?:\\(?:text|mathrm|rm)\s*)?\{?\s*"
    r"(st|nd|rd|th)\s*\}{0,2}\s*\.?$"
)
_COMMANDS = [
    (re.compile(r"\\(?:text)?color\s*(?:\[[^][]*\])?\s*\{[^{}]*\}"), ""),
    (re.compile(r"\\[hv](?:space|phantom)\s*\*?\s*\{[^{}]*\}|\\phantom\s*\{[^{}]*\}"), " "),
    (re.compile(r"\\text\s*\{\s*\\&\s*\}|\\&"), r"\\text{ and }"),
    (re.compile(r"\\not\s*="), r"\\ne "),
    (re.compile(r"\\not\s*\\in(?![a-z])"), r"\\notin "),
    (re.compile(r"(\\(?:bar|overline))\s*(\d)"), r"\1{\2}"),
    (re.compile(r"\{\s*\\rm\s+([^{}\\]+)\}|\\rm\s*\{([^{}]*)\}"), r"\\mathrm{\1\2}"),
    (re.compile(r"(?<=\d)(?:\\!)+,|(?<=\d),(?:\\!)+(?=\d)"), ","),
]
"""Commands without a meaning of their own, or with another name."""
_END_OF_ROW = re.compile(
    r"(?<!\\)(?P<row>(?:\\\\)+)(?:\*|(?=\s*\[))(?:\s*\[(?P<distance>[^][]{0,40})\])?"
    r"|\\noalign\s*\{[^{}]*\}"
)
_DISTANCE = re.compile(
    r"-?(?:\d+(?:\.\d*)?|\.\d+)?"
    r"(?:(?:true)?(?:pt|em|ex|mm|cm|in|pc|bp|dd|cc|sp|mu)"
    r"|\\(?:jot|(?:normal)?baselineskip|(?:small|med|big)skipamount))"
)
r"""How far the next row is, such as the ``4pt`` of ``[4pt]`` behind the end of a row."""
_DOLLAR = re.compile(r"(?<!\\)\$")


def normalize_answer(text: str) -> str:
    """Return ``text`` in ASCII wherever a symbol has a LaTeX name, without math delimiters."""
    if not text.isascii():
        text = _to_ascii(text)
    if "$" in text:
        # An odd one out is a currency sign, pairs enclose formulas.
        is_currency = len(_DOLLAR.findall(text)) % 2
        text = _DOLLAR.sub(r"\\$" if is_currency else "", text)
    if "\\" in text or "`" in text:
        text = _respell_commands(_DELIMITERS.sub(" ", text))
    if text[:1].isdigit() or text.startswith(r"\text{"):
        text = _ORDINAL.sub(r"\1\\text{\2}", text)
    if "{:}" in text or "{.}" in text:
        text = text.replace("{:}", ":").replace("{.}", ".")
    if "{,}" in text and _MIXED_GROUPS.fullmatch(text):
        text = text.replace("{,}", ",")
    if "^" in text:
        text = _RAISED_O.sub(r"^\\circ ", text)
    if "x" in text or "X" in text:
        text = _TIMES_TEN.sub(r"\\times ", text)
    if ".m" in text or ". m" in text:
        text = _TIME_OF_DAY.sub(r"\1m", text)
    return strip_blanks(text)


def _respell_commands(text: str) -> str:
    if r"\begin" in text:
        text = _END_OF_ROW.sub(_drop_distance, text)
    for pattern, spelling in _COMMANDS:
        text = pattern.sub(spelling, text)
    return text


def _drop_distance(match: re.Match[str]) -> str:
    """Return the end of a row without star and distance; brackets round an entry stay."""
    distance = match["distance"]
    if distance is None or _DISTANCE.fullmatch("".join(distance.split())):
        return match["row"] or " "
    return f"{match['row']} [{distance}]"


def strip_blanks(text: str) -> str:
    """Return ``text`` without blanks around it; the last one may belong to a backslash."""
    bare = text.strip()
    num_backslashes = len(bare) - len(bare.rstrip("\\"))
    return bare + " " if num_backslashes % 2 and text.rstrip() != text else bare


def _to_ascii(text: str) -> str:
    text = unicodedata.normalize("NFC", text)
    text = _SUPERSCRIPT.sub(lambda m: "^{" + _plain(m[0]) + "}", text)
    text = _SUBSCRIPT.sub(lambda m: "_{" + _plain(m[0]) + "}", text)
    text = text.translate(_CHARACTERS)
    if text.isascii():
        return text
    return "".join(c if c.isascii() else _spell(c) for c in text)


def _plain(characters: str) -> str:
    return unicodedata.normalize("NFKC", characters).translate(_RAISED_SIGNS)


def _spell(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cf":  # zero-width and direction marks show nothing
        return ""
    plain = unicodedata.normalize("NFKC", character)
    if category == "No" and "\u2044" in plain:
        numerator, _, denominator = plain.partition("\u2044")
        return rf"\frac{{{numerator}}}{{{denominator}}}" if denominator else plain
    if category == "Nd":
        return str(unicodedata.digit(character))
    return " " if plain.isspace() else plain.translate(_CHARACTERS)
