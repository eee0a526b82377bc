"""Formulas with variables: equal everywhere, or near zero only."""

import pytest

from megatron_rl.math_answers import is_equal_answer

DIFFERENT = [
    ("|x-5|", "5-x"),  # apart beyond 5
    ("5-x", "|x-5|"),
    (r"\sqrt{x^2-6x+9}", "3-x"),
    ("|x-3|+|x+3|", "6"),
    (r"\sqrt{(x+10)^2}", "x+10"),
    ("x", "|x+100|-100"),
    ("n", "50-|n-50|"),
    (r"\operatorname{sgn}(x-9)", "-1"),
    (r"\frac{|x-9|}{x-9}", "-1"),
    (r"\lfloor x\rfloor", r"\lfloor x+0.0001\rfloor"),
    (r"\arctan(\tan(x/4))", "x/4"),
    (r"\arcsin(\sin(\frac{x}{10}))", r"\frac{x}{10}"),
    ("|a-b-20|", "20+b-a"),
    (r"\max(x,10)", "10"),
    (r"\ln|x|+C", r"\ln x+C"),
    (r"\sin x", r"\sin x+\frac{x}{12!^5}"),  # 12!^5 is 2e43
    (r"\sin x", r"\sin x+e^{-x^2-99}"),
    (r"\sin x+1", r"\sin x+\tanh(x^2+99)"),
    (r"\sin x", r"\sin x+10^{-11}\cdot10^{-11}\cdot10^{-11}\cdot10^{-11}x"),
    (r"\sin x", r"\sin x\cdot\frac{e^{x+100}}{e^{x+100}+1}"),
    (r"2\arctan x", r"\arctan\frac{2x}{1-x^2}"),  # apart by pi beyond 1
    (r"x\sqrt{x^2+1}", r"\sqrt{x^4+x^2}"),
    (r"\ln(x-5)", r"\ln(x-6)"),
    (r"\arctan x+\arctan\frac1x", r"\frac{\pi}{2}"),  # -pi/2 for negative x
]
SAME = [
    ("|x-3|", r"\sqrt{x^2-6x+9}"),
    ("|x-y|", r"\sqrt{x^2-2xy+y^2}"),
    (r"\max(a,b)", r"\frac{a+b+|a-b|}{2}"),
    (r"\max(a,b)", r"\max(b,a)"),
    (r"\max(x,3)", r"\frac{x+3+|x-3|}{2}"),
    ("|x-1|+|x-4|", "|4-x|+|1-x|"),
    ("|x^2-1|", "|x-1||x+1|"),
    (r"\sqrt{x^2+x}", r"\sqrt{x(x+1)}"),
    (r"\frac{x}{\sqrt{x^2+1}}", r"\frac{x\sqrt{x^2+1}}{x^2+1}"),
    (r"\sqrt{1-x^2}\sin x", r"\sqrt{(1-x)(1+x)}\sin x"),
    (r"\sqrt{a^2+b^2}", r"\sqrt{b^2+a^2}"),
    (r"\ln|x|+C", r"C+\ln|x|"),
    (r"\arctan x", r"-\arctan(-x)"),
    (r"\arccos x", r"\frac{\pi}{2}-\arcsin x"),
    (r"\frac{1}{2}\ln\frac{1+x}{1-x}", r"\operatorname{arctanh} x"),
    (r"\ln(x-5)+\ln(x+5)", r"\ln(x^2-25)"),
    (r"\sqrt{1-x^2}", r"\sin(\arccos x)"),
    (r"\ln(x+\sqrt{x^2+1})", r"\operatorname{arcsinh} x"),
    (r"\cos(2x)", r"\cos^4 x-\sin^4 x"),
    (r"\frac{\sin 3x}{\sin x}", r"3-4\sin^2 x"),
    (r"\tan x+\cot x", r"\frac{2}{\sin 2x}"),
]


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_formulas_that_differ_somewhere_are_different(gold, answer):
    assert not is_equal_answer(answer, gold)


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_formulas_that_agree_everywhere_are_the_same(gold, answer):
    assert is_equal_answer(answer, gold)
