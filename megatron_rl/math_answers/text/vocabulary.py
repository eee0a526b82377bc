"""Vocabulary of LaTeX commands and plain names, by meaning."""

from megatron_rl.math_answers.text.word_tables import AND_OR


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


SKIPPED = _names(
    "left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr bigm middle "
    "displaystyle textstyle scriptstyle limits nolimits quad qquad enspace thinspace hfill "
    "tiny footnotesize small normalsize large Large LARGE huge Huge bfseries itshape upshape "
    "boldmath unboldmath rm bf it sf tt mathstrut strut null par noindent therefore angle "
    "triangle hline"
)
STYLES = _names(
    "text textbf textit textrm textnormal textsf texttt textup textsc mbox hbox emph underline "
    "mathrm mathbf mathit mathsf mathtt mathcal mathscr mathfrak operatorname boldsymbol bm "
    "boxed fbox vec hat bar overrightarrow overline tilde mathbb Bbb mathop"
)
UPRIGHT = _names("text textbf textit textrm textnormal mbox hbox textup mathrm")
"""Styles whose content is words or units, unless it is a formula."""

FUNCTIONS = _names(
    "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth sech "
    "csch arcsinh arccosh arctanh ln log lg exp gcd lcm max min sgn Re Im arg det tr "
    "floor ceil abs cbrt sqrt"
)
FUNCTION_NAMES = dict.fromkeys(FUNCTIONS) | {
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "acot": "arccot", "cosec": "csc",
    "arsinh": "arcsinh", "arcosh": "arccosh", "artanh": "arctanh", "asinh": "arcsinh",
    "acosh": "arccosh", "atanh": "arctanh", "tg": "tan", "ctg": "cot", "sh": "sinh", "ch": "cosh",
    "arctg": "arctan", "sign": "sgn", "operatornamewithlimits": None, "hcf": "gcd",
    "ceiling": "ceil",
}  # fmt: skip
SPELLED_FUNCTIONS = {name: other or name for name, other in FUNCTION_NAMES.items()}

GREEK = _names(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi "
    "omicron rho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma "
    "Upsilon Phi Psi Omega ell hbar aleph imath jmath partial nabla"
)

OPERATORS = {
    "cdot": "*", "times": "*", "ast": "*", "div": "/", "over": "over", "choose": "choose",
    "le": "<=", "leq": "<=", "leqslant": "<=", "leqq": "<=", "lt": "<", "gt": ">",
    "ge": ">=", "geq": ">=", "geqslant": ">=", "geqq": ">=", "ne": "!=", "neq": "!=",
    "equiv": "equiv", "approx": "approx", "sim": "sim", "simeq": "approx", "cong": "cong",
    "in": "in", "notin": "notin", "cup": "cup", "cap": "cap", "setminus": "setminus",
    "backslash": "setminus", "smallsetminus": "setminus", "bigcup": "bigcup",
    "land": "and", "wedge": "and", "lor": "or", "vee": "or",
    "pm": "pm", "mp": "mp", "infty": "infinity", "pi": "pi", "emptyset": "emptyset",
    "varnothing": "emptyset", "mid": "mid", "vert": "|", "lvert": "(|", "rvert": "|)",
    "Vert": "norm", "lVert": "norm", "rVert": "norm", "lbrace": "{s", "rbrace": "}s",
    "langle": "<(", "rangle": ")>", "lfloor": "lfloor", "rfloor": "rfloor", "lceil": "lceil",
    "rceil": "rceil", "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")",
    "frac": "frac", "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "sfrac": "frac",
    "nicefrac": "frac", "sqrt": "sqrt", "binom": "binom", "dbinom": "binom", "tbinom": "binom",
    "bmod": "bmod", "mod": "mod", "pmod": "pmod", "pod": "pmod", "degree": "degree",
    "circ": "circ", "prime": "'", "colon": ":", "ldots": "dots", "dots": "dots",
    "cdots": "dots", "dotsc": "dots", "to": "to", "rightarrow": "to", "int": "int", "sum": "sum",
    "prod": "prod", "lim": "lim", "Rightarrow": "to", "implies": "to", "complement": "complement",
    "cr": "row", "euro": "euro",
}  # fmt: skip

NAMED_CHARACTERS = {
    "{": "{s", "}": "}s", "\\": "row", "%": "%", "$": "dollar", "|": "norm", "&": "&", "_": "_",
}  # fmt: skip
SPACES = frozenset(" ,;:!>\n\t")

PLAIN_NAMES = {
    "pi": "pi", "Pi": "pi", "oo": "infinity", "inf": "infinity", "infinity": "infinity",
    "infty": "infinity", "Infinity": "infinity", "and": "and", "or": "or", "mod": "mod",
    "in": "in", "union": "cup", "cup": "cup", "sqrt": "sqrt", "AND": "and", "OR": "or",
    "percent": "%", **AND_OR,
}  # fmt: skip

NUMBER_SETS = {"R": "reals", "Z": "integers", "N": "naturals", "Q": "rationals", "C": "complexes"}
