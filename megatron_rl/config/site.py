"""Site files: settings of a cluster for every run on it, kept apart from the run's settings.

A site file is a ``[launch]`` table of its own (TOML). Where both set a key the run wins; tables
(env, sbatch, placement, container) are merged key by key, lists (modules, setup) are joined.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_rl.config.launch import LaunchConfig
from megatron_rl.errors import ConfigError


def add_site(data: dict[str, Any]) -> dict[str, Any]:
    """Return parsed settings with those of the site file that launch.site names beneath them.

    Raises:
        ConfigError: the file cannot be read, or sets what is no key of [launch].
    """
    launch = data["launch"] if "launch" in data else {}
    if not isinstance(launch, dict) or not isinstance(launch.get("site"), str):
        return data
    path = Path(launch["site"]).expanduser()
    site = _read(path)
    unknown = sorted(set(site) - (set(LaunchConfig.model_fields) - {"site"}))
    if unknown:
        valid = ", ".join(key for key in LaunchConfig.model_fields if key != "site")
        raise ConfigError(
            f"{path}: unknown key {unknown[0]}; a site file holds keys of [launch]: {valid}"
        )
    return {**data, "launch": _merge(site, launch)}


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(
            f"launch.site ({path}) cannot be read: {error.strerror}; see launchers/slurm/sites"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        if key not in below:
            merged[key] = value
        elif isinstance(value, dict) and isinstance(below[key], dict):
            merged[key] = _merge(below[key], value)
        elif isinstance(value, list) and isinstance(below[key], list):
            merged[key] = [*below[key], *value]
        else:
            merged[key] = value
    return merged
