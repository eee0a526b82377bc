"""Numbers in other bases, remainders, congruences, and the spacing of rows."""

import time

import pytest

from megatron_rl.math_answers import find_gold_fault, is_equal_answer
from megatron_rl.math_answers.text.normalize import normalize_answer

ROWS = r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"

SAME = [
    # Signs, and groups around digits.
    *(
        (spelling, r"-101_2")
        for spelling in [
            r"-101_2", r"-101_{2}", r"- 101_2", "\u2212101_2", r"-(101)_2", r"(-101)_2",
            r"{-101}_2", r"-{101}_{2}", r"\left(-101\right)_2", r"-101_{(2)}",
            r"-101_{\text{two}}", r"-101\text{ base }2", r"x=-101_2", r"-0101_2", r"$-101_2$",
        ]
    ),
    (r"{101}_2", "101_2"),
    (r"{{101}}_{2}", "101_2"),
    (r"({101})_2", "101_2"),
    (r"+101_2", "101_2"),
    (r"-0_2", "0_2"),
    (r"-1.01_2", "-1.01_2"),
    (r"{1A}_{16}", "1A_{16}"),
    (r"-{1A}_{16}", "-1a_{16}"),
    (r"{10}_{10}", "10"),
    (r"(-10)_{10}", "-10"),
    ("-10", r"{-10}_{10}"),
    (r"-3x_2", r"-3x_2"),  # a variable with an index
    # Distances between rows.
    *(
        (rf"\begin{{pmatrix}}1&2\\{spacing}3&4\end{{pmatrix}}", ROWS)
        for spacing in [
            "[4pt]", "[0.5em]", " [4pt] ", "*[-2mm]", "*", r"[\jot]", r"[-.5\baselineskip]",
            "[.3 cm]", "[1.5true in]", r"\noalign{\vskip 2pt}", r"\hline ", r"\\[4pt]",
        ]
    ),
    (r"\begin{pmatrix}1&2\\[1ex]3&4\\[2ex]\end{pmatrix}", ROWS),
    (ROWS, r"\begin{pmatrix}1&2\\[4pt]3&4\end{pmatrix}"),
    (r"\begin{bmatrix}a\\[4pt]b\end{bmatrix}", "(a,b)"),
    (r"\begin{vmatrix}1&2\\[3mm]3&4\end{vmatrix}", "-2"),
    (r"\begin{cases}x=1\\[2pt]y=2\end{cases}", "x=1,y=2"),
    (
        r"\begin{cases}1&x>0\\[2pt]2&x\le 0\end{cases}",
        r"\begin{cases}1&x>0\\2&x\le 0\end{cases}",
    ),
    (r"\begin{pmatrix}1\\[2]\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),  # an entry
    (r"\begin{pmatrix}1\\*[2]\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    # Remainders.
    ("5", r"12 \bmod 7"),
    (r"5 \pmod 7", r"12 \bmod 7"),
    (r"12 \bmod 7", r"12 \bmod 7"),
    (r"12 \bmod 7 = 5", "5"),
    (r"5 = 12 \bmod 7", "5"),
    ("4", r"-3 \bmod 7"),
    ("2", r"2^{100} \bmod 7"),
    ("5", r"x = 12 \bmod 7"),
    ("x=5", r"x = 12 \bmod 7"),
    (r"3 \bmod 7", r"x\equiv 3\pmod 7"),
    (r"f(x)=x \bmod 2", r"x \bmod 2"),
    # Congruences with the variable on either side.
    (r"3\equiv x\pmod 7", r"x\equiv 3\pmod 7"),
    (r"x\equiv 3\pmod 7", r"3\equiv x\pmod 7"),
    (r"3 \equiv x \mod 7", "3 (mod 7)"),
    (r"3 \equiv x \bmod 7", "3 (mod 7)"),
    (r"-4\equiv n\pmod{7}", r"n\equiv 3\pmod 7"),
    (r"\pm 1\equiv x\pmod 7", r"x\equiv 1,6\pmod 7"),
]  # fmt: skip

DIFFERENT = [
    ("-101_2", "101_2"),
    ("101_2", "-101_2"),
    ("-5", "-101_2"),
    ("-101_3", "-101_2"),
    ("-110_2", "-101_2"),
    ("-101", "-101_2"),
    (r"\begin{pmatrix}1&2\\[4pt]3&5\end{pmatrix}", ROWS),
    (r"\begin{pmatrix}1\\[2]\end{pmatrix}", r"\begin{pmatrix}1\\3\end{pmatrix}"),
    ("12", r"12 \bmod 7"),
    ("5 cm", r"12 \bmod 7"),
    ("y=5", r"x = 12 \bmod 7"),
    (r"12 \bmod 7 = 4", "4"),
    (r"12 \bmod 7 = 4", "5"),
    ("5", r"5 \pmod 7"),
    ("5", r"5 \bmod 0"),
    (r"10 \bmod 4", "2"),
    (r"3\equiv y\pmod 7", r"x\equiv 3\pmod 7"),
    (r"4\equiv x\pmod 7", r"x\equiv 3\pmod 7"),
]


@pytest.mark.parametrize(("answer", "gold"), SAME)
def test_spellings_of_one_value_are_equal(answer, gold):
    assert find_gold_fault(gold) is None
    assert is_equal_answer(answer, gold)


@pytest.mark.parametrize(("answer", "gold"), DIFFERENT)
def test_other_values_are_different(answer, gold):
    assert not is_equal_answer(answer, gold)


@pytest.mark.parametrize("gold", ["-102_2", "-1G_{16}", r"(-12)_2"])
def test_a_digit_that_the_base_lacks_is_a_fault(gold):
    fault = find_gold_fault(gold)
    assert fault is None or "it has a digit that the base does not have" in fault
    assert (fault is None) == (gold == "-1G_{16}")  # a formula: minus G_16


@pytest.mark.parametrize(
    "piece",
    [
        " " * 1900,
        "1" * 1900,
        "[" * 1900,
        "\\" * 1900,
        (" " * 60 + "1" * 60) * 15,
        r"\\[" * 400,
        r"\\* [1" * 300,
        r"\noalign{" * 200,
        (r"\\ [" + " " * 60) * 30,
    ],
    ids=range(9),
)
def test_the_end_of_a_row_is_found_in_linear_time(piece):
    start_s = time.process_time()
    for tail in ("", "x", "]"):
        normalize_answer(rf"\begin{{matrix}}1\\[{piece}{tail}")
    assert time.process_time() - start_s < 0.5  # 0.005 s here
