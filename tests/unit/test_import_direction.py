"""Imports point downwards, and other rules that hold for every file of the package."""

import ast
import functools
import graphlib
import importlib.util
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "megatron_rl"
FLOOR = {
    # 0: plain data
    **dict.fromkeys(["__init__", "errors", "types", "protocols", "config", "math_answers"], 0),
    **dict.fromkeys(["run_dir", "telemetry", "registry", "transfers", "hf_folder"], 0),
    "hf_shards": 0,
    **dict.fromkeys(["process_lifetime", "model_spec", "sequences", "stage_record"], 0),
    # 1: pure logic
    **dict.fromkeys(["data", "thinking", "verifiers", "algorithm", "batch"], 1),
    **dict.fromkeys(["conversion", "parallelism", "placement", "stage_endings"], 1),
    # between: an effect that a unit of floor 2 is made of
    "sandbox": 1.5,
    # 2: effects, one outside world each
    "code_judging": 2,
    **dict.fromkeys(["generation", "rollout", "judge", "batch_files", "learner"], 2),
    **dict.fromkeys(["weight_sync", "evaluate", "report", "slurm"], 2),
    # 3: the programs; 4: the command line and what starts it
    "programs": 3,
    "cli": 4,
    "__main__": 5,
    # Loaded by the server's interpreter, which does not have this package.
    "serving_standins": 0,
    # Likewise, and by the learner for the records and numbers that both must agree on.
    "serving_plugin": 0,
}
STAND_INS = PACKAGE / "serving_standins"
# Backstops, not aims: usually under 300 lines, and 15 files; a subject that is whole stays whole.
MAX_LINES, MAX_FILES = 500, 20
UNSAFE = {"pickle", "cloudpickle", "dill", "shelve"}

FILES = sorted(PACKAGE.rglob("*.py"))


@functools.cache
def imported_names(path: Path) -> list[tuple[int, str]]:
    """Return (line, absolute dotted name) of every import at any depth of the file."""
    return list(imports_of(path.read_text(), ".".join(path.relative_to(ROOT).parent.parts)))


def imports_of(source: str, package: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            dots = "." * node.level + (node.module or "")
            module = importlib.util.resolve_name(dots, package)
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def unit_of(name: str) -> str | None:
    """Return which unit of the package a dotted name belongs to, None for other packages."""
    top, *rest = name.split(".")
    if top != PACKAGE.name:
        return None
    return rest[0] if rest and rest[0] in FLOOR else "__init__"


def broken_imports(unit: str, imports: Iterator[tuple[int, str]]) -> list[str]:
    broken = []
    for line, name in imports:
        target = unit_of(name)
        if target is None or target == unit:
            continue
        is_common_ground = FLOOR[unit] == FLOOR[target] == 0
        if FLOOR[target] >= FLOOR[unit] and not is_common_ground:
            broken.append(f"line {line}: {unit} must not import {target}")
    return broken


def test_imports_point_downwards():
    broken = {}
    for path in FILES:
        unit = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        assert unit in FLOOR, f"{unit} has no floor: add it to FLOOR and to docs/architecture.md"
        broken[path] = broken_imports(unit, imported_names(path))
    assert {path: lines for path, lines in broken.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import megatron_rl.learner.device.platform",
        "from megatron_rl.learner import platform",
        "from megatron_rl.learner.device.platform import name",
        "from megatron_rl import learner",
        "from .. import learner",
        "from ..learner import platform",
        "def late():\n    from megatron_rl import learner",
        "import os, megatron_rl.learner as anything",
    ],
)
def test_every_way_to_import_a_stranger_is_seen(source: str):
    imports = imports_of(source, "megatron_rl.rollout")
    assert [b.split(": ")[1] for b in broken_imports("rollout", imports)] == [
        "rollout must not import learner"
    ]


