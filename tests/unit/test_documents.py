"""Every document is narrow enough to read, and the places in the code that it names exist."""

import re
from pathlib import Path

import pytest

from megatron_rl.run_dir import RunDir
from tests.unit.test_import_direction import FLOOR, PACKAGE, ROOT

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]
MAX_CHARACTERS = 120

_ENDING = r"\.(?:py|md|toml|sbatch|sh|html|json|jsonl)\b"
# Folders, and then a file or nothing: what goes on behind is a pattern, a metric, or a URL.
_PATH = re.compile(rf"(?<![\w/.~<>:$*-])((?:[\w.-]+/)+(?:[\w-]+{_ENDING})?)(?![\w*<{{/-])")
_FILE = re.compile(r"(?<![\w/.*-])([\w-]+\.(?:py|md|toml|sbatch))\b(?!/)")
_NAME_IN_FILE = re.compile(r"`([\w/.]+\.py): (\w+)`")
_MODULE = re.compile(r"\bmegatron_rl((?:\.\w+)+)")
_LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)\s]*)?\)")
_ROW = re.compile(r"^\| ?([\d.]*) \| (.*) \|$", re.MULTILINE)

# Folders that programs make and files of users; "launch.sbatch" is a key.
_OF_NO_CHECKOUT = {"runs", "model", "exits", "path", "launch.sbatch", "RUN.toml", "my_site.toml"}

of_each_document = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS]
)


def of_a_run() -> set[str]:
    """Return the names that lie in a run folder."""
    run = RunDir(Path("run"))
    values = [getattr(run, n) for n, value in vars(RunDir).items() if isinstance(value, property)]
    return {path.relative_to(run.root).parts[0] for path in values if isinstance(path, Path)}


def find(name: str, *, document: Path) -> Path | None:
    """Return what a document means by a path: of the repository, the package or its own folder."""
    places = [folder / name for folder in (ROOT, PACKAGE, document.parent)]
    return next((place for place in places if place.exists()), None)


@of_each_document
def test_no_line_is_wider_than_120_characters(path: Path):
    lines = enumerate(path.read_text().splitlines(), start=1)
    assert [number for number, line in lines if len(line) > MAX_CHARACTERS] == []


@of_each_document
def test_every_path_exists(path: Path):
    elsewhere = of_a_run() | _OF_NO_CHECKOUT
    ours = [n for n in _PATH.findall(path.read_text()) if n.split("/")[0] not in elsewhere]
    assert [name for name in ours if find(name, document=path) is None] == []


@of_each_document
def test_every_file_that_is_named_without_its_folder_exists(path: Path):
    top = [found for found in ROOT.iterdir() if not found.name.startswith(".")]
    files = {found.name for folder in top for found in [folder, *folder.rglob("*")]}
    assert set(_FILE.findall(path.read_text())) - files - _OF_NO_CHECKOUT == set()


@of_each_document
def test_every_name_in_a_file_exists(path: Path):
    for name, word in _NAME_IN_FILE.findall(path.read_text()):
        file = find(name, document=path)
        assert file is not None, name
        assert re.search(rf"\b{word}\b", file.read_text()), f"{name}: {word}"


@of_each_document
def test_every_module_exists(path: Path):
    for dotted in _MODULE.findall(path.read_text()):
        unit = PACKAGE / dotted.split(".")[1]
        assert unit.is_dir() or unit.with_suffix(".py").exists(), dotted


@of_each_document
def test_every_link_to_a_file_leads_somewhere(path: Path):
    targets = {(path.parent / link).resolve() for link in _LINK.findall(path.read_text())}
    assert [str(target) for target in targets if not target.exists()] == []


@pytest.mark.parametrize(("name", "column"), [("docs/architecture.md", 0), ("CONTRIBUTING.md", 1)])
def test_the_table_of_floors_is_that_of_the_imports(name: str, column: int):
    section = (ROOT / name).read_text().partition("\n## Floors\n")[2].partition("\n## ")[0]
    found, floor = {}, ""
    for number, cells in _ROW.findall(section):
        floor = number or floor
        units = re.findall(r"`(\w+)[/\w]*`", cells.split("|")[column])
        found |= dict.fromkeys(units, float(floor))
    assert found == {unit: FLOOR[unit] for unit in FLOOR if not unit.startswith("__")}
