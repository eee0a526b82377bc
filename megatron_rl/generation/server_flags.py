"""Flags and sampling parameters of the installed SGLang, and the check of the user's own."""

import contextlib
import difflib
import hashlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_rl.errors import ConfigError
from megatron_rl.run_dir import publish_atomically

_WHERE = "generators.sglang"

# Prints one JSON list: option strings, dest, whether it is bare, and choices of every flag.
_ASK = """
import argparse, json
from sglang.srt.server_args import ServerArgs
parser = argparse.ArgumentParser()
ServerArgs.add_cli_args(parser)
print("\\n" + json.dumps([
    {"options": action.option_strings, "dest": action.dest, "is_bare": action.nargs == 0,
     "choices": [str(choice) for choice in action.choices or ()]}
    for action in parser._actions if action.option_strings]))
"""

_ASK_SAMPLING = """
import json
from sglang.srt.sampling.sampling_params import SamplingParams
print("\\n" + json.dumps(list(SamplingParams.__struct_fields__)))
"""
# Fields that SGLang fills in itself.
_NOT_SAMPLING = {
    *("stop_strs", "stop_regex_strs", "stop_str_max_len", "stop_regex_max_len"),
    *("is_normalized", "ebnf_full_assistant"),
}

SUPPORT_FLAG = "sampling_mask_max_tokens"
"""Flag (``dest``) with the most tokens that a server reports one as chosen from."""

_BY_REPLICAS = "enable_dp_attention"
"""Flag (``dest``) of attention by replicas, which share the other layers of one server."""

