"""Lists, systems, intervals and sets: near-misses that a lenient comparison would take."""

import pytest

from megatron_rl.math_answers import find_gold_fault, is_equal_answer

ABSOLUTE = r"\begin{cases}x & x\ge0\\-x & x<0\end{cases}"
PARITY = (
    r"\begin{cases}n/2 & \text{if } n \text{ is even}\\ "
    r"(n+1)/2 & \text{if } n \text{ is odd}\end{cases}"
)
DIFFERENT = [
    ("(3,-2)", r"\text{no solution}"),  # a point is no empty interval
    ("(0,0)", r"\emptyset"),
    ("(3,1)", "x<1 and x>2"),
    ("(3,-2)", "[3,-2)"),
    ("[3,-2]", r"\emptyset"),
    (r"\emptyset", "(3,2)"),
    (r"\emptyset", "(9,2]"),
    (r"\emptyset", r"\{\emptyset\}"),
    ("x+2y-3=0", "0"),  # the right side of a line is not the line
    ("x^2+y^2=25", "25"),
    (r"\frac{x}{2}+\frac{y}{3}=1", r"100\%"),
    ("xy=1", "1"),
    ("x=1,y=2", "2,1"),  # names give the order
    ("x=1,y=2", r"\{2,1\}"),
    ("2,1", "x=1,y=2"),
    ("a=1,b=2,c=3", "3,2,1"),
    ("5", "5,5"),
    ("5,5", "5"),
    ("5", "5,5,5"),
    (r"k\pi, k\in\mathbb{Z}", r"k\pi, k\in\mathbb{N}"),
    (r"\{1,2,3\}", "x=1, x=2, z=3"),
    ("2,-2", r"x=2\text{ or }z=-2"),
    (r"(-\infty,-1)\cup(2,\infty)", r"x<-1\text{ or }z>2"),
    ("(-\\infty,3)", r"\{z\mid x<3\}"),
    (r"x\equiv1,5\pmod6", r"x\equiv1\pmod6\text{ or }z\equiv5\pmod6"),
    (ABSOLUTE, r"x\ne0"),  # where it is defined says nothing of what it is
    (ABSOLUTE, r"\begin{cases}x & x\ge0\\x & x<0\end{cases}"),
    (ABSOLUTE, r"\begin{cases}-x & x\ge0\\x & x<0\end{cases}"),
    (ABSOLUTE, r"\begin{cases}x & x\ge0\end{cases}"),
    (ABSOLUTE, "x,-x"),
    (PARITY, r"\begin{cases}n/2 & n \text{ odd}\\ (n+1)/2 & n \text{ even}\end{cases}"),
    (r"f(x)=x^2", "f(z)=x^2"),
    (r"f(x)=x^2", "g(t)=t^2"),
    (r"f(x)=2x", "f(a)=x+a"),  # the name is taken
    ("f(2)=5", "f(3)=5"),
    ("10:30", "1:3"),
    ("10:30", "20:60"),
    ("10:30", r"\frac13"),
    ("3:00", "4:00"),
    ("0:30", "0:45"),
    (r"2:30\text{ PM}", r"2:30\text{ AM}"),
    (r"2:30\text{ PM}", "2:31 PM"),
]
SAME = [
    ("7", "m+n=7"),
    ("25", "x^2+y^2=25"),
    ("x=1,y=2", "1,2"),
    ("x_1=1, x_2=2", "2,1"),  # two solutions of one equation have no order
    (r"\frac12", r"\frac{1}{2} \text{ or } 0.5"),
    (r"\{3\}", "[3,3]"),
    (r"x=5, x\in\mathbb{N}", "5"),
    (r"k\pi, k\in\mathbb{Z}", r"k\pi"),
    (r"\text{no solution}", "x>2 and x<1"),
    (r"\emptyset", r"\{\}"),
    (ABSOLUTE, r"\begin{cases} -x, & x < 0 \\ x, & x \ge 0 \end{cases}"),
    (ABSOLUTE, r"\begin{cases}x & \text{if } x\ge0,\\-x & \text{if } x<0.\end{cases}"),
    (ABSOLUTE, r"f(x)=\begin{cases}x & 0\le x\\-x & \text{otherwise}\end{cases}"),
    (ABSOLUTE, r"\left\{\begin{array}{ll}x & x\ge0\\-x & x<0\end{array}\right."),
    (PARITY, r"\begin{cases}n/2 & n \text{ even}\\ (n+1)/2 & n \text{ odd}\end{cases}"),
    (r"\begin{cases}x&=1\\y&=2\end{cases}", "x=1,y=2"),  # the sign only aligns
    ("f(x)=x^2", "f(t)=t^2"),
    ("f(x,y)=x-y", "f(a,b)=a-b"),
    ("f(2)=5", "5"),
    ("10:30", r"10{:}30"),
    (r"10:30\text{ a.m.}", "10:30 AM"),
    ("10:30", r"10:30\text{ a.m.}"),
    (r"2:30\text{ PM}", "14:30"),
    ("3:00", r"3\text{ p.m.}"),
    ("9:16", r"\frac{9}{16}"),
    ("1:3", "10:30"),
]


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_other_structures_are_other_answers(gold, answer):
    assert not is_equal_answer(answer, gold)


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_one_structure_in_other_words_is_the_same_answer(gold, answer):
    assert is_equal_answer(answer, gold)


@pytest.mark.parametrize("gold", ["[3,-2)", "(1,1]", "]5,2]"])
def test_half_open_intervals_with_ends_in_the_wrong_order_mean_nothing(gold):
    assert find_gold_fault(gold) is not None


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", "-2"),
        (r"\left|\begin{matrix}1&2\\3&4\end{matrix}\right|", "-2"),
        (r"\left|\begin{array}{cc}1&2\\3&4\end{array}\right|", "-2"),
        (r"3\begin{vmatrix}1&2\\3&4\end{vmatrix}", "-6"),
        (r"\det\begin{pmatrix}1&2\\3&4\end{pmatrix}", "-2"),
        (r"\det\left(\begin{matrix}1&2\\3&4\end{matrix}\right)", "-2"),
        (r"\begin{vmatrix}a&b\\c&d\end{vmatrix}", "ad-bc"),
        (r"\begin{vmatrix}2&0&1\\1&3&2\\0&1&1\end{vmatrix}", "3"),
    ],
)
def test_a_determinant_is_its_value(answer, value):
    assert is_equal_answer(answer, value)
    assert is_equal_answer(value, answer)
    assert not is_equal_answer(answer, f"1+({value})")


@pytest.mark.parametrize(
    "answer",
    [
        r"\begin{vmatrix}1&2\\3&4\\5&6\end{vmatrix}",  # not square
        r"\begin{vmatrix}1&2\\3\end{vmatrix}",
        r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
        r"\begin{Vmatrix}1&2\\3&4\end{Vmatrix}",
    ],
)
def test_what_has_no_determinant_is_no_number(answer):
    assert not is_equal_answer(answer, "-2")
