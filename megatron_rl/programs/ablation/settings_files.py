"""Settings files of an ablation: each run's configuration beside its folder, and kept.

A run reads its settings from there. Results of a run that began with other settings are not those
of its variant, so that a definition which has changed meanwhile is refused.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from megatron_rl.config import RunConfig, read_resolved
from megatron_rl.errors import ConfigError
from megatron_rl.run_dir import publish_atomically

_FREE = ("launch", "telemetry", "num_steps")
"""Settings that may change: where a run runs, who is told, and how far it goes (never back, which
``train`` refuses itself)."""
_MOST_NAMED = 5


def settings_file(config: RunConfig) -> Path:
    """Return where a run's settings are: ``VARIANT/seed_1.json`` beside ``VARIANT/seed_1/``."""
    return config.run_dir.with_name(f"{config.run_dir.name}.json")


def settings_in_use(config: RunConfig) -> RunConfig:
    """Return the settings that a run was begun with; those it would begin with, if it was not.

    A report is drawn without the ``--set`` of the command that runs.
    """
    path = settings_file(config)
    return read_resolved(path) if config.run_dir.exists() and path.exists() else config


def write_settings(configs: Iterable[RunConfig]) -> None:
    """Write the settings of every run, or none where one has begun with others.

    Raises:
        ConfigError: names the run's folder, and each setting with both values.
    """
    texts = {}
    for config in configs:
        path = settings_file(config)
        texts[path] = config.model_dump_json(indent=1) + "\n"
        if config.run_dir.exists() and path.exists():
            _refuse_others(config.run_dir, json.loads(path.read_text()), json.loads(texts[path]))
    for path, text in texts.items():
        publish_atomically(path, text.encode())


def _refuse_others(folder: Path, begun: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    changes = [*_differences(begun, wanted)]
    if changes:
        more = len(changes) - _MOST_NAMED
        shown = "; ".join(changes[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
        raise ConfigError(
            f"{folder} was begun with other settings: {shown}. Set them back, --set "
            "included, or remove the folder to begin anew"
        )


def _differences(
    begun: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    """Yield each setting that differs; one that is in one of them alone is null in the other."""
    for name in sorted(begun.keys() | wanted.keys()):
        key = f"{prefix}{name}"
        if key in _FREE:
            continue
        old = begun[name] if name in begun else None
        new = wanted[name] if name in wanted else None
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{key}.")
        elif old != new:
            yield f"{key} was {json.dumps(old)}, and is {json.dumps(new)} now"
