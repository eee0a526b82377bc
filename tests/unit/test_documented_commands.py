"""Every command in the documents is understood by its program, and run by a test or named here.

A command is a line of a code block, or a piece of inline code, that starts with one of our programs
or with make, python or sbatch. Add what is new to RUN_BY: the program, then each of its flags.
"""

import argparse
import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from megatron_rl.cli import command_parser
from tests.unit.test_import_direction import ROOT

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]

GPU, CLUSTER = "needs: a GPU", "needs: a cluster with GPUs"
QUIET = "needs: a quiet machine"
LONG = "needs: minutes; tests/distributed/test_invariance.py trains the same layouts"
ITSELF = "needs: nothing beside it, for it runs the tests"
INDEX = "needs: a package index; `make test` does it first"
CUDA_BUILD = "needs: the learner's GPU environment"
NOT_RUN = {GPU, CLUSTER, QUIET, LONG, ITSELF, INDEX, CUDA_BUILD}

TRAIN, README = "tests/system/test_train.py", "tests/system/test_readme_run.py"
VERIFY, JOB = "tests/system/test_verify.py", "tests/system/slurm/test_job.py"
MAGISTRAL, QUICKSTART = "tests/unit/examples/test_magistral.py", "tests/unit/test_quickstart.py"
PLANS, COMMAND_LINE = "tests/unit/placement/test_slurm_plans.py", "tests/unit/test_cli.py"
WATCH, STACKS = "tests/system/test_watch.py", "tests/system/test_watch_stacks.py"
CONVERSION = "tests/distributed/test_conversion.py"
SERVE, SCRIPTS = "tests/system/test_serve.py", "tests/unit/launchers/test_scripts.py"
INVARIANCE = "tests/distributed/test_check_invariance.py"
COMPARE = "tests/system/test_compare_logprobs.py"
CONTEXTS = "tests/unit/examples/test_long_context.py"
TRACES = "tests/unit/programs/distillation/test_collect_traces.py"
CHOOSE = "tests/unit/parallelism/test_choose.py"
SBATCH = "tests/system/slurm/conftest.py"
ABLATE, ABLATION = (
    "tests/system/test_ablate.py",
    "tests/unit/programs/ablation/test_ablate_command.py",
)
ARRAY = "tests/system/slurm/test_ablation_array.py"
GPU_CHECK = "tests/unit/programs/test_gpu_check_command.py"
REHEARSAL, ON_NODES = "tests/system/test_gpu_check.py", "tests/system/slurm/test_steps.py"
READERS = {MAGISTRAL, CHOOSE}
"""Tests that take commands out of the documents, whatever flags these have."""

