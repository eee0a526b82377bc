"""Words of the languages that problems are written in, besides English, in escapes.

French, Spanish, Italian, German, Chinese and Russian: what joins lists, names units, or says that
there is no solution.
"""

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_UNIT_NAMES = {
    "meter": (
        "m\xe8tre metro metri \u043c\u0435\u0442\u0440 \u043c\u0435\u0442\u0440\u0430 "
        "\u043c\u0435\u0442\u0440\u043e\u0432 \u043c \u7c73"
    ),
    "centimeter": (
        "centim\xe8tre cent\xedmetro centimetro centimetri zentimeter "
        "\u0441\u0430\u043d\u0442\u0438\u043c\u0435\u0442\u0440 "
        "\u0441\u0430\u043d\u0442\u0438\u043c\u0435\u0442\u0440\u0430 "
        "\u0441\u0430\u043d\u0442\u0438\u043c\u0435\u0442\u0440\u043e\u0432 \u0441\u043c "
        "\u5398\u7c73 \u516c\u5206"
    ),
    "millimeter": (
        "millim\xe8tre mil\xedmetro millimetro millimetri "
        "\u043c\u0438\u043b\u043b\u0438\u043c\u0435\u0442\u0440 "
        "\u043c\u0438\u043b\u043b\u0438\u043c\u0435\u0442\u0440\u0430 "
        "\u043c\u0438\u043b\u043b\u0438\u043c\u0435\u0442\u0440\u043e\u0432 \u043c\u043c "
        "\u6beb\u7c73"
    ),
    "kilometer": (
        "kilom\xe8tre kil\xf3metro chilometro chilometri "
        "\u043a\u0438\u043b\u043e\u043c\u0435\u0442\u0440 "
        "\u043a\u0438\u043b\u043e\u043c\u0435\u0442\u0440\u0430 "
        "\u043a\u0438\u043b\u043e\u043c\u0435\u0442\u0440\u043e\u0432 \u043a\u043c \u5343\u7c73 "
        "\u516c\u91cc"
    ),
    "gram": (
        "gramme gramo grammo grammi gramm \u0433\u0440\u0430\u043c\u043c "
        "\u0433\u0440\u0430\u043c\u043c\u0430 \u0433\u0440\u0430\u043c\u043c\u043e\u0432 \u0433 "
        "\u514b"
    ),
    "kilogram": (
        "kilogramme kilogramo chilogrammo chilogrammi kilogramm "
        "\u043a\u0438\u043b\u043e\u0433\u0440\u0430\u043c\u043c "
        "\u043a\u0438\u043b\u043e\u0433\u0440\u0430\u043c\u043c\u0430 "
        "\u043a\u0438\u043b\u043e\u0433\u0440\u0430\u043c\u043c\u043e\u0432 \u043a\u0433 "
        "\u5343\u514b \u516c\u65a4"
    ),
    "ton": (
        "tonelada tonnellata tonnellate tonnen \u0442\u043e\u043d\u043d\u0430 "
        "\u0442\u043e\u043d\u043d\u044b \u0442\u043e\u043d\u043d \u0442 \u5428"
    ),
    "liter": (
        "litro litri \u043b\u0438\u0442\u0440 \u043b\u0438\u0442\u0440\u0430 "
        "\u043b\u0438\u0442\u0440\u043e\u0432 \u043b \u5347"
    ),
    "milliliter": (
        "\u043c\u0438\u043b\u043b\u0438\u043b\u0438\u0442\u0440 \u043c\u043b \u6beb\u5347"
    ),
    "second": (
        "seconde segundo secondo secondi sekunde sekunden "
        "\u0441\u0435\u043a\u0443\u043d\u0434\u0430 \u0441\u0435\u043a\u0443\u043d\u0434\u044b "
        "\u0441\u0435\u043a\u0443\u043d\u0434 \u79d2"
    ),
    "minute": (
        "minuto minuti minuten \u043c\u0438\u043d\u0443\u0442\u0430 "
        "\u043c\u0438\u043d\u0443\u0442\u044b \u043c\u0438\u043d\u0443\u0442 \u043c\u0438\u043d "
        "\u5206\u949f"
    ),
    "hour": (
        "heure hora ora ore stunde stunden \u0447\u0430\u0441 \u0447\u0430\u0441\u0430 "
        "\u0447\u0430\u0441\u043e\u0432 \u0447 \u5c0f\u65f6 \u65f6"
    ),
    "day": (
        "jour d\xeda giorno giorni tag tage tagen \u0434\u0435\u043d\u044c \u0434\u043d\u044f "
        "\u0434\u043d\u0435\u0439 \u5929 \u65e5"
    ),
    "week": (
        "semaine semana settimana settimane woche wochen \u043d\u0435\u0434\u0435\u043b\u044f "
        "\u043d\u0435\u0434\u0435\u043b\u0438 \u043d\u0435\u0434\u0435\u043b\u044c \u5468 "
        "\u661f\u671f"
    ),
    "month": (
        "mois mes meses mese mesi monat monate monaten \u043c\u0435\u0441\u044f\u0446 "
        "\u043c\u0435\u0441\u044f\u0446\u0430 \u043c\u0435\u0441\u044f\u0446\u0435\u0432 \u6708"
    ),
    "year": (
        "ans ann\xe9e a\xf1o anno anni jahr jahre jahren \u0433\u043e\u0434 "
        "\u0433\u043e\u0434\u0430 \u043b\u0435\u0442 \u5e74 \u5c81"
    ),
    "degree": (
        "degr\xe9 grado gradi grad \u0433\u0440\u0430\u0434\u0443\u0441 "
        "\u0433\u0440\u0430\u0434\u0443\u0441\u0430 "
        "\u0433\u0440\u0430\u0434\u0443\u0441\u043e\u0432 \u5ea6"
    ),
    "euro": ("\u0435\u0432\u0440\u043e \u6b27\u5143"),
    "dollar": (
        "d\xf3lar d\xf3lares dollaro dollari \u0434\u043e\u043b\u043b\u0430\u0440 "
        "\u0434\u043e\u043b\u043b\u0430\u0440\u0430 "
        "\u0434\u043e\u043b\u043b\u0430\u0440\u043e\u0432 \u7f8e\u5143"
    ),
    "cent": ("centime centavo \u0446\u0435\u043d\u0442\u043e\u0432 \u7f8e\u5206"),
    "yuan": ("\u044e\u0430\u043d\u0435\u0439 \u5143 \u4eba\u6c11\u5e01"),
    "yen": ("\u65e5\u5143"),
    "ruble": (
        "rouble rublo rubli rubel \u0440\u0443\u0431\u043b\u044c \u0440\u0443\u0431\u043b\u044f "
        "\u0440\u0443\u0431\u043b\u0435\u0439 \u0440\u0443\u0431"
    ),
    "unit": (
        "unit\xe9 unidad unidades unit\xe0 einheit einheiten "
        "\u0435\u0434\u0438\u043d\u0438\u0446\u0430 \u0435\u0434\u0438\u043d\u0438\u0446\u044b "
        "\u0435\u0434\u0438\u043d\u0438\u0446 \u5355\u4f4d \u4e2a"
    ),
}
UNITS = {word: unit for unit, words in _UNIT_NAMES.items() for word in words.split()}
"""The English name of a unit."""

