"""Markdown reference of every setting, made from the JSON schema of the configuration.

``megatron-rl schema --markdown`` prints it; ``docs/configuration.md`` is what it printed.
"""

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Schema = Mapping[str, Any]

_WIDTH = 120
_HEAD = """\
# Configuration

One TOML file describes a run.
This page has every key that it may hold.
Only `run_dir`, `num_steps`, `model.path` and `data.train` must be given.
An unknown key is refused, with the nearest valid one.
So is whatever else can be known to be wrong before a GPU is touched.

- `--set SECTION.KEY=VALUE` overrides one key on the command line of any program.
  The value `null` removes it.
- `megatron-rl train run.toml --dry-run` prints all keys as they will be used.
- Relative paths start at the folder that a command runs in.
- What "not set" means, the text of the key says.

`megatron-rl schema --markdown` prints this page, from the code that reads the file.
`megatron-rl schema` prints the same as a JSON schema, for editors.
"""
_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
_PLAIN = {"integer": "integer", "number": "number", "boolean": "boolean", "string": "string"}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Section:
    """One table of the file: its dotted name, what it is for, and its keys."""

    name: str
    text: str
    keys: Mapping[str, Schema]
    required: frozenset[str]


def markdown_reference(schema: Schema) -> str:
    """Return the reference as a Markdown document.

    Args:
        schema: what :func:`megatron_rl.config.json_schema` returns.
    """
    top, *sections = _sections(schema)
    links = ", ".join(f"[{s.name}](#{s.name.replace('.', '')})" for s in sections)
    return "\n".join(
        [
            _HEAD,
            _fill(f"Sections: {links}."),
            "",
            "## At the top of the file",
            "",
            *_key_items(top),
            *(line for section in sections for line in _section_lines(section)),
            "",
        ]
    )


def _sections(schema: Schema) -> Iterator[_Section]:
    """Yield the file itself and each of its tables, a table before those within it."""

    def walk(name: str, table: Schema) -> Iterator[_Section]:
        inner = {key: _table_of(field, schema) for key, field in table["properties"].items()}
        yield _Section(
            name=name,
            text=_one_line(table["description"]),
            keys={k: field for k, field in table["properties"].items() if inner[k] is None},
            required=frozenset(table["required"] if "required" in table else ()),
        )
        for key, found in inner.items():
            if found is not None:
                yield from walk(f"{name}.{key}".lstrip("."), found)

    return walk("", schema)


def _table_of(field: Schema, schema: Schema) -> Schema | None:
    """Return the table that a key holds, None when it holds a value."""
    options = field["anyOf"] if "anyOf" in field else (field,)
    for option in options:
        if "$ref" in option:
            table: Schema = schema["$defs"][option["$ref"].rpartition("/")[2]]
            return table
    return None


def _section_lines(section: _Section) -> Iterator[str]:
    yield from ("", f"{'#' * (2 + section.name.count('.'))} `[{section.name}]`", "")
    yield from (_fill(section.text), "")
    yield from _key_items(section)


def _key_items(section: _Section) -> Iterator[str]:
    for key, field in section.keys.items():
        default = "required" if key in section.required else _default(field)
        item = f"- `{key}` ({_type(field)}; {default}): {_one_line(field['description'])}"
        yield _fill(item, indent="  ")


def _type(field: Schema) -> str:
    options = [o for o in field["anyOf"] if o != {"type": "null"}] if "anyOf" in field else [field]
    return " or ".join(_type_of_one(option) for option in options)


def _type_of_one(option: Schema) -> str:
    if "enum" in option:
        return _choices([json.dumps(value) for value in option["enum"]])
    if "format" in option and option["format"] == "path":
        return "path"
    if option["type"] == "array":
        return "list of strings"
    if option["type"] == "object":
        values = option["additionalProperties"]
        return "table" if values is True else "table of strings"
    bounds = [f"{sign} {option[name]}" for name, sign in _BOUNDS.items() if name in option]
    return " ".join([_PLAIN[option["type"]], " and ".join(bounds)]).strip()


def _choices(values: Sequence[str]) -> str:
    quoted = [f"`{value}`" for value in values]
    return f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def _default(field: Schema) -> str:
    # The schema does not tell what a factory makes: those of tables, which are all empty.
    value = field["default"] if "default" in field else {}
    if value is None:
        return "not set"
    return "empty" if value in ({}, []) else f"default `{json.dumps(value)}`"


def _one_line(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def _fill(text: str, *, indent: str = "") -> str:
    return textwrap.fill(
        text,
        width=_WIDTH,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