RUN_BY: dict[str, dict[str, str]] = {
    "megatron-rl train": {"": TRAIN, "--set": README, "--dry-run": COMMAND_LINE},
    "megatron-rl check": {"": "tests/system/test_check.py"},
    "megatron-rl serve": {"": SERVE, "--index": SERVE},
    "megatron-rl rollout": {"": TRAIN, "--standalone": TRAIN},
    "megatron-rl learn": {"": TRAIN, "--replay": TRAIN},
    "megatron-rl sft": {"": TRAIN},
    "megatron-rl traces": {
        "": TRACES,
        "--out": TRACES,
        "--from-step": TRACES,
        "--min-length-quantile": TRACES,
        "--per-problem": TRACES,
        "--upsample": TRACES,
        "--mix": TRACES,
        "--share": TRACES,
    },
    "megatron-rl evaluate": {"": TRAIN},
    "megatron-rl report": {"": README},
    "megatron-rl watch": {"": WATCH, "--stacks": STACKS},
    "megatron-rl verify": {"": VERIFY, "--out": VERIFY, "--workers": VERIFY, "--config": VERIFY},
    "megatron-rl judge": {
        "": VERIFY,
        "--listen": VERIFY,
        "--key-file": VERIFY,
        "--workers": VERIFY,
        "--config": VERIFY,
    },
    "megatron-rl job": {"": JOB},
    "megatron-rl ablate": {
        "": ABLATE,
        "--list": ABLATION,
        "--dry-run": ABLATION,
        "--report-only": ABLATION,
    },
    "megatron-rl plan": {
        "": MAGISTRAL,
        "--nodes": QUICKSTART,
        "--gpus-per-node": QUICKSTART,
        "--set": QUICKSTART,
    },
    "megatron-rl status": {"": JOB},
    "megatron-rl doctor": {"": COMMAND_LINE},
    "megatron-rl schema": {
        "": COMMAND_LINE,
        "--markdown": "tests/unit/config/test_reference.py",
    },
    "megatron-rl gpu-check": {"": REHEARSAL, "--rehearse": REHEARSAL, "--only": GPU_CHECK},
    "make demo": {"": "tests/system/test_demo_interrupted.py"},
    "make campaign": {"": "tests/system/test_magistral_tiny.py"},
    "make gpu-check": {"": GPU},
    "make env": {"": INDEX},
    "make wheels": {"": INDEX},
    "make test": {"": ITSELF},
    "make test-all": {"": ITSELF},
    "make test-cuda-build": {"": CUDA_BUILD},
    "make unit": {"": ITSELF},
    "make bench": {"": QUIET},
    "pre-commit install": {"": INDEX},
    "launchers/slurm/submit.py": {
        "": JOB,
        "--dry-run": PLANS,
        "--chain": PLANS,
        "--with-nemo-run": "tests/system/slurm/test_nemo.py",
    },
    "sbatch train.sbatch": {
        "": SBATCH,
        "--nodes": SBATCH,
        "--time": SBATCH,
        "--gpus-per-node": CLUSTER,
    },
    "sbatch sft.sbatch": {
        "": SCRIPTS,
        "--nodes": SBATCH,
        "--time": SBATCH,
        "--gpus-per-node": CLUSTER,
    },
    "sbatch ablate.sbatch": {
        "": ARRAY,
        "--nodes": ARRAY,
        "--gpus-per-node": CLUSTER,
        "--array": ARRAY,
        "--dependency": ARRAY,
    },
    "sbatch gpu_check.sbatch": {"": ON_NODES, "--nodes": ON_NODES, "--gpus-per-node": CLUSTER},
    "sbatch long_context.sbatch": dict.fromkeys(
        ["", "--array", "--model", "--precision", "--tp", "--cp", "--recompute"], SCRIPTS
    )
    | {"--gpus-per-node": CLUSTER},
    "tools/check_invariance.py": {
        "": INVARIANCE,
        "--layouts": INVARIANCE,
        "--kind": INVARIANCE,
        "--all": LONG,
    },
    "tools/choose_layout.py": {"": CHOOSE, "--gpus": CHOOSE, "--tokens": CHOOSE, "--best": CHOOSE},
    "docs/measure_models.py": {"": LONG, "--server": LONG},
    "tools/compare_logprobs.py": {"": COMPARE, "--top-p": COMPARE, "--rope-scaling": COMPARE},
    "tools/convert_hf_to_megatron.py": {"": CONVERSION, "--verify": CONVERSION},
    "tools/convert_megatron_to_hf.py": {"": CONVERSION, "--verify": CONVERSION},
    "tools/filter_difficulty.py": {
        "": TRAIN,
        "--problems": TRAIN,
        "--out": TRAIN,
        "--model": TRAIN,
        "--reserve": TRAIN,
    },
    "tools/map_weight_space.py": {
        "": "tests/system/test_map_weight_space.py",
        "--out": "tests/system/test_map_weight_space.py",
    },
    "benchmarks/conversion.py": {"": QUIET},
    "benchmarks/data_start.py": {"": "tests/unit/benchmarks/test_data_start_benchmark.py"},
    "benchmarks/judge.py": {"": QUIET},
    "benchmarks/mfu.py": {"": GPU, "--shape": GPU, "--precision": GPU},
    "benchmarks/packing.py": {"": "tests/unit/benchmarks/test_packing_benchmark.py"},
    "benchmarks/reshard_scale.py": {
        "": "tests/unit/benchmarks/test_resharding_simulation.py",
    },
    "benchmarks/shard_update.py": {"": QUIET},
    "benchmarks/sandbox.py": {"": QUIET},
    "benchmarks/verifiers.py": {"": QUIET},
    "docs/draw_report.py": {"": "tests/unit/test_pictures.py"},
    "examples/demo/make_data.py": {
        "": "tests/unit/examples/test_demo_data.py",
        "--seed": "tests/unit/examples/test_demo_data.py",
    },
    "examples/ablations/make_parts.py": {"": "tests/unit/examples/test_ablations.py"},
    "examples/long_context/measure.py": dict.fromkeys(
        [
            *("", "--length", "--model", "--ranks", "--estimate", "--out"),
            *("--tp", "--cp", "--precision", "--recompute"),
        ],
        CONTEXTS,
    ),
    "examples/long_context/summarize.py": {"": CONTEXTS},
    "examples/think_formats/make_data.py": {"": "tests/system/test_think_formats.py"},
    "tests/unit/placement/slurm_cases.py": {"": PLANS},
}
"""Program, or program and command: which test runs it, and it with each flag; or why none does."""

