"""Units of measurement: equal, convertible and conflicting ones."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from megatron_rl.math_answers.text.tokens import Token
from megatron_rl.math_answers.text.word_tables import NOT_UNITS, NOT_UNITS_CHINESE, UNITS

_TABLE: dict[str, tuple[str, Fraction, str]] = {}


def _define(dimension: str, **factors: str | int) -> None:
    for names, factor in factors.items():
        for name in names.split("_"):
            _TABLE[name] = (dimension, Fraction(factor), name)


_define(
    "length", m_meter_metre=1, cm_centimeter_centimetre="1/100", mm_millimeter_millimetre="1/1000",
    km_kilometer_kilometre=1000, dm_decimeter_decimetre="1/10", nm_nanometer="1/1000000000",
    in_inch_inche="0.0254", ft_foot_feet="0.3048", yd_yard="0.9144", mi_mile="1609.344",
)  # fmt: skip
_define(
    "mass", kg_kilogram_kilo=1, g_gram="1/1000", mg_milligram="1/1000000", t_ton_tonne=1000,
    lb_pound_lbs="0.45359237", oz_ounce="0.028349523125",
)  # fmt: skip
_define(
    "time", s_sec_second=1, ms_millisecond="1/1000", min_minute=60, h_hr_hrs_hour=3600, day=86400,
    week=604800, month=2629746, year_yr_yrs=31556952,
)  # fmt: skip
_define("angle", degree_deg="1/180")
# Apart from degrees, to which no rational factor converts; see equality/quantities.py.
_define("radian", rad_radian=1)
_define("temperature", celsiu_celsius=1)
_define("heat", fahrenheit=1)
_define("kelvin", K_kelvin=1)
_define("dollar", dollar_usd_buck=1, cent_penny_pennie="1/100")
_define("euro", euro_eur=1)
_define("sterling", gbp_quid=1, pence="1/100")
_define("yen", yen_jpy=1)
_define("rupee", rupee_r_inr_rs=1)
_define("yuan", yuan_rmb_cny=1)
_define("ruble", ruble_rub=1)
_define("current", A_amp_ampere=1)
_define("charge", C_coulomb=1)
_define("voltage", V_volt=1, kV=1000, mV="1/1000")
_define("force", N_newton=1, kN=1000)
_define("energy", J_joule=1, kJ=1000, eV="1.602176634e-19", cal_calorie="4.184", kcal=4184)
_define("power", W_watt=1, kW=1000, MW=1000000)
_define("pressure", Pa_pascal=1, kPa=1000, atm=101325)
_define("frequency", Hz_hertz=1, kHz=1000, MHz=1000000)
_define("resistance", ohm=1)
_define("amount", mol_mole=1)
_define("information", byte=8, bit=1)
# A litre is a cubic decimetre.
_VOLUMES = {"l": "1/1000", "liter": "1/1000", "litre": "1/1000", "ml": "1/1000000",
            "milliliter": "1/1000000", "millilitre": "1/1000000", "cc": "1/1000000"}  # fmt: skip
_SPEEDS = {"mph": "0.44704", "kph": "5/18", "kmh": "5/18", "kmph": "5/18"}
_NEUTRAL = frozenset({"unit", "u"})
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_POWERS_CHINESE = {"\u5e73\u65b9": 2, "\u7acb\u65b9": 3}
_POWERS_AFTER = {"squared": 2, "cubed": 3}

LETTER_UNITS = frozenset(["m", "g", "s", "h", "l", "L", "t", "K", "A", "C", "V", "N", "J", "W"])
"""Names of units that are also names of variables."""
KNOWN_WORDS = frozenset(_TABLE) | frozenset(_VOLUMES) | frozenset(_SPEEDS) | {"mL"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """A product of powers of dimensions, or words that are no known unit."""

    factor: Fraction = Fraction(1)
    """Value of one unit in the base units."""
    dimensions: frozenset[tuple[str, int]] = frozenset()
    words: frozenset[str] = frozenset()
    """Of a phrase such as "red apples"."""
    is_pound: bool = False
    """Whether the unit is "pounds", which may be money or weight."""
    is_neutral: bool = False
    """Whether the unit is the word "units"."""


DEGREE = Unit(factor=Fraction(1, 180), dimensions=frozenset({("angle", 1)}))
"""Of a plane angle, in units of pi radians."""
RADIAN = Unit(dimensions=frozenset({("radian", 1)}))
CURRENCIES = {
    name: Unit(dimensions=frozenset({(dimension, 1)}), is_pound=dimension == "sterling")
    for name, dimension in [
        ("dollar", "dollar"), ("euro", "euro"), ("eur", "euro"), ("pound", "sterling"),
        ("yen", "yen"), ("usd", "dollar"), ("rs", "rupee"), ("rupee", "rupee"), ("us", "dollar"),
        ("gbp", "sterling"),
    ]
}  # fmt: skip


def conversion_between(gold: Unit | None, answer: Unit | None) -> Fraction | None:
    """Return the factor from the answer's unit to the gold answer's unit.

    None means that the units conflict. A unit on one side only is no conflict.
    """
    if gold is None or answer is None or gold.is_neutral or answer.is_neutral:
        return Fraction(1)
    if gold.words or answer.words:
        return Fraction(1) if gold.words & answer.words or gold == answer else None
    if gold.dimensions != answer.dimensions:
        return Fraction(1) if gold.is_pound and answer.is_pound else None
    return answer.factor / gold.factor


def is_unit(word: str) -> bool:
    """Return whether ``word`` names a unit, in the singular or plural."""
    return _lookup(word) is not None


def read_unit(tokens: Sequence[Token]) -> Unit | None:
    """Return the product of known units that tokens spell, or a phrase as a unit of its own."""
    text = " ".join(_spelling(token) for token in tokens)
    text = re.sub(r"\s*\^\s*\{?\s*(-?)\s*(\d)\s*\}?", r"^\1\2", text)
    text = re.sub(r"^frac \{ (.+?) \} \{ (.+?) \}$", r"\1 / \2", text)
    text = re.sub(r"\bper\b", "/", text).strip(" .,")
    known = _read_known(text)
    if known is not None:
        return replace(known, is_pound=text in {"pound", "pounds"})
    words = [word.casefold() for word in re.findall(r"[^\W\d_]+(?:'t)?", text)]
    if not words or _says_something_else(words) or re.search(r"[=<>+\\\[\]|]|(?<![\^-])\d", text):
        return None
    kept = frozenset(map(_singular, words)) - _FILLERS
    return Unit(words=kept) if kept else Unit(is_neutral=True)


def _says_something_else(words: Sequence[str]) -> bool:
    """Return whether words deny or change a number: "5 is wrong", "5 squared", "5 x y"."""
    return (
        any(word in NOT_UNITS or NOT_UNITS_CHINESE.search(word) for word in words)
        or all(len(word) == 1 and word.isascii() for word in words)
    )  # fmt: skip


_FILLERS = frozenset({"of", "the", "a", "an", "in", "per", "total", "approximately", "about"})


_SPELLINGS = {"row": " ", "\\Omega": "ohm"}


def _spelling(token: Token) -> str:
    return _SPELLINGS[token.text] if token.text in _SPELLINGS else token.text


def _read_known(text: str) -> Unit | None:
    factor, dimensions = Fraction(1), dict[str, int]()
    sign, pending = 1, 1
    pieces = re.findall(r"[^\W\d_]+|\^-?\d|[/*().\-]|\S", text)
    if not pieces:
        return None
    is_neutral = True
    index = 0
    while index < len(pieces):
        piece = pieces[index]
        index += 1
        if piece in "().-":
            continue
        if piece == "*":
            continue
        if piece == "/":
            sign = -1
            continue
        if len(piece) > 2 and piece[:2] in _POWERS_CHINESE:
            pending, piece = _POWERS_CHINESE[piece[:2]], piece[2:]
        if piece.casefold() in _POWERS:
            pending = _POWERS[piece.casefold()]
            continue
        after = pieces[index] if index < len(pieces) else ""
        power = pending * sign
        if re.fullmatch(r"\^-?\d", after):
            power, index = int(after[1:]) * sign, index + 1
        elif after.casefold() in _POWERS_AFTER:
            power, index = _POWERS_AFTER[after.casefold()] * sign, index + 1
        pending = 1
        lowered = _singular(piece.casefold())
        if lowered in _NEUTRAL or (lowered in UNITS and UNITS[lowered] in _NEUTRAL):
            continue
        found = _lookup(piece)
        if found is None:
            return None
        is_neutral = False
        for name, exponent in found[0]:
            dimensions[name] = dimensions.get(name, 0) + exponent * power
        factor *= found[1] ** power
    if is_neutral:
        return Unit(is_neutral=True)
    left = frozenset((name, exponent) for name, exponent in dimensions.items() if exponent)
    return Unit(factor=factor, dimensions=left)


def _lookup(word: str) -> tuple[tuple[tuple[str, int], ...], Fraction] | None:
    lowered = word.casefold()
    lowered = next((UNITS[n] for n in (lowered, _singular(lowered)) if n in UNITS), lowered)
    for name in (word, lowered, _singular(lowered)):
        if name in _TABLE:
            dimension, factor, _ = _TABLE[name]
            return ((dimension, 1),), factor
        if name in _VOLUMES:
            return (("length", 3),), Fraction(_VOLUMES[name])
        if name in _SPEEDS:
            return (("length", 1), ("time", -1)), Fraction(_SPEEDS[name])
    return None


def _singular(word: str) -> str:
    if len(word) <= 2 or word.endswith("ss"):
        return word
    return word[:-1] if word.endswith("s") else word
