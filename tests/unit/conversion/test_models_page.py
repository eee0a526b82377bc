"""docs/models.md: a row for every family, and no other."""

import re
from pathlib import Path

from megatron_rl.conversion.families import FAMILIES

PAGE = Path(__file__).parents[3] / "docs" / "models.md"


def test_the_table_has_a_row_for_every_family():
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert rows[1:] == list(FAMILIES)  # under the head of the table
