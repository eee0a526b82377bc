"""Equations, inequalities and membership, and lists of them as one answer."""

from collections.abc import Callable, Sequence

from megatron_rl.math_answers.kinds.inequalities import as_real_set, fold
from megatron_rl.math_answers.kinds.periodic import as_class
from megatron_rl.math_answers.kinds.real_sets import (
    ALL_REALS,
    complement,
    intersection,
    normalized,
    union,
)
from megatron_rl.math_answers.kinds.records import (
    Answer,
    Collection,
    Comparison,
    Definition,
    NumberSet,
    Ordered,
    Quantity,
    RealSet,
    Residues,
    Words,
)
from megatron_rl.math_answers.parsing.expressions import read_expression
from megatron_rl.math_answers.text.brackets import is_op, split, strip_group
from megatron_rl.math_answers.text.names import name_of
from megatron_rl.math_answers.text.tokens import Token
from megatron_rl.math_answers.text.vocabulary import NUMBER_SETS
from megatron_rl.math_answers.tree import Node, Unreadable, symbol, symbols_of

_ORDERS = frozenset({"<", "<=", ">", ">="})
_RELATIONS = _ORDERS | {"=", "!=", "in", "notin", "approx", "sim", "cong"}
Read = Callable[[Sequence[Token]], Answer]


def read_relation(tokens: Sequence[Token], log_base: Node, read: Read) -> Answer | None:
    """Read an equation, an inequality or a membership; None where there is no relation."""
    parts, relations = split(tokens, _RELATIONS)
    if is_op(tokens[-1], "in") and relations:  # inches
        parts, relations = parts[:-1], relations[:-1]
        parts[-1:] = [tokens[len(tokens) - len(parts[-1]) - 1 :]] if parts else []
    if not relations:
        return None
    parts = [strip_group(part) for part in parts]
    if not all(parts):
        raise Unreadable("has a relation without a side")
    if relations[0] in {"in", "notin"}:
        return _read_membership(parts, relations, read)
    if set(relations) <= {"=", "approx", "sim", "cong"}:
        return _read_equation(parts, relations, log_base, read)
    sides = tuple(read_expression(part, log_base=log_base) for part in parts)
    return Comparison(sides=sides, relations=tuple(relations))


def _read_membership(parts: list[Sequence[Token]], relations: list[str], read: Read) -> Answer:
    name = name_of(parts[0])
    if len(parts) != 2 or name is None:
        raise Unreadable("has a membership of something else than a variable")
    found = _read_named_set(parts[1]) or read(parts[1])
    if isinstance(found, Quantity):  # x in R without \mathbb
        raise Unreadable("has a membership in what is no set")
    if isinstance(found, NumberSet):
        return NumberSet(name=found.name, variable=name)
    if isinstance(found, Collection) and relations[0] == "in":
        return Definition(name=name, value=Collection(items=found.items, is_set=True))
    as_set = as_real_set(found)
    if as_set is None:
        if relations[0] == "in":
            return Definition(name=name, value=found)
        raise Unreadable("has a membership in what is no set")
    if relations[0] == "notin":
        as_set = complement(as_set)
    return RealSet(pieces=as_set.pieces, variable=name)


def _read_named_set(tokens: Sequence[Token]) -> Answer | None:
    """Read the R of "x in R"; elsewhere R is a variable."""
    if len(tokens) != 1 or tokens[0].text not in NUMBER_SETS:
        return None
    name = NUMBER_SETS[tokens[0].text]
    return ALL_REALS if name == "reals" else NumberSet(name=name)


def _read_equation(
    parts: list[Sequence[Token]], relations: list[str], log_base: Node, read: Read
) -> Answer:
    if "=" not in relations or relations[-1] != "=":
        # What follows an "approximately" only illustrates the exact value before it.
        first = next(i for i, relation in enumerate(relations) if relation != "=")
        if first > 0 or name_of(parts[0]) is None:
            parts, relations = parts[: first + 1], relations[:first]
    if len(parts) == 1:
        return read(parts[0])
    name = name_of(parts[0])
    if name is None and len(parts) == 2 and name_of(parts[1]) is not None:
        parts, name = [parts[1], parts[0]], name_of(parts[1])
    if name is not None:
        if len(parts) == 2:
            return Definition(name=name, value=read(parts[1]))
        chain = tuple(_read_side(part, log_base, read) for part in parts[1:])
        # y = f(x) = x^2 has two names and a value, a = b = c has none.
        names = [name_of(part) for part in parts[1:]]
        if len(chain) == 2 and parts[1][0].kind == "symbol" and names[0] and not names[1]:
            return Definition(name=name, value=read(parts[2]))
        relations = ["="] * (len(chain) - 1)
        return Definition(name=name, value=Comparison(sides=chain, relations=tuple(relations)))
    if len(parts) == 2 and _is_vector_of_names(parts[0]):
        return Definition(name="vector", value=read(parts[1]))
    sides = tuple(_read_side(part, log_base, read) for part in parts)
    if len(parts) == 2 and _is_derivative(sides[0]):
        return Definition(name="derivative", value=Quantity(formula=sides[1]))
    return Comparison(sides=sides, relations=("=",) * (len(sides) - 1))


