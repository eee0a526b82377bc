"""docs/slurm.md names messages, keys and codes that exist."""

import ast
import re
from pathlib import Path

from megatron_rl.config import LaunchConfig, PlacementConfig
from megatron_rl.errors import ProgramError

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs/slurm.md").read_text()


def strings_of_the_package() -> list[str]:
    """Return every piece of text in the package's code; an f-string is several."""
    trees = (ast.parse(path.read_text()) for path in (ROOT / "megatron_rl").rglob("*.py"))
    return [
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def test_every_message_is_one_that_the_code_says():
    section = GUIDE.partition("## When something is wrong")[2].partition("\n## ")[0]
    messages = re.findall(r"^\* `([^`]+)`:$", section, flags=re.MULTILINE)
    assert len(messages) >= 40
    texts = strings_of_the_package()
    for message in messages:
        for fragment in message.split(" ... "):
            words = fragment.strip()
            assert any(words in text for text in texts), words


def test_every_key_of_launch_that_is_named_exists():
    for section, model in (("launch", LaunchConfig), ("launch.placement", PlacementConfig)):
        named = set(re.findall(rf"\b{section}\.([a-z_]+)", GUIDE))
        assert named - set(model.model_fields) == set()


def test_every_exit_code_of_a_program_is_explained():
    codes = GUIDE.partition("## Exit codes of a job")[2].partition("\n## ")[0]
    for code in ProgramError.EXIT_CODES.values():
        assert re.search(rf"^\|.*\b{code}\b.*\|", codes, flags=re.MULTILINE), code
