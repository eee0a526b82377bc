"""Defined names: variables, functions of a variable, tuples of variables."""

from megatron_rl.math_answers.kinds.records import Answer, Definition, Quantity
from megatron_rl.math_answers.tree import Node, symbol, symbols_of


def value_for(gold: Definition, answer: Definition) -> Answer | None:
    """Return the answer's value in the gold answer's variables, None if the names differ."""
    if bare_name(gold.name) == bare_name(answer.name):
        return answer.value
    if _is_graph(gold.name, answer.name):
        return answer.value
    if not (is_function(gold.name) and is_function(answer.name)):
        return None
    (wanted, variables), (head, others) = (_parts_of(each.name) for each in (gold, answer))
    if wanted != head or len(variables) != len(others):
        return None
    return _renamed(answer.value, dict(zip(others, variables, strict=True)))


def bare_name(name: str) -> str:
    """Return a name without the case of a word."""
    return name.casefold() if len(name) > 1 and name.isalpha() else name


def is_function(name: str) -> bool:
    """Return whether a name is that of a function and its variables, such as ``f(x)``."""
    return "(" in name and not name.startswith("(")


def _is_graph(left: str, right: str) -> bool:
    """Return whether one is f(x) and the other the y that it is drawn as."""
    return (left == "y" and is_function(right)) or (right == "y" and is_function(left))


def _parts_of(name: str) -> tuple[str, list[str]]:
    head, _, inside = name.partition("(")
    return head, inside.removesuffix(")").split(",")


def _renamed(value: Answer, names: dict[str, str]) -> Answer | None:
    """Return a formula with other variables; None where one of them is taken or is a number."""
    if not isinstance(value, Quantity) or len(set(names)) != len(names):
        return None
    free = symbols_of(value.formula) - names.keys()
    if any(new in free or not (old + new).isalpha() for old, new in names.items()):
        return None
    return Quantity(formula=_with_names(value.formula, names), unit=value.unit)


def _with_names(node: Node, names: dict[str, str]) -> Node:
    if node.op == "symbol" and node.args[0] in names:
        return symbol(names[node.args[0]])
    args = tuple(_with_names(arg, names) if isinstance(arg, Node) else arg for arg in node.args)
    return Node(node.op, args)
