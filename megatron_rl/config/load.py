"""Read a RunConfig: TOML, then ``--set`` overrides, then types, then cross-section rules."""

import difflib
import json
import tomllib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union

from pydantic import BaseModel, ValidationError

from megatron_rl.config.judging import JudgingConfig
from megatron_rl.config.rules import check_judge_rules, check_rules
from megatron_rl.config.sections import RunConfig
from megatron_rl.config.site import add_site
from megatron_rl.errors import ConfigError


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and check the configuration in ``path``.

    Args:
        path: a TOML file, or (suffix .json) the ``config.json`` of a run folder.
        overrides: ``section.key=value`` strings; the value is TOML, or a bare word as a string.

    Raises:
        ConfigError: names file, key, value, rule and, for an unknown key, the nearest valid one.
    """
    data = _read_table(path)
    for override in overrides:
        _apply_override(data, override)
    try:
        # The config.json of a run has its site's settings in it already.
        return resolve(data if path.suffix == ".json" else add_site(data))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def resolve(data: dict[str, Any]) -> RunConfig:
    """Build and check a RunConfig from parsed TOML; relative paths start at the working folder."""
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(item) for item in error.errors())) from error
    check_rules(config)
    return _with_absolute_paths(config)


def load_judging(path: Path) -> JudgingConfig:
    """Read the sections that grading needs from ``path``; the other sections are not checked.

    Raises:
        ConfigError: names file, key, value and rule.
    """
    data = _read_table(path)
    try:
        config = JudgingConfig.model_validate(
            {name: data[name] for name in JudgingConfig.model_fields if name in data}
        )
    except ValidationError as error:
        faults = "\n".join(_explain(item) for item in error.errors())
        raise ConfigError(f"{path}: {faults}") from error
    try:
        check_judge_rules(config.judge, config.reward)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    judging: JudgingConfig = _with_absolute_paths(config)
    return judging


def read_resolved(path: Path) -> RunConfig:
    """Read the ``config.json`` in a run's folder."""
    return load_config(path)


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of the configuration, with every setting's description."""
    return RunConfig.model_json_schema()


def _read_table(path: Path) -> dict[str, Any]:
    kind = "JSON" if path.suffix == ".json" else "TOML"
    try:
        text = path.read_text()
        data = json.loads(text) if kind == "JSON" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid {kind}: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: holds a {type(data).__name__}, not a table of settings")
    return data


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    names = key.strip().split(".")
    if not separator or not all(names):
        raise ConfigError(f"--set {override}: expected section.key=value")
    table = data
    for name in names[:-1]:
        table = _table_at(table, name)
        if table is None:
            raise ConfigError(f"--set {override}: there is no entry {name}")
        if not isinstance(table, dict | list):
            raise ConfigError(f"--set {override}: {name} is a value, not a section")
    if isinstance(table, list):
        raise ConfigError(f"--set {override}: expected a key of entry {names[-1]}, as in 0.key")
    if text.strip() == "null" and names[-1] in table:
        del table[names[-1]]
        return
    try:
        table[names[-1]] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        # TOML has no null. The key is looked up even if it is absent, to catch a typo.
        table[names[-1]] = None if text.strip() == "null" else text.strip()


def _table_at(table: Any, name: str) -> Any:
    """Return the section ``name``, made if it is not there, or the entry of that name or number."""
    if isinstance(table, dict):
        return table.setdefault(name, {})
    for entry in table:
        if isinstance(entry, dict) and "name" in entry and entry["name"] == name:
            return entry
    is_there = name.isdecimal() and int(name) < len(table)
    return table[int(name)] if is_there else None


def _explain(item: Any) -> str:
    location = _setting_at([str(part) for part in item["loc"]])
    key = ".".join(location)
    if item["type"] == "extra_forbidden":
        valid = _section_at(location[:-1]).model_fields
        close = difflib.get_close_matches(location[-1], valid, n=1, cutoff=0.5)
        where = ".".join(location[:-1])
        hint = (
            f"did you mean {'.'.join([*location[:-1], close[0]])}?"
            if close
            else f"valid keys of {where or 'the file'}: {', '.join(valid)}"
        )
        return f"unknown key {key}; {hint}"
    if item["type"] == "missing":
        return f"missing key {key}"
    return f"{key} = {item['input']!r}: {item['msg']}"


def _setting_at(location: Sequence[str]) -> Sequence[str]:
    """Drop the alternative that pydantic appends to the key of a union."""
    found: list[str] = []
    section: type[BaseModel] | None = RunConfig
    is_list = False
    for name in location:
        if is_list:
            # Before the number of an entry there may be an alternative as well.
            is_list = not name.isdecimal()
            found += [] if is_list else [name]
            continue
        if section is None:
            break
        found.append(name)
        field = section.model_fields.get(name)
        section, is_list = (None, False) if field is None else _section_type(field.annotation)
    return found


def _section_at(location: Sequence[str]) -> type[BaseModel]:
    section: type[BaseModel] = RunConfig
    for name in location:
        if name.isdecimal():
            continue
        inner, _ = _section_type(section.model_fields[name].annotation)
        assert inner is not None, location
        section = inner
    return section


def _section_type(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """Return the section that a field holds, None for a plain value, and whether it holds a list
    of them."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is None:
        is_section = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        return (annotation if is_section else None), False
    if origin is tuple:
        return _section_type(arguments[0])[0], True
    if origin is typing.Annotated:
        return _section_type(arguments[0])
    options = arguments if origin in (types.UnionType, Union) else ()
    found = (_section_type(option) for option in options)
    return next((pair for pair in found if pair[0] is not None), (None, False))


def _with_absolute_paths(section: Any) -> Any:
    """Resolve every Path against the working folder, so that a resumed run finds its files."""
    values: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Path):
            # An interpreter in a virtual environment is a link that must not be followed.
            values[name] = value.expanduser().absolute()
        elif isinstance(value, BaseModel):
            values[name] = _with_absolute_paths(value)
        elif isinstance(value, tuple) and any(isinstance(entry, BaseModel) for entry in value):
            values[name] = tuple(_with_absolute_paths(entry) for entry in value)
    return section.model_copy(update=values)
