"""Words beside numbers: units of seven languages, denials, fractions, parameters, notation."""

import pytest

from megatron_rl.math_answers import find_gold_fault, is_equal_answer

OTHER_LANGUAGES = [
    ("5", "5\\text{ m\u00e8tres}"),
    ("5\\text{ m}", "5\\text{ m\u00e8tres}"),
    ("5\\text{ m}", "5 \u043c\u0435\u0442\u0440\u043e\u0432"),
    ("5\\text{ cm}", "5\\text{ \u0441\u043c}"),
    ("5", "5\u5143"),
    ("5\\text{ km}", "5\u516c\u91cc"),
    ("12\\text{ cm}^2", "12\u5e73\u65b9\u5398\u7c73"),
    ("3\\text{ Stunden}", "3 hours"),
    ("5", "5 a\u00f1os"),
    ("5", "5\u4e2a"),
    ("5", "\u7b54\u6848\u662f5"),
    ("1,2", r"1\text{ et }2"),
    ("1,2", r"1\text{ und }2"),
    ("1,2", r"1\text{ y }2"),
    ("1,2", "1\\text{ \u0438 }2"),
    ("x=1,x=2", r"x=1\text{ ou }x=2"),
    ("x=1,x=2", "x=1\u6216x=2"),
    (r"\text{no solution}", r"\text{aucune solution}"),
    (r"\emptyset", "\\text{\u043d\u0435\u0442 \u0440\u0435\u0448\u0435\u043d\u0438\u0439}"),
    (r"\emptyset", "\u65e0\u89e3"),
    (r"\emptyset", "\\text{sin soluci\u00f3n}"),
    (r"\emptyset", "\\text{keine L\u00f6sung}"),
    (r"\emptyset", r"\text{nessuna soluzione}"),
    (r"\text{ao\u00fbt}".replace(r"\u00fb", "\u00fb"), "Ao\u00fbt"),
    ("\u0434\u0430", "\\text{\u0414\u0430}"),
    ("\u7532", "\\text{\u7532}"),
]
SAME = [
    ("5i", r"5\text{i}"),
    (r"5\pi", r"5\text{ pi}"),
    ("2x", r"2\text{x}"),
    ("84", r"7\text{ dozen}"),
    (r"\frac23", r"2\text{ thirds}"),
    ("-5", "negative 5"),
    ("2.5\\text{ hours}", r"2\text{ hours }30\text{ minutes}"),
    (r"3 \text{ feet } 6 \text{ inches}", "42 inches"),
    ("7", r"7^{\text{th}}"),
    (r"7\text{th}", "7^{th}"),
    (r"7\text{th}", "7th"),
    ("3", "3rd"),
    (r"90^\circ", r"\frac{\pi}{2}\text{ rad}"),
    (r"60\text{ km/h}", r"60\ \frac{\text{km}}{\text{h}}"),
    (r"2\text{ hours}", "2 hrs"),
    ("75\\text{ cents}", "75\u00a2"),
    ("60", r"60\,\Omega"),
    (r"5\text{ cm}", r"5 {\rm cm}"),
    (r"5\text{ cm}", r"5 \, \rm{cm}"),
    ("101_2", "101 (base 2)"),
    ("101_2", r"101_{\text{base }2}"),
    ("101_2", r"101\text{ base }2"),
    (r"\mathbb{R}", r"\mathbf{R}"),
    (r"\mathbb{R}", r"\Bbb{R}"),
    (r"\mathbb{Z}", r"\Z"),
    (r"\mathbb{R}\setminus\{0\}", r"\mathbb{R}-\{0\}"),
    (r"x\ne0", r"x \not= 0"),
    (r"\frac{\pi}{4}+k\pi", r"\frac{\pi}{4}+n\pi"),
    (r"\frac{\pi}{4}+k\pi", r"\frac{\pi}{4}+k\pi\ (k\in\mathbb{Z})"),
    (r"k\pi, k\in\mathbb{Z}", r"-n\pi, n\in\mathbb{Z}"),
    (r"k\pi, k\in\mathbb{Z}", r"\{k\pi \mid k\in\mathbb{Z}\}"),
    (r"x=2k+1, k\in\mathbb{Z}", r"x=2n-1, n\in\mathbb{Z}"),
    (r"x\equiv 3\pmod 7", r"7k+3, k\in\mathbb Z"),
    (r"x\equiv 3\pmod 7", r"x=7n-4, n\in\mathbb{Z}"),
    ("e^x+C", "e^x+c"),
    ("e^x+C", "K+e^x"),
    ("5", r"\color{red}{5}"),
    ("5", r"\textcolor{blue}{5}"),
    ("5", r"\large 5"),
    (r"\frac16", r"0.1\bar 6"),
]
DIFFERENT = [
    *[("5", f"5\\text{{ {words}}}") for words in [
        "is not the answer", "is wrong", "squared", "factorial", "pi", "x", "less", "at least",
        "pas", "nicht", "n'est pas", "\u043d\u0435", "false",
    ]],
    ("5", r"5\text{i}"),
    ("2", r"2\text{x}"),
    ("5", "5 thirds"),
    ("5", "5 dozen"),
    ("5", "5 halves"),
    ("5", "5\u4e07"),
    ("5", "negative 5"),
    ("5", "5\u4e0d\u662f"),
    ("5\\text{ m}", "5\\text{ centim\u00e8tres}"),
    ("5\\text{ cm}", "5\u7c73"),
    ("1,2", r"1\text{ et }3"),
    ("\u7532", "\u4e59"),
    ("\u662f", "\u5426"),
    (r"\emptyset", "\u6709\u89e3"),
    (r"2\text{ hours}", r"2\text{ hours }30\text{ minutes}"),
    (r"7\text{th}", "8th"),
    (r"90^\circ", r"\pi\text{ rad}"),
    (r"90^\circ", r"90\text{ rad}"),
    ("101_2", "101 (base 3)"),
    ("101_2", "110 (base 2)"),
    (r"\mathbb{R}", r"\mathbf{Z}"),
    ("C", r"\mathbb{C}"),
    (r"\mathbb{Z}", r"\{2k \mid k\in\mathbb{Z}\}"),
    (r"\frac{\pi}{4}+k\pi", r"\frac{\pi}{4}+2n\pi"),
    (r"\frac{\pi}{4}+k\pi", r"\frac{\pi}{3}+n\pi"),
    (r"x\equiv 3\pmod 7", r"7k+4, k\in\mathbb{Z}"),
    (r"x\equiv 3\pmod 7", r"7k+3, k\in\mathbb{N}"),
    ("2n", "2k"),  # of a sequence the name counts
    ("e^x+C", "e^x"),
    ("e^x+C", "e^x+2c"),
    ("e^x+C", "e^x+x"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer"), OTHER_LANGUAGES)
def test_answers_in_other_languages_are_understood(gold, answer):
    assert find_gold_fault(gold) is None
    assert is_equal_answer(answer, gold)


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_words_and_notation_that_mean_the_same_are_accepted(gold, answer):
    assert find_gold_fault(gold) is None
    assert is_equal_answer(answer, gold)


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_words_and_notation_that_mean_something_else_are_refused(gold, answer):
    assert not is_equal_answer(answer, gold)
