"""docs/configuration.md is what ``megatron-rl schema --markdown`` prints, and it is complete."""

import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from megatron_rl.cli import main
from megatron_rl.config import RunConfig, json_schema
from megatron_rl.config.reference import markdown_reference

PAGE = Path(__file__).parents[3] / "docs/configuration.md"
RENEW = ".venv/bin/megatron-rl schema --markdown > docs/configuration.md"


def keys_of(section: type[BaseModel], where: str = "") -> Iterator[str]:
    """Yield the dotted name of every key that holds a value, found in the classes themselves."""
    for name, field in section.model_fields.items():
        if (section, name) == (RunConfig, "stage"):
            continue  # launchers write it, and no user
        tables, entries = sections_in(field.annotation)
        for inner in (*tables, *entries):
            yield from keys_of(inner, f"{where}{name}.")
        if not tables:  # a list of tables is a value as well
            yield where + name


def sections_in(hint: Any) -> tuple[list[type[BaseModel]], list[type[BaseModel]]]:
    """Return the sections that a field may be, and those that its list may consist of."""
    if typing.get_origin(hint) is typing.Annotated:
        return sections_in(typing.get_args(hint)[0])
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        found = [sections_in(option) for option in typing.get_args(hint)]
        return [s for tables, _ in found for s in tables], [s for _, e in found for s in e]
    if typing.get_origin(hint) is tuple:
        return [], sections_in(typing.get_args(hint)[0])[0]
    is_section = isinstance(hint, type) and issubclass(hint, BaseModel)
    return ([hint] if is_section else []), []


def test_the_page_is_what_the_command_prints(capsys):
    assert main(["schema", "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert PAGE.read_text() == printed, f"docs/configuration.md is out of date; run: {RENEW}"


def test_every_key_has_one_line_with_type_default_and_meaning():
    found, section = [], ""
    for line in markdown_reference(json_schema()).splitlines():
        if heading := re.fullmatch(r"##+ `\[+(.+?)\]+`", line):
            section = f"{heading[1]}."
        elif item := re.match(r"- `(\w+)` \((.+); (.+)\): \S", line):
            found.append(section + item[1])
    assert sorted(found) == sorted(keys_of(RunConfig))


def test_the_keys_that_must_be_given_are_those_of_the_first_paragraph():
    section, required, is_entry = "", "", False
    for line in markdown_reference(json_schema()).splitlines():
        if heading := re.fullmatch(r"##+ `\[+(.+?)\]+`", line):
            section, is_entry = f"{heading[1]}.", "[[" in line
        elif item := re.match(r"- `(\w+)` \(.+; required\)", line):
            # A cold start is a choice; its data is required once it is chosen. So are a scaling of
            # the model and an entry.
            is_choice = section in ("sft.", "model.rope_scaling.") or is_entry
            required += "" if is_choice else f" {section}{item[1]}"
    assert required.split() == ["run_dir", "num_steps", "model.path", "data.train"]


def test_a_wrapped_line_is_short_and_starts_no_list_of_its_own():
    body = markdown_reference(json_schema()).partition("## At the top")[2]
    assert max(map(len, body.splitlines())) <= 120
    assert re.findall(r"^\s*(?:[-+*>#]|\d+[.)])\s(?!`)", body, flags=re.MULTILINE) == []