AND_OR = {
    "und": "and",
    "\u0438": "and",
    "\u548c": "and",
    "\u4e0e": "and",
    "\u53ca": "and",
    "oder": "or",
    "\u0438\u043b\u0438": "or",
    "\u6216": "or",
    "\u6216\u8005": "or",
}
AND_OR_IN_TEXT = {
    "et": "and",
    "y": "and",
    "e": "and",
    "ou": "or",
    "o": "or",
}
"""These are products of variables elsewhere."""
NOT_UNITS = _words(
    "not isn't is are was were be false wrong incorrect no none never except but unless least "
    "doubled tripled halved negated reciprocal "
    "most less more fewer greater smaller than over under above below beyond minus plus squared "
    "cubed factorial root roots sqrt power mod modulo infinity undefined if when answer equal "
    "equals between through until negative positive pas non n est ni ne moins plus que sauf "
    "faux nicht kein keine falsch weniger mehr als au\xdfer ist \u043d\u0435 \u043d\u0435\u0442 "
    "\u043d\u0435\u0432\u0435\u0440\u043d\u043e \u043c\u0435\u043d\u044c\u0448\u0435 "
    "\u0431\u043e\u043b\u044c\u0448\u0435 \u043a\u0440\u043e\u043c\u0435 falso menos m\xe1s "
    "mayor menor meno pi\xf9 sbagliato"
)
"""Words that say something else of a number than what it counts."""
NOT_UNITS_CHINESE = re.compile(
    "[\u4e0d\u975e\u6ca1\u65e0\u932f\u9519\u5426\u96f6\u5927\u5c0f\u81f3\u591a\u5c11]|^[\u5341\u767e\u5343\u4e07\u4ebf]"
)
NO_SOLUTIONS = (
    r"aucune solution(?: r\xe9elle)?"
    r"|(?:il n'y a )?pas de solutions?(?: r\xe9elles?)?"
    r"|(?:l')?ensemble vide"
    r"|sin soluci(?:\xf3|o)n(?:es)?(?: real(?:es)?)?"
    r"|no hay soluci(?:\xf3|o)n(?:es)?(?: reales)?"
    r"|no tiene soluci(?:\xf3|o)n"
    r"|ninguna soluci(?:\xf3|o)n"
    r"|(?:el )?conjunto vac(?:\xed|i)o"
    r"|nessuna soluzione(?: reale)?"
    r"|non ci sono soluzioni(?: reali)?"
    r"|(?:l')?insieme vuoto"
    r"|(?:es gibt )?keine (?:reellen? )?l(?:\xf6|oe)sung(?:en)?"
    r"|(?:die )?leere menge"
    r"|(?:\w+ )?\u0440\u0435\u0448\u0435\u043d\u0438\u0439 \u043d\u0435\u0442"
    r"|\u043d\u0435\u0442 (?:\w+ )?\u0440\u0435\u0448\u0435\u043d\u0438\u0439"
    r"|\u043d\u0435\u0442 (?:\w+ )?\u043a\u043e\u0440\u043d\u0435\u0439"
    r"|\u043a\u043e\u0440\u043d\u0435\u0439 \u043d\u0435\u0442"
    r"|\u043f\u0443\u0441\u0442\u043e\u0435 \u043c\u043d\u043e\u0436\u0435\u0441\u0442\u0432\u043e"
    r"|\u65e0(?:\u5b9e\u6570)?\u89e3"
    r"|\u6ca1\u6709(?:\u5b9e\u6570)?\u89e3"
    r"|\u65b9\u7a0b\u65e0(?:\u5b9e\u6570)?\u89e3"
    r"|\u7a7a\u96c6"
)
EVERY_REAL = (
    r"(?:tous )?les (?:nombres )?r\xe9els"
    r"|tous les (?:nombres )?r\xe9els"
    r"|(?:todos )?los n\xfameros reales"
    r"|tutti i numeri reali"
    r"|alle reellen zahlen"
    r"|\u0432\u0441\u0435 \w+ \u0447\u0438\u0441\u043b\u0430"
    r"|(?:\u6240\u6709|\u5168\u4f53|\u4e00\u5207)\u5b9e\u6570"
)
ANSWER_IS = (
    r"(?:la )?r\xe9ponse(?: est)?"
    r"|(?:la )?respuesta(?: es)?"
    r"|(?:la )?risposta(?: \xe8)?"
    r"|(?:die )?antwort(?: ist)?"
    r"|\u043e\u0442\u0432\u0435\u0442"
    r"|\u7b54\u6848(?:\u662f|\u4e3a)?"
    r"|\u7b54"
)
"""Alternatives of regular expressions, in lower case."""
MAGNITUDES = {
    "hundred": 100,
    "hundreds": 100,
    "thousand": 1000,
    "thousands": 1000,
    "mille": 1000,
    "tausend": 1000,
    "\u0442\u044b\u0441\u044f\u0447": 1000,
    "\u0442\u044b\u0441\u044f\u0447\u0430": 1000,
    "\u0442\u044b\u0441\u044f\u0447\u0438": 1000,
    "\u4e07": 10000,
    "million": 1000000,
    "millions": 1000000,
    "mill\xf3n": 1000000,
    "millones": 1000000,
    "milione": 1000000,
    "milioni": 1000000,
    "millionen": 1000000,
    "\u043c\u0438\u043b\u043b\u0438\u043e\u043d": 1000000,
    "\u043c\u0438\u043b\u043b\u0438\u043e\u043d\u0430": 1000000,
    "\u043c\u0438\u043b\u043b\u0438\u043e\u043d\u043e\u0432": 1000000,
    "\u4ebf": 100000000,
    "billion": 1000000000,
    "billions": 1000000000,
    "milliard": 1000000000,
    "milliards": 1000000000,
    "milliarden": 1000000000,
    "\u043c\u0438\u043b\u043b\u0438\u0430\u0440\u0434": 1000000000,
    "\u043c\u0438\u043b\u043b\u0438\u0430\u0440\u0434\u0430": 1000000000,
    "\u043c\u0438\u043b\u043b\u0438\u0430\u0440\u0434\u043e\u0432": 1000000000,
    "dozen": 12,
    "dozens": 12,
    "douzaine": 12,
    "douzaines": 12,
    "docena": 12,
    "docenas": 12,
    "dozzina": 12,
    "dozzine": 12,
    "dutzend": 12,
    "\u0434\u044e\u0436\u0438\u043d\u0430": 12,
    "\u0434\u044e\u0436\u0438\u043d\u044b": 12,
    "\u0434\u044e\u0436\u0438\u043d": 12,
}
PARTS = {
    "half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6,
    "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10, "twelfth": 12, "hundredth": 100,
    "thousandth": 1000,
}  # fmt: skip
"""What one is divided into, in the singular."""
