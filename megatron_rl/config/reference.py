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
    is_entry: bool
    """Whether there may be several of its name."""
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

    def walk(name: str, table: Schema, *, is_entry: bool) -> Iterator[_Section]:
        fields = table["properties"]
        inner = {key: _table_of(field, schema) for key, field in fields.items()}
        entries = {key: _entry_of(field, schema) for key, field in fields.items()}
        yield _Section(
            name=name,
            is_entry=is_entry,
            text=_one_line(table["description"]),
            keys={k: field for k, field in fields.items() if inner[k] is None},
            required=frozenset(table["required"] if "required" in table else ()),
        )
        for key in fields:
            found = entries[key] if inner[key] is None else inner[key]
            if found is not None:
                is_list = inner[key] is None
                yield from walk(f"{name}.{key}".lstrip("."), found, is_entry=is_list)

    return walk("", schema, is_entry=False)


def _table_of(field: Schema, schema: Schema) -> Schema | None:
    """Return the table that a key holds, None when it holds a value."""
    for option in _options(field):
        if "$ref" in option:
            table: Schema = schema["$defs"][option["$ref"].rpartition("/")[2]]
            return table
    return None


def _entry_of(field: Schema, schema: Schema) -> Schema | None:
    """Return the table of each entry of a list of tables, None when a key holds no such list."""
    lists = [option for option in _options(field) if "items" in option]
    return _table_of(lists[0]["items"], schema) if lists else None


def _options(field: Schema) -> Sequence[Schema]:
    for kind in ("anyOf", "oneOf"):
        if kind in field:
            options: Sequence[Schema] = field[kind]
            return options
    return (field,)


def _section_lines(section: _Section) -> Iterator[str]:
    name = f"[[{section.name}]]" if section.is_entry else f"[{section.name}]"
    yield from ("", f"{'#' * (2 + section.name.count('.'))} `{name}`", "")
    yield from (_fill(section.text), "")
    yield from _key_items(section)


def _key_items(section: _Section) -> Iterator[str]:
    for key, field in section.keys.items():
        default = "required" if key in section.required else _default(field)
        item = f"- `{key}` ({_type(field)}; {default}): {_one_line(field['description'])}"
        yield _fill(item, indent="  ")


def _type(field: Schema) -> str:
    options = [option for option in _options(field) if option != {"type": "null"}]
    return " or ".join(_type_of_one(option) for option in options)


def _type_of_one(option: Schema) -> str:
    if "enum" in option:
        return _choices([json.dumps(value) for value in option["enum"]])
    if "format" in option and option["format"] == "path":
        return "path"
    if option["type"] == "array":
        return "list of tables" if "$ref" in option["items"] else "list of strings"
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