def _is_vector_of_names(tokens: Sequence[Token]) -> bool:
    is_matrix = any(is_op(token, "begin") for token in tokens)
    return is_matrix and not any(token.kind == "number" for token in tokens)


def _is_derivative(node: Node) -> bool:
    """Return whether a formula is dy/dx."""
    if node.op != "divide":
        return False
    parts = [arg.args for arg in node.args if arg.op == "multiply" and len(arg.args) == 2]
    return len(parts) == 2 and all(part[0] == symbol("d") for part in parts)


def _read_side(part: Sequence[Token], log_base: Node, read: Read) -> Node:
    if any(token.kind in {"text", "word"} or is_op(token, "dollar") for token in part):
        found = read(part)
        if isinstance(found, Quantity):
            return found.formula
    return read_expression(part, log_base=log_base)


def combine(items: Sequence[Answer], *, is_or: bool = False, is_and: bool = False) -> Answer:
    """Return the answer of a list: values of one variable, a system, or a union of sets."""
    items = _apply_domains(list(items))
    if len(items) == 1:
        return items[0]
    first = items[0]
    if isinstance(first, Definition) and all(isinstance(i, Quantity | Ordered) for i in items[1:]):
        values = [first.value, *items[1:]]
        return Definition(name=first.name, value=Collection(items=tuple(values)))
    names = {item.name for item in items if isinstance(item, Definition)}
    if len(names) == 1 and all(isinstance(item, Definition) for item in items):
        values = [item.value for item in items if isinstance(item, Definition)]
        return Definition(name=names.pop(), value=Collection(items=tuple(_flat(values))))
    if all(isinstance(item, Residues) for item in items):
        return _merge_residues([item for item in items if isinstance(item, Residues)])
    sets = _sets_of(items)
    if sets is None:
        return Collection(items=tuple(items), has_or=is_or)
    return _combine_sets(sets, is_or=is_or, is_and=is_and)


def _flat(values: Sequence[Answer]) -> list[Answer]:
    flat: list[Answer] = []
    for value in values:
        flat.extend(value.items if isinstance(value, Collection) else [value])
    return flat


def _apply_domains(items: list[Answer]) -> list[Answer]:
    r"""Apply and drop the domains of parameters, such as that of ``x = k\pi, k \in \mathbb{Z}``."""
    kept = [item for item in items if not _is_usual_domain(item, items)]
    if not kept:
        return items
    for item in items:
        if isinstance(item, NumberSet) and item.name == "integers" and item.variable is not None:
            kept = [as_class(each, item.variable) for each in kept]
    return kept


def _is_usual_domain(item: Answer, items: Sequence[Answer]) -> bool:
    """Return whether an item is the domain of an integer parameter, or of an unused variable."""
    if not isinstance(item, NumberSet) or item.variable is None:
        return False
    if item.name == "integers":
        return True
    values = [each.value if isinstance(each, Definition) else each for each in items]
    formulas = [value.formula for value in values if isinstance(value, Quantity)]
    return not any(item.variable in symbols_of(formula) for formula in formulas)


def _merge_residues(items: list[Residues]) -> Answer:
    if len({(item.modulus, item.variable) for item in items}) != 1:
        return Collection(items=tuple(items))
    residues = tuple(residue for item in items for residue in item.residues)
    return Residues(residues=residues, modulus=items[0].modulus, variable=items[0].variable)


def _sets_of(items: Sequence[Answer]) -> list[RealSet] | None:
    """Return all items as sets of one variable, where at least one is an inequality."""
    if not any(isinstance(i, Comparison) or (isinstance(i, RealSet) and i.variable) for i in items):
        return None
    first = items[0]
    if isinstance(first, Comparison) and first.relations == ("!=",):
        # "x != 1, 2" excludes both.
        name = first.sides[0]
        items = [
            Comparison(sides=(name, item.formula), relations=("!=",))
            if isinstance(item, Quantity)
            else item
            for item in items
        ]
    found = []
    for item in items:
        if isinstance(item, Quantity | Words):
            return None
        as_set = as_real_set(item)
        if as_set is None:
            return None
        found.append(as_set)
    variables = {each.variable for each in found if each.variable is not None}
    return found if len(variables) <= 1 else None


def _combine_sets(sets: list[RealSet], *, is_or: bool, is_and: bool) -> RealSet:
    if is_or:
        return fold(sets, union)
    common = fold(sets, intersection)
    if is_and or normalized(common):
        return common
    return fold(sets, union)