_PROGRAM = re.compile(r"(?:\.venv/bin/)?(?:megatron-rl|make|python3?|sbatch|pre-commit)$")
_SCRIPT = re.compile(r"(?:tools|launchers|benchmarks|examples|docs|tests)/\S+\.py$")
_FENCE = re.compile(r"^ *```(\w*)$")
_SHELLS = ("", "sh", "bash", "console")


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command of a document, as words; what stands for a value is still in it."""

    where: str
    head: str
    arguments: tuple[str, ...]
    is_mention: bool
    """It only names the program: `megatron-rl job` in a sentence."""
    is_script: bool = False

    @property
    def flags(self) -> list[str]:
        """Return its flags, without values."""
        return [word.partition("=")[0] for word in self.arguments if word.startswith("--")]


def code_of(text: str) -> Iterator[tuple[int, str]]:
    """Yield number and text of every line of code and every piece of inline code."""
    language: str | None = None
    was_blank = is_indented = False
    for number, line in enumerate(text.splitlines(), start=1):
        if fence := _FENCE.match(line):
            language = fence[1] if language is None else None
        elif language is not None:
            if language in _SHELLS:
                yield number, line
        else:
            is_indented = line.startswith("    ") and (was_blank or is_indented)
            if is_indented:
                yield number, line
            else:
                yield from ((number, code) for code in re.findall(r"`([^`]+)`", line))
        was_blank = not line.strip()


def joined(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Join lines that a backslash continues."""
    kept = ""
    for number, line in lines:
        kept += line.strip().removesuffix("\\")
        if not line.rstrip().endswith("\\"):
            yield number, kept
            kept = ""


def commands_in(text: str, *, document: str) -> Iterator[Command]:
    """Yield every command of a document."""
    for number, code in joined(code_of(text)):
        words = words_of(code)
        if words and (_PROGRAM.match(words[0]) or _SCRIPT.match(words[0])):
            command = command_of(words, f"{document}:{number}")
            if command is not None:
                yield command


def words_of(code: str) -> list[str]:
    """Split a command; brackets around what may be left out, comments and dots go."""
    try:
        words = shlex.split(code.removeprefix("$ "), comments=True)
    except ValueError:  # an apostrophe: prose, or code of another kind
        return []
    bare = [word.strip("[]") for word in words]
    return [word for word in bare if word != "..." and word]


def command_of(words: list[str], where: str) -> Command | None:
    """Return what a line runs, None when it runs nothing."""
    program, *rest = [words[0].removeprefix(".venv/bin/"), *words[1:]]
    if program.startswith("python") and rest and rest[0] != "=":
        program, *rest = rest
        if program == "-m":
            program, *rest = "megatron-rl", *rest[1:]
    elif _SCRIPT.match(program) and not rest:
        return None  # a file that is talked about
    if _SCRIPT.match(program):
        return Command(
            where=where, head=program, arguments=tuple(rest), is_mention=False, is_script=True
        )
    if program == "sbatch":
        scripts = [word for word in rest if word.endswith(".sbatch")]
        if not scripts:
            return None
        arguments = tuple(word for word in rest if word not in scripts)
        head = f"sbatch {Path(scripts[0]).name}"
        return Command(where=where, head=head, arguments=arguments, is_mention=False)
    if not rest or program.startswith("python"):
        return None
    command, *arguments = rest
    return Command(
        where=where,
        head=f"{program} {command}",
        arguments=tuple(arguments),
        is_mention=not arguments,
    )


COMMANDS = [
    command
    for path in DOCUMENTS
    for command in commands_in(path.read_text(), document=str(path.relative_to(ROOT)))
]
each_command = pytest.mark.parametrize(
    "command",
    [
        pytest.param(
            command,
            id=f"{command.where} {command.head}",
            # They import torch before they look at their arguments.
            marks=[pytest.mark.lengthy] if command.head.startswith("benchmarks/") else [],
        )
        for command in COMMANDS
    ],
)


class Parsed(Exception):
    """A program has understood its command line."""


@pytest.fixture
def parse_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every parser end its program once it has parsed."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, args=None, namespace=None):
        raise Parsed(parse(self, args, namespace))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)


def values_for_placeholders(arguments: tuple[str, ...]) -> list[str]:
    """Put numbers where documents say N, or LAYERS,HIDDEN."""
    numbers = re.compile(r"[A-Z]|[A-Z_]+(?:,[A-Z_]+)+")
    return [
        ",".join("8" for _ in word.split(",")) if numbers.fullmatch(word) else word
        for word in arguments
    ]


