"""Equality of residue classes, and of ratios."""

from megatron_rl.math_answers.algebra.form import rational_value
from megatron_rl.math_answers.algebra.normal_form import form_of
from megatron_rl.math_answers.algebra.same_formula import are_same_formula
from megatron_rl.math_answers.kinds.records import Answer, Quantity, Ratio, Residues
from megatron_rl.math_answers.tree import Node, Undefined, number


def are_same_residues(gold: Residues, answer: Residues) -> bool:
    """Return whether two sets of residue classes are equal; the modulus may have either sign."""
    if None not in {gold.variable, answer.variable} and gold.variable != answer.variable:
        return False
    if not any(are_same_formula(gold.modulus, m) for m in _signed(answer.modulus)):
        return False
    wanted = [_reduced(residue, gold.modulus) for residue in gold.residues]
    found = [_reduced(residue, gold.modulus) for residue in answer.residues]
    return all(any(are_same_formula(w, f) for f in found) for w in wanted) and all(
        any(are_same_formula(w, f) for w in wanted) for f in found
    )


def is_same_remainder(gold: Residues, answer: Answer) -> bool:
    r"""Return whether a gold ``12 \bmod 7`` is answered by the number.

    The other way round a residue class is no number: the answer is not worked out.
    """
    if not gold.is_remainder or not isinstance(answer, Quantity) or answer.unit is not None:
        return False
    remainder = Node("modulo", (gold.residues[0], gold.modulus))
    return len(gold.residues) == 1 and are_same_formula(remainder, answer.formula)


def _signed(modulus: Node) -> tuple[Node, Node]:
    return modulus, Node("negative", (modulus,))


def _reduced(residue: Node, modulus: Node) -> Node:
    """Return the representative of a residue class between zero and the modulus."""
    try:
        form = form_of(Node("divide", (residue, modulus)))
    except Undefined:
        return residue
    value = None if form is None else rational_value(form)
    return residue if value is None else Node("multiply", (number(value % 1), modulus))


def are_same_ratios(gold: Ratio, answer: Ratio) -> bool:
    """Return whether the terms of two ratios are proportional."""
    if len(gold.terms) != len(answer.terms):
        return False
    return all(
        are_same_formula(
            Node("multiply", (gold.terms[0], theirs)), Node("multiply", (ours, answer.terms[0]))
        )
        for ours, theirs in zip(gold.terms, answer.terms, strict=True)
    )


def is_same_quotient(gold: Answer, answer: Answer) -> bool:
    """Return whether a ratio of two terms, on either side, is the number on the other."""
    ratio, quantity = (gold, answer) if isinstance(gold, Ratio) else (answer, gold)
    assert isinstance(ratio, Ratio) and isinstance(quantity, Quantity), "by their types"
    if len(ratio.terms) != 2 or quantity.unit is not None:
        return False
    return are_same_formula(Node("divide", ratio.terms), quantity.formula)
