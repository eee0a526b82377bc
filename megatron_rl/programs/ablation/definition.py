"""Definition of an ablation: a base configuration, seeds, and variants that change settings."""

import difflib
import json
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, Strict, StringConstraints, ValidationError

from megatron_rl.config.base import LaxPath, Section
from megatron_rl.errors import ConfigError

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,59}$")]
"""A name that a folder can have."""
RESERVED = ("start", "logs")
"""Folders of an ablation that are no variant's."""
_OF_THE_ABLATION = {
    "seed": "an ablation's seeds are its key seeds",
    "run_dir": "an ablation's runs are in folders of its own run_dir",
}


class Variant(Section):
    """One way to run the base configuration."""

    name: Name
    """Folder of its runs, and its name in the report."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Settings it changes: tables, or keys with dots; "null" removes one."""
    begins_at: Literal["start", "model"] = "start"
    """The weights that the start leaves, or those that the base configuration begins with; its cold
    start is then the variant's own."""
    start_of: Name | None = None
    """The variant whose runs' first evaluation is this one's score. It is not run itself: what is
    compared is where training begins, such as supervised training alone."""


class Definition(Section):
    """An ablation, as its file says it."""

    base: LaxPath
    """Run configuration that the variants change; relative to this file."""
    run_dir: LaxPath
    """Folder of the ablation; relative to the working folder, as in a run configuration."""
    question: str = ""
    """What the ablation is to answer, for the report."""
    seeds: Annotated[tuple[int, ...], Strict(False), Field(min_length=1)]
    """Each variant is run once with each."""
    start_per_seed: bool = False
    """Train the start anew for every seed. Without it the start is the same for all runs, and the
    spread over seeds is that of RL alone."""
    base_overrides: dict[str, Any] = Field(default_factory=dict)
    """Settings of all variants and of the start, as a variant's ``set``."""
    variants: Annotated[tuple[Variant, ...], Strict(False), Field(min_length=1)]


def read_definition(path: Path) -> Definition:
    """Read an ablation's file; its paths become absolute.

    Raises:
        ConfigError: names file, key, value, rule and, for an unknown key, the nearest valid one.
    """
    try:
        definition = Definition.model_validate(_read_toml(path))
    except ValidationError as error:
        faults = "\n".join(_explain(fault) for fault in error.errors())
        raise ConfigError(f"{path}: {faults}") from error
    if faults := [*_broken_rules(definition)]:
        raise ConfigError(f"{path}: " + "\n".join(faults))
    return definition.model_copy(
        update={
            "base": (path.parent / definition.base.expanduser()).resolve(),
            "run_dir": definition.run_dir.expanduser().absolute(),
        }
    )


def overrides_of(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as ``--set`` takes them; tables are merged key by key into those there are.

    Example: ``{"algorithm": {"clip_high": 0.4}}`` is ``["algorithm.clip_high=0.4"]``.
    """
    return [
        # "null" is bare, which removes the key.
        f"{key}={'null' if value == 'null' else toml_value(value)}"
        for key, value in flat_settings(settings).items()
    ]


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return settings with keys that have dots instead of tables."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        key = f"{prefix}{name}"
        flat |= (
            flat_settings(value, f"{key}.") if isinstance(value, dict) and value else {key: value}
        )
    return flat


def toml_value(value: Any) -> str:
    """Return a value that a TOML file can hold, as it would say it, in one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # JSON leaves DEL as it is, and TOML has no surrogates.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, dict):
        pairs = (f"{toml_value(name)} = {toml_value(inner)}" for name, inner in value.items())
        return f"{{{', '.join(pairs)}}}"
    return str(value)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def _broken_rules(definition: Definition) -> Iterator[str]:
    yield from _repeated("seeds", definition.seeds, "the same run twice is no second observation")
    names = [variant.name for variant in definition.variants]
    yield from _repeated("variants.name", names, "it is the folder of the variant's runs")
    yield from _settings_of_the_ablation("base_overrides", definition.base_overrides, ("run_dir",))
    for variant in definition.variants:
        if variant.name in RESERVED:
            yield f'variants.name ("{variant.name}") is a folder of the ablation; take another'
        where = f'set of variant "{variant.name}"'
        yield from _settings_of_the_ablation(where, variant.set, ("seed", "run_dir"))
        yield from _borrowed_start(variant, definition.variants)
    if all(variant.start_of is not None for variant in definition.variants):
        yield "variants: each of them is the start of another, so that nothing would run; add one"


def _repeated(key: str, values: Sequence[Any], why: str) -> Iterator[str]:
    for value, count in Counter(values).items():
        if count > 1:
            yield f"{key} ({value!r}) must not be given {count} times: {why}; remove all but one"


def _settings_of_the_ablation(
    where: str, settings: Mapping[str, Any], keys: Sequence[str]
) -> Iterator[str]:
    for key in keys:
        if key in settings:
            yield f"{where}: {key} ({settings[key]!r}) cannot be set: {_OF_THE_ABLATION[key]}"


def _borrowed_start(variant: Variant, variants: Sequence[Variant]) -> Iterator[str]:
    """Yield what is wrong with ``start_of``."""
    where = f'variant "{variant.name}"'
    if variant.start_of is None:
        return
    if variant.set or variant.begins_at != "start":
        yield f"{where}: start_of is not run, so set and begins_at mean nothing; remove them"
    if variant.start_of not in {other.name for other in variants if other.start_of is None}:
        run = ", ".join(other.name for other in variants if other.start_of is None)
        yield f'{where}: start_of ("{variant.start_of}") must be a variant that is run: {run}'


def _explain(fault: Any) -> str:
    location = [str(part) for part in fault["loc"]]
    key = ".".join(location)
    if fault["type"] == "extra_forbidden":
        table: type[BaseModel] = Variant if location[0] == "variants" else Definition
        close = difflib.get_close_matches(location[-1], table.model_fields, n=1, cutoff=0.5)
        valid = f"valid keys: {', '.join(table.model_fields)}"
        return f"unknown key {key}; " + (f"did you mean {close[0]}?" if close else valid)
    if fault["type"] == "missing":
        return f"missing key {key}"
    return f"{key} = {fault['input']!r}: {fault['msg']}"