_RESERVED = {
    SUPPORT_FLAG: "it follows generators.sampling.top_k",
    "model_path": "set model.path",
    "load_format": "it follows model.init",
    "dtype": "set model.dtype",
    "custom_weight_loader": "the learner's shards come by it; see weights.transport",
    "context_length": "set generators.context_length",
    "host": "set generators.host",
    "port": "set generators.port",
    "tp_size": "set generators.tp",
    "api_key": "every server gets a key of its own",
    "admin_api_key": "every server gets a key of its own",
    "config": "write the flags into generators.sglang themselves",
    "weight_version": "it counts policy versions",
    "help": "run the serving interpreter with -m sglang.launch_server --help",
    "pp_size": "stages of sglang's join a weight update one after the other, as the same rank, "
    "and never meet; set generators.tp",
    "nnodes": "set generators.nodes_per_server",
    "node_rank": "every node of a server knows its own; set generators.nodes_per_server",
    "dist_init_addr": "the launcher chooses it",
    "tokenizer_worker_num": "several workers serve without checking the key",
    "grpc_mode": "servers are spoken to over HTTP",
    "smg_grpc_mode": "servers are spoken to over HTTP",
    "use_ray": "servers are started by megatron-rl serve",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """One flag of the server, as its argument parser describes it."""

    options: tuple[str, ...]
    """All spellings, the preferred one first, with dashes."""
    dest: str
    is_bare: bool
    """Whether the flag takes no value."""
    choices: tuple[str, ...]
    """The values that the flag accepts; empty when it accepts any."""


def validate_flags(user: Mapping[str, Any], known: Sequence[Flag]) -> dict[str, Any]:
    """Return the user's flags under the server's own names (``dest``), checked.

    Args:
        user: the ``generators.sglang`` table; names with dashes or underscores.
        known: the result of :func:`known_flags`.

    Raises:
        ConfigError: an unknown flag (names the nearest), a flag that belongs to another key, or a
            value the flag cannot take.
    """
    by_name = {_name(option): flag for flag in known for option in flag.options}
    checked = {}
    for key, value in user.items():
        flag = by_name.get(_name(key))
        if flag is None:
            close = difflib.get_close_matches(_name(key), by_name, n=1)
            hint = f"; did you mean {_WHERE}.{close[0]}?" if close else ""
            raise ConfigError(f"{_WHERE}.{key}: the installed sglang has no such flag{hint}")
        if flag.dest in _RESERVED:
            raise ConfigError(f"{_WHERE}.{key} cannot be set here: {_RESERVED[flag.dest]}")
        if flag.dest == "disable_overlap_schedule" and value is not True:
            raise ConfigError(
                f"{_WHERE}.{key} = {value!r}: the overlap scheduler reports the policy version "
                "of a token one too early after an in-flight update; leave it out"
            )
        _check_value(key, value, flag)
        checked[flag.dest] = value
    if "dp_size" in checked and not (_BY_REPLICAS in checked and checked[_BY_REPLICAS] is True):
        raise ConfigError(
            f"{_WHERE}.dp_size cannot be set without {_BY_REPLICAS}: start more servers with "
            "generators.num_servers"
        )
    return checked


def support_flags(most_choices: int, known: Sequence[Flag]) -> dict[str, Any]:
    """Return the flags of a server that reports what each token was chosen from.

    Raises:
        ConfigError: the installed SGLang reports nothing of the kind.
    """
    if all(flag.dest != SUPPORT_FLAG for flag in known):
        raise ConfigError(
            "generators.sampling.top_p < 1, top_k and min_p need an sglang that reports what each "
            "token was chosen from (0.5.21 does), without which training is biased; install one "
            "for generators.python, or remove these keys"
        )
    # Tokens as likely as the last one are chosen from as well.
    return {SUPPORT_FLAG: 2 * most_choices}


def check_sampling_fields(where: str, user: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise ConfigError for a sampling parameter that the installed SGLang lacks."""
    for name in user.keys() - set(known):
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(
            f"{where}.{name}: the installed sglang has no such sampling parameter{hint}"
        )


def render_flags(flags: Mapping[str, Any], known: Sequence[Flag] = ()) -> list[str]:
    """Write flags (by ``dest``) as command-line arguments; true is a bare flag, false none."""
    spelling = {flag.dest: flag.options for flag in known}
    argv: list[str] = []
    for dest, value in flags.items():
        options = spelling.get(dest, ("--" + dest.replace("_", "-"),))
        if value is False:
            argv += [option for option in options if option.startswith("--no-")]
            continue
        argv.append(options[0])
        if isinstance(value, list):
            argv += [str(item) for item in value]
        elif isinstance(value, Mapping):
            argv.append(json.dumps(value))
        elif value is not True:
            argv.append(str(value))
    return argv


def known_flags(python: Path, environment: Mapping[str, str], cache_dir: Path) -> tuple[Flag, ...]:
    """Ask the serving interpreter for its flags; the answer is cached, since it takes seconds.

    Args:
        python: interpreter of the environment that has sglang.
        environment: whole environment of the server process.
        cache_dir: folder of the cached answers; it may be missing or read-only.

    Raises:
        ConfigError: the interpreter is missing, or cannot import sglang.
    """
    return _read_flags(_ask(python, environment, cache_dir / "sglang_flags", _ASK))


def known_sampling_fields(
    python: Path, environment: Mapping[str, str], cache_dir: Path
) -> list[str]:
    """Ask the serving interpreter for its sampling parameters, as :func:`known_flags` does."""
    text = _ask(python, environment, cache_dir / "sglang_sampling", _ASK_SAMPLING)
    return [name for name in json.loads(text) if name not in _NOT_SAMPLING]


def _ask(python: Path, environment: Mapping[str, str], cache: Path, program: str) -> str:
    """Return the last line that a program prints under the serving interpreter, cached."""
    cached = cache.with_name(f"{cache.name}_{_fingerprint(python)}.json")
    if cached.exists():
        return cached.read_text()
    try:
        answer = subprocess.run(
            [python, "-c", program], env=dict(environment), capture_output=True, text=True
        )
    except OSError as error:
        raise ConfigError(
            f"generators.python ({python}) cannot be run: {error.strerror}"
        ) from error
    if answer.returncode:
        tail = "\n".join(answer.stderr.splitlines()[-5:])
        raise ConfigError(f"generators.python ({python}) cannot import sglang:\n{tail}")
    text = answer.stdout.splitlines()[-1]
    with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
        publish_atomically(cached, text.encode())
    return text


def user_cache_dir(environment: Mapping[str, str]) -> Path:
    """Return the user's cache folder of this package."""
    if "XDG_CACHE_HOME" in environment:
        return Path(environment["XDG_CACHE_HOME"]) / "megatron_rl"
    return Path.home() / ".cache" / "megatron_rl"


def _check_value(key: str, value: Any, flag: Flag) -> None:
    if flag.is_bare and not isinstance(value, bool):
        raise ConfigError(f"{_WHERE}.{key} = {value!r}: a bare flag; give true or false")
    if not flag.is_bare and value is True:
        raise ConfigError(f"{_WHERE}.{key} = true: the flag needs a value")
    if flag.choices and not isinstance(value, list) and str(value) not in flag.choices:
        close = difflib.get_close_matches(str(value), flag.choices, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"one of {', '.join(flag.choices)}"
        raise ConfigError(f"{_WHERE}.{key} = {value!r}: not a choice of the flag; {hint}")


def _name(text: str) -> str:
    return text.lstrip("-").replace("-", "_")


def _read_flags(text: str) -> tuple[Flag, ...]:
    return tuple(
        Flag(
            options=tuple(item["options"]),
            dest=item["dest"],
            is_bare=item["is_bare"],
            choices=tuple(item["choices"]),
        )
        for item in json.loads(text)
    )


def _fingerprint(python: Path) -> str:
    """Return a hash that changes with the interpreter and the packages installed beside it."""
    folders = sorted(python.parent.parent.glob("lib/python3*/site-packages"))
    present = [path for path in [python, *folders] if path.exists()]
    stamps = [(str(path), os.stat(path).st_mtime_ns) for path in present]
    return hashlib.sha256(json.dumps([str(python), stamps]).encode()).hexdigest()[:16]
