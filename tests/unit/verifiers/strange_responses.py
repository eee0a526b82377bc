"""Responses that no model should write, for fuzzing: pieces of LaTeX and text in any order."""

from hypothesis import strategies as st

_PIECES = [
    *"0129+-*/^_.,;:!=<>()[]{}|&' xyieE%$#@~?\"\\\n\x00",
    *[
        r"\frac",
        r"\frac{",
        r"\sqrt",
        r"\sqrt[",
        r"\pi",
        r"\infty",
        r"\left(",
        r"\right]",
        r"\text{",
    ],
    *[r"\in", r"\cup", r"\cap", r"\setminus", r"\le", r"\ne", r"\{", r"\}", r"\\", r"\pm", r"\mp"],
    *[r"\sin", r"\log_", r"\ln", r"\binom", r"\sum_{k=1}^", r"\int_0^1", r"\lim_{x \to 0}", "dx"],
    *[r"\begin{pmatrix}", r"\end{pmatrix}", r"\begin{cases}", r"\end{cases}", r"\pmod", r"\equiv"],
    *[r"\mathbb{R}", r"\mathrm{cm}", r"\overline{", r"\circ", r"\%", r"\$", "and", "or", " mod "],
    *["\u221a", "\u00bd", "\u2264", "\u00b2", "\u2082", "\u2212", "\u20ac", "\u0663", "\U0001d7d9"],
    *["1,000", "0.25", "1e5", "12_8", "x=", "f(x)=", "(A)", "no solution", " hours", "1/0", "0^0"],
    *["<think>", "</think>", r"\boxed{", "99!", "9^9^9", "oo", "|x|", "]1,2[", "x_1", "dollars"],
]
_ANSWERS = st.one_of(
    st.lists(st.sampled_from(_PIECES), max_size=12).map("".join),
    st.text(max_size=30),
)
RESPONSES = st.one_of(
    _ANSWERS.map(lambda answer: f"<think>hm</think>\\boxed{{{answer}}}"),
    _ANSWERS,
)
"""Most of them with the answer in its box."""
_USUAL_GOLDS = [
    *["5", r"\frac{x}{2}", "(1,2)", "x>2", r"\{1,2\}", "1,2", "x=2y", r"[0,\infty)", "12_8", "A"],
    *["0.333", "50%", r"3\text{ cm}", r"x \equiv 1 \pmod 3", "Tuesday", r"2\sqrt{3}", "1:2"],
    *[r"\begin{pmatrix}1\\2\end{pmatrix}", r"\pm 3", "3+4i", r"\$5", r"90^\circ", r"e^{2}"],
]
GOLDS = st.one_of(st.sampled_from(_USUAL_GOLDS), _ANSWERS)
