"""Container recipes: they install from the pins, name no version, and copy what is there."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "launchers/containers"
PARTS = ["learn", "serve"]
PYTHON_OF = {"debian:12-slim": (3, 11)}
"""Python that the base image's packages bring."""


def sections(part: str) -> dict[str, list[str]]:
    """Return the lines of a definition file by section; the head is under the empty name."""
    found: dict[str, list[str]] = {"": []}
    name = ""
    for line in (FOLDER / f"{part}.def").read_text().splitlines():
        if line.startswith("%"):
            name = line[1:]
            found[name] = []
        elif line.strip() and not line.strip().startswith("#"):
            found[name].append(line.strip())
    return found


@pytest.mark.parametrize("part", PARTS)
def test_an_image_is_installed_by_the_one_script(part):
    found = sections(part)
    assert found["post"] == [f"/opt/megatron-rl/launchers/containers/install.sh {part}"]
    assert found[""] == ["Bootstrap: docker", "From: debian:12-slim"]


@pytest.mark.parametrize("part", PARTS)
def test_every_file_that_is_copied_is_there(part):
    copied = [line.split() for line in sections(part)["files"]]
    assert all(target == f"/opt/megatron-rl/{source}" for source, target in copied)
    sources = {source for source, _ in copied}
    assert all((ROOT / source).exists() for source in sources - {"wheels"})
    script = (FOLDER / "install.sh").read_text()
    listed = re.search(r'"\$source"/\{(.*?)\}', script)
    assert listed is not None
    assert sources - {"wheels"} == set(listed[1].split(","))  # what Enroot's way copies


def test_no_recipe_has_a_version_of_its_own():
    for path in FOLDER.iterdir():
        text = "\n".join(x for x in path.read_text().splitlines() if not x.startswith("#"))
        assert not re.search(r"==\s*\d|\d\.\d", text), path.name
        assert "pip install" not in text, path.name


def test_the_base_image_has_a_python_that_the_package_runs_on():
    bases = {
        re.findall(r"debian:\S+", (FOLDER / name).read_text())[0]
        for name in ("learn.def", "serve.def", "enroot.sh")
    }
    (base,) = bases
    asked = re.search(r'python_requires=">=3\.(\d+),<3\.(\d+)"', (ROOT / "setup.py").read_text())
    assert asked is not None
    assert int(asked[1]) <= PYTHON_OF[base][1] < int(asked[2])


def test_a_part_that_does_not_exist_is_refused_before_anything_is_installed():
    done = subprocess.run([FOLDER / "install.sh", "lern"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "lern is neither learn nor serve" in done.stderr