@each_command
def test_its_program_understands_it(command: Command, parse_only, monkeypatch, capsys):
    arguments = values_for_placeholders(command.arguments)
    program, _, name = command.head.partition(" ")
    with pytest.raises((Parsed, SystemExit)) as end:
        if program == "megatron-rl":
            command_parser().parse_args([name, *(["--help"] if command.is_mention else arguments)])
        elif program == "sbatch":
            understand_batch_script(name, arguments, monkeypatch)
        elif program == "make":
            understand_make(name, arguments)
        elif command.is_script:
            understand_script(ROOT / command.head, arguments, monkeypatch)
        raise Parsed
    is_understood = isinstance(end.value, Parsed) or end.value.code == 0
    assert is_understood, f"{command.where}: {capsys.readouterr().err}"


def understand_batch_script(
    name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parse what a script of launchers/slurm hands to ``megatron-rl job`` or another program."""
    text = (ROOT / "launchers/slurm" / name).read_text()
    if 'exec "$program" gpu-check "$@"' in text:
        command_parser().parse_args(["gpu-check"])
        return
    if 'exec "$program" ablate "$definition"' in text:
        command_parser().parse_args(["ablate", "x.toml", "--task", "0"])
        return
    if "examples/long_context/measure.py" in text:
        of_slurm = ("--array=", "--gpus-per-node=")
        rest = [word for word in arguments if not word.startswith(of_slurm)]
        measure = ROOT / "examples/long_context/measure.py"
        understand_script(measure, ["--length", "4096", *rest], monkeypatch)
        return
    (started,) = re.findall(r'^exec "\$program" job "\$config" (.*)"\$\{overrides', text, re.M)
    config, *settings = [word for word in arguments if not word.startswith("--")] or ["run.toml"]
    words = ["job", config, *started.split(), *(f"--set={setting}" for setting in settings)]
    command_parser().parse_args(words)


def understand_make(target: str, arguments: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    assert target in phony.split(), f"no target {target} in the Makefile"
    for argument in arguments:
        name = argument.partition("=")[0]
        assert re.search(rf"^{name} \?=", makefile, re.MULTILINE), f"no variable {name} in it"


def understand_script(path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    source = path.read_text()
    if "argparse" not in source and "parser_of" not in source:
        assert arguments == [], f"{path} takes no arguments"
        return
    monkeypatch.syspath_prepend(path.parent)
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    spec = importlib.util.spec_from_file_location(f"documented_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    module.main()


@each_command
def test_a_script_is_run_by_python_unless_it_can_run_itself(command: Command):
    if not command.is_script:
        return
    number = int(command.where.rpartition(":")[2])
    line = (ROOT / command.where.rpartition(":")[0]).read_text().splitlines()[number - 1]
    is_executable = bool((ROOT / command.head).stat().st_mode & 0o100)
    assert is_executable or re.search(rf"python3? {command.head}", line), (
        f"{command.where}: {command.head} is not executable; write: python {command.head}"
    )


@each_command
def test_a_test_runs_it_or_it_is_named_what_that_needs(command: Command):
    assert command.head in RUN_BY, (
        f"{command.where}: nothing says which test runs `{command.head}`; add it to RUN_BY"
    )
    new = [flag for flag in command.flags if flag not in RUN_BY[command.head]]
    assert new == [], (
        f"{command.where}: nothing says which test runs `{command.head}` with {new}; "
        "add it to RUN_BY"
    )


@pytest.mark.parametrize("head", RUN_BY)
def test_the_test_that_is_named_has_the_words_of_the_command(head: str):
    word = Path(head.rpartition(" ")[2]).stem
    for flag, runner in RUN_BY[head].items():
        if runner in NOT_RUN:
            continue
        text = (ROOT / runner).read_text()
        assert head.startswith("make") or re.search(rf"\b{word}\b", text), f"{runner}: no {word}"
        assert flag in text or runner in READERS, f"{runner}: no {flag}"


def test_what_no_document_says_any_more_is_not_in_the_table():
    said = {command.head for command in COMMANDS}
    assert set(RUN_BY) - said == set()


def test_commands_are_found_in_blocks_in_sentences_and_over_several_lines():
    text = """Say `megatron-rl doctor`, or `python = "3"`, of the file `tools/inspect_batch.py`:

    megatron-rl verify A.jsonl --out B.jsonl [--workers N] \\
        --config C.toml   # a comment

```toml
make = "nothing"
```
* a list

  make room; it is prose
"""
    found = commands_in(text, document="x.md")
    assert [(c.head, c.arguments) for c in found] == [
        ("megatron-rl doctor", ()),
        (
            "megatron-rl verify",
            ("A.jsonl", "--out", "B.jsonl", "--workers", "N", "--config", "C.toml"),
        ),
    ]
