"""Imports inside of math_answers run in no circle, and from a room to those below only."""

import ast
import graphlib
from pathlib import Path

import megatron_rl.math_answers

ROOT = Path(megatron_rl.math_answers.__file__).parent
PACKAGE = "megatron_rl.math_answers"
FLOOR = {
    "tree": 0,
    # Rooms of one floor are strangers: no algebra while reading, no text in algebra.
    "text": 1,
    "parsing": 2,
    "algebra": 2,
    "kinds": 3,
    "readers": 4,
    "equality": 5,
    "same_answer": 6,
    "__init__": 7,
}
MODULES = {
    ".".join([PACKAGE, *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(
        ".__init__"
    ): path
    for path in sorted(ROOT.rglob("*.py"))
}


def imports_of(path: Path) -> set[str]:
    """Return the modules of the library that a file imports, at any depth and for types too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None, f"{path}: a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return found & set(MODULES)


IMPORTS = {name: imports_of(path) for name, path in MODULES.items()}


def room_of(name: str) -> str:
    inner = name.removeprefix(PACKAGE).removeprefix(".")
    return inner.partition(".")[0] or "__init__"


def test_no_circle_of_imports():
    order = list(graphlib.TopologicalSorter(IMPORTS).static_order())
    assert len(order) == len(MODULES) > 50
    # A check of the check: what was found is most of the library.
    assert set().union(*IMPORTS.values()) >= {f"{PACKAGE}.tree", f"{PACKAGE}.same_answer"}


def test_imports_stay_in_their_room_or_go_to_a_lower_one():
    up = [
        f"{name} imports {target}"
        for name, targets in IMPORTS.items()
        for target in targets
        if room_of(name) != room_of(target) and FLOOR[room_of(target)] >= FLOOR[room_of(name)]
    ]
    assert up == []


def test_every_room_has_a_floor():
    assert {room_of(name) for name in MODULES} == set(FLOOR)
