"""Read a RunConfig: TOML, then ``--set`` overrides, then types, then cross-section rules."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from megatron_rl.config.judging import JudgingConfig
from megatron_rl.config.resolve import explain, resolve_sections, with_absolute_paths
from megatron_rl.config.rules import check_judge_rules
from megatron_rl.config.sections import RunConfig
from megatron_rl.config.site import add_site
from megatron_rl.config.stage_configs import check_stages, with_steps_of_stages
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
    """Build and check a RunConfig, and each of its stages, from parsed TOML.

    Relative paths start at the working folder. A run with stages has as many steps as all of them.

    Raises:
        ConfigError: names stage, key, value, rule and, for an unknown key, the nearest valid one.
    """
    return check_stages(resolve_sections(with_steps_of_stages(data)))


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
        faults = "\n".join(explain(item) for item in error.errors())
        raise ConfigError(f"{path}: {faults}") from error
    try:
        check_judge_rules(config.judge, config.reward)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    judging: JudgingConfig = with_absolute_paths(config)
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