@pytest.mark.parametrize(
    "source",
    [
        "import megatron_rl",
        "from megatron_rl import __version__",
        "from megatron_rl.errors import DataError",
        "from . import sandbox",
        "from megatron_rl.rollout.sandbox import run",
        "from megatron_rl import verifiers, types",
        "import megatron_rl_of_another_make",
    ],
)
def test_downward_and_own_imports_are_free(source: str):
    assert broken_imports("rollout", imports_of(source, "megatron_rl.rollout")) == []


def module_of(name: str, modules: set[str]) -> str | None:
    """Return the module of this package that an imported name is, or is in."""
    while name not in modules:
        name = name.rpartition(".")[0]
        if not name:
            return None
    return name


def test_no_modules_import_each_other_in_a_circle():
    """Imports inside functions and those for type checkers count as well."""
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in FILES}
    paths = {name.removesuffix(".__init__"): path for name, path in names.items()}
    graph = {
        module: {found for _, name in imported_names(path) if (found := module_of(name, {*paths}))}
        - {module}
        for module, path in paths.items()
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_mains_are_not_libraries():
    """A program is started by the command line; what two of them share has a room."""
    mains = {f"{PACKAGE.name}.programs.{path.stem}" for path in (PACKAGE / "programs").glob("*.py")}
    mains.discard(f"{PACKAGE.name}.programs.__init__")
    importers = {
        f"{path}:{line}": name
        for path in FILES
        for line, name in imported_names(path)
        if name in mains or name.rpartition(".")[0] in mains
    }
    assert importers == {}


def test_math_answers_is_a_library_of_its_own():
    own = f"{PACKAGE.name}.math_answers"
    strangers = {
        f"{path}:{line}": name
        for path in (PACKAGE / "math_answers").rglob("*.py")
        for line, name in imported_names(path)
        if name.split(".")[0] == PACKAGE.name and not name.startswith(own)
    }
    assert strangers == {}


def importers_of(*packages: str, but_in: Path) -> list[str]:
    """Return file:line of each import of these packages outside of a folder."""
    return [
        f"{path}:{line}"
        for path in FILES
        if not path.is_relative_to(but_in)
        for line, name in imported_names(path)
        if name.split(".")[0] in packages
    ]


def test_only_the_learner_imports_megatron():
    assert importers_of("megatron", but_in=PACKAGE / "learner") == []


def test_sglang_is_a_process_and_never_imported():
    assert importers_of("sglang", but_in=STAND_INS) == []


def test_nothing_is_unpickled():
    """SGLang's route of tensors takes pickled bytes, which one file writes and never reads."""
    writer = PACKAGE / "weight_sync" / "shards" / "loader_orders.py"
    assert importers_of(*UNSAFE, but_in=writer) == []
    assert "pickle.dump(" in writer.read_text() and "pickle.load" not in writer.read_text()


def test_a_file_has_one_purpose_and_is_short():
    sources = {path: path.read_text() for path in FILES}
    without = [path for path, text in sources.items() if not ast.get_docstring(ast.parse(text))]
    assert without == [], "the first line says the file's purpose"
    assert [p for p, text in sources.items() if len(text.splitlines()) > MAX_LINES] == []


def test_a_folder_can_be_taken_in_at_a_glance():
    counts = {
        folder: sum(path.is_file() for path in folder.iterdir())
        for folder in {path.parent for path in FILES}
    }
    crowded = {str(folder.relative_to(PACKAGE)) for folder, n in counts.items() if n > MAX_FILES}
    assert crowded == set()


def test_mypy_checks_floors_0_and_1():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    checked = {Path(name).stem for name in settings["files"]}
    units = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES}
    low = {unit for unit in units if FLOOR[unit] <= 1}
    assert checked == low - {"__init__", "serving_standins"}


def test_no_two_files_of_tests_have_one_name():
    """pytest imports them by it, and refuses the second one it meets: only a whole run shows it."""
    paths: dict[str, list[Path]] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        paths.setdefault(path.name, []).append(path)
    assert [found for found in paths.values() if len(found) > 1] == []
