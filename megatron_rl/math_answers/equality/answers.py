"""Equality of two answers of any kinds; docs/verifiers.md lists the rules."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from megatron_rl.math_answers.algebra.same_formula import are_same_formula
from megatron_rl.math_answers.equality.ordered import (
    are_same_matrices,
    are_same_orders,
    is_same_vector,
)
from megatron_rl.math_answers.equality.quantities import (
    are_same_quantities,
    is_same_letter,
    letter_of,
)
from megatron_rl.math_answers.kinds import equations
from megatron_rl.math_answers.kinds.clocks import are_same_clocks, is_same_as_clock
from megatron_rl.math_answers.kinds.definitions import value_for
from megatron_rl.math_answers.kinds.inequalities import as_real_set, solutions
from megatron_rl.math_answers.kinds.periodic import class_of
from megatron_rl.math_answers.kinds.real_sets import are_same_set
from megatron_rl.math_answers.kinds.records import (
    Answer,
    Choice,
    Clock,
    Collection,
    Comparison,
    Definition,
    Matrix,
    NumberSet,
    Numeral,
    Ordered,
    Piecewise,
    Quantity,
    Ratio,
    RealSet,
    Residues,
    Words,
)
from megatron_rl.math_answers.kinds.residues import (
    are_same_ratios,
    are_same_residues,
    is_same_quotient,
    is_same_remainder,
)
from megatron_rl.math_answers.readers.piecewise import are_same_piecewise
from megatron_rl.math_answers.tree import symbols_of

_MAX_ITEMS = 60


def are_same_answer(gold: Answer, answer: Answer) -> bool:
    """Return whether ``answer`` is provably the same as ``gold``; their order matters."""
    if isinstance(gold, Choice) or isinstance(answer, Choice):
        return _are_same_choice(gold, answer)
    if isinstance(gold, Definition) or isinstance(answer, Definition):
        return _are_same_definition(gold, answer)
    if isinstance(gold, Collection) or isinstance(answer, Collection):
        return _are_same_collection(gold, answer)
    if type(gold) is type(answer):
        return _SAME_KIND[type(gold)](gold, answer)
    if isinstance(gold, Comparison) or isinstance(answer, Comparison):
        return _is_same_comparison(gold, answer)
    return _are_different_kinds_equal(gold, answer)


def _are_different_kinds_equal(gold: Answer, answer: Answer) -> bool:
    kinds = {type(gold), type(answer)}
    if kinds == {Matrix, Ordered}:
        matrix, vector = (gold, answer) if isinstance(gold, Matrix) else (answer, gold)
        assert isinstance(matrix, Matrix) and isinstance(vector, Ordered), "by their types"
        return is_same_vector(matrix, vector, are_same_answer, is_gold_first=matrix is gold)
    if kinds == {Ordered, RealSet}:
        return _have_same_sets(gold, answer)
    if kinds == {Quantity, RealSet}:
        quantity, found = (gold, answer) if isinstance(gold, Quantity) else (answer, gold)
        assert isinstance(found, RealSet) and isinstance(quantity, Quantity), "by their types"
        point = as_real_set(quantity)
        return found.variable is not None and point is not None and _are_same_sets(found, point)
    if Clock in kinds:
        return is_same_as_clock(gold, answer)
    if kinds == {Quantity, Residues}:
        wanted = gold if isinstance(gold, Residues) else class_of(gold)
        if isinstance(gold, Residues) and is_same_remainder(gold, answer):
            return True
        given = answer if isinstance(answer, Residues) else class_of(answer)
        return wanted is not None and given is not None and are_same_residues(wanted, given)
    if kinds == {Quantity, Ratio}:
        return is_same_quotient(gold, answer)
    letters = letter_of(gold), letter_of(answer)
    if Words in kinds and None not in letters:
        return is_same_letter(letters[0], letters[1])
    return False


def _are_same_choice(gold: Answer, answer: Answer) -> bool:
    if isinstance(gold, Choice) and isinstance(answer, Choice):
        return gold.letter == answer.letter and are_same_answer(gold.content, answer.content)
    choice, other = (gold, answer) if isinstance(gold, Choice) else (answer, gold)
    assert isinstance(choice, Choice), "the caller saw one"
    letter = letter_of(other)
    if letter is not None:
        return is_same_letter(choice.letter, letter)
    if choice is gold:
        return are_same_answer(choice.content, other)
    return are_same_answer(other, choice.content)


def _are_same_definition(gold: Answer, answer: Answer) -> bool:
    if isinstance(gold, Definition) and isinstance(answer, Definition):
        value = value_for(gold, answer)
        if value is not None:
            return are_same_answer(gold.value, value)
        return equations.are_same_equations(gold, answer)
    definition, other = (gold, answer) if isinstance(gold, Definition) else (answer, gold)
    assert isinstance(definition, Definition), "the caller saw one"
    if isinstance(other, Comparison):
        if equations.are_same_equations(definition, other):
            return True
        return _is_same_comparison(gold, answer)
    if isinstance(other, Collection) and _is_system(other):
        return _is_same_system(other, definition, is_gold_first=definition is gold)
    if isinstance(other, RealSet | Residues) and other.variable not in {None, definition.name}:
        return False
    if isinstance(other, Ordered) and _is_closed(other) and isinstance(definition.value, Quantity):
        return _have_same_sets(gold, answer)  # [2,2] is x = 2
    value = definition.value
    pair = (value, other) if definition is gold else (other, value)
    return are_same_answer(*pair) or _is_chain_to(value, other, is_gold=definition is gold)


def _is_chain_to(value: Answer, other: Answer, *, is_gold: bool) -> bool:
    """Return whether x = a = b = c comes out at ``other``, every step being true."""
    if not isinstance(value, Comparison) or set(value.relations) != {"="}:
        return False
    if not all(are_same_formula(left, right) for left, right in pairwise(value.sides)):
        return False
    last = Quantity(formula=value.sides[-1])
    return are_same_answer(last, other) if is_gold else are_same_answer(other, last)


def _is_system(collection: Collection) -> bool:
    return all(isinstance(item, Definition) for item in collection.items)


def _is_same_system(system: Collection, other: Answer, *, is_gold_first: bool) -> bool:
    """Return whether x = 1, y = 2 is the pair (1, 2), named (x, y) or in alphabetical order."""
    values = {item.name: item.value for item in system.items if isinstance(item, Definition)}
    if len(values) != len(system.items):
        return False
    names = sorted(values)
    if isinstance(other, Definition):
        if not other.name.startswith("("):
            return False
        names, other = other.name[1:-1].split(","), other.value
        if sorted(names) != sorted(values):
            return False
    if not isinstance(other, Ordered):
        return False
    ordered = Ordered(items=tuple(values[name] for name in names))
    return are_same_answer(other, ordered) if is_gold_first else are_same_answer(ordered, other)


def _are_same_collection(gold: Answer, answer: Answer) -> bool:
    if isinstance(gold, Collection) and isinstance(answer, Collection):
        return _are_same_items(gold, answer)
    collection, other = (gold, answer) if isinstance(gold, Collection) else (answer, gold)
    assert isinstance(collection, Collection), "the caller saw one"
    if _is_system(collection) and isinstance(other, Ordered):
        return _is_same_system(collection, other, is_gold_first=other is gold)
    if isinstance(other, Residues):
        separate = Collection(items=tuple(replace(other, residues=(r,)) for r in other.residues))
        return _are_same_items(
            *((collection, separate) if collection is gold else (separate, collection))
        )
    if isinstance(other, RealSet | Comparison):
        return _have_same_sets(gold, answer)
    if collection.is_set and isinstance(other, Ordered) and _is_closed(other):
        return _have_same_sets(gold, answer)
    if isinstance(other, Matrix | Ordered | Words):
        return len(collection.items) == 1 and are_same_answer(
            *((collection.items[0], other) if collection is gold else (other, collection.items[0]))
        )
    # "1/2 or 0.5" says one value twice, "5, 5" is two values.
    single = Collection(items=(other,), is_set=collection.is_set or collection.has_or)
    return _are_same_items(*((collection, single) if collection is gold else (single, collection)))


def _is_closed(answer: Ordered) -> bool:
    return (answer.opening, answer.closing) == ("[", "]")


def _are_same_items(gold: Collection, answer: Collection) -> bool:
    gold_items, items = _values_of(gold, answer), _values_of(answer, gold)
    if max(len(gold_items), len(items)) > _MAX_ITEMS:
        return False
    if (gold_items is gold.items) != (items is answer.items) and _has_several_names(gold, answer):
        if gold.is_set or answer.is_set or gold.has_or or answer.has_or:
            return False
        return all(map(are_same_answer, gold_items, items)) and len(gold_items) == len(items)
    if gold.is_set or answer.is_set:
        # A set has no repetitions: each must be found on the other side.
        # Each pair is compared once, or nested sets would double the work at every level.
        agreements = [[are_same_answer(g, a) for a in items] for g in gold_items]
        return all(map(any, agreements)) and all(map(any, zip(*agreements, strict=True)))
    if len(gold_items) != len(items):
        return False
    unmatched = list(items)
    for wanted in gold_items:
        match = next((item for item in unmatched if are_same_answer(wanted, item)), None)
        if match is None:
            return False
        unmatched.remove(match)
    return True


def _values_of(collection: Collection, other: Collection) -> Sequence[Answer]:
    """Return the items, or values in the order of their names where only this list has names."""
    if not _is_system(collection) or _is_system(other):
        return collection.items
    named = [item for item in collection.items if isinstance(item, Definition)]
    return [item.value for item in sorted(named, key=lambda item: item.name)]


def _has_several_names(*collections: Collection) -> bool:
    """Return whether a list names different unknowns, and not the x_1 and x_2 of one equation."""
    names = [
        {item.name.partition("_")[0] for item in each.items if isinstance(item, Definition)}
        for each in collections
    ]
    return any(len(found) > 1 for found in names)


def _have_same_sets(gold: Answer, answer: Answer) -> bool:
    """Return whether both may be read as sets of real numbers, and those are the same."""
    sets = as_real_set(gold), as_real_set(answer)
    return sets[0] is not None and sets[1] is not None and _are_same_sets(sets[0], sets[1])


def _are_same_sets(gold: RealSet, answer: RealSet) -> bool:
    if None not in {gold.variable, answer.variable} and gold.variable != answer.variable:
        return False
    return are_same_set(gold, answer)


def _is_same_comparison(gold: Answer, answer: Answer) -> bool:
    if isinstance(gold, Comparison) and isinstance(answer, Comparison):
        if equations.are_same_comparisons(gold, answer):
            return True
    elif isinstance(gold, Quantity) or isinstance(answer, Quantity):
        comparison, quantity = (gold, answer) if isinstance(gold, Comparison) else (answer, gold)
        if isinstance(comparison, Comparison) and isinstance(quantity, Quantity):
            if set(comparison.relations) != {"="}:
                return False
            # A gold in several unknowns is a line or a curve, whose right side says nothing.
            if quantity is gold and _is_sum_of_names(comparison):
                last = Quantity(formula=comparison.sides[-1])
                return are_same_answer(quantity, last)
            if _is_chain_to(comparison, quantity, is_gold=comparison is gold):
                return True
    return any(_are_same_sets(g, a) for g in _sets_of(gold) for a in _sets_of(answer))


def _sets_of(answer: Answer) -> list[RealSet]:
    """Return the sets of real numbers an answer may be, one for every variable it may be about."""
    if isinstance(answer, Comparison):
        return list(solutions(answer))
    found = as_real_set(answer)
    return [] if found is None else [found]


def _is_sum_of_names(comparison: Comparison) -> bool:
    """Return whether it gives the value of several unknowns together: m + n = 7."""
    first, *rest = comparison.sides
    return len(symbols_of(first)) > 1 and not any(symbols_of(side) for side in rest)


_SAME_KIND: dict[type, Callable[..., bool]] = {
    Quantity: are_same_quantities,
    Words: lambda gold, answer: gold.text == answer.text,
    Ordered: lambda gold, answer: are_same_orders(gold, answer, are_same_answer),
    Matrix: lambda gold, answer: are_same_matrices(gold, answer, are_same_answer),
    RealSet: _are_same_sets,
    NumberSet: lambda gold, answer: gold.name == answer.name,
    Comparison: _is_same_comparison,
    Numeral: lambda gold, answer: gold == answer,
    Residues: are_same_residues,
    Ratio: are_same_ratios,
    Clock: are_same_clocks,
    Piecewise: lambda gold, answer: are_same_piecewise(gold, answer, are_same_answer),
}
