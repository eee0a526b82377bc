"""A whole tiny run: model, problems, demonstrations, configuration, and the processes it starts.

The cold start teaches one shape of response with a random digit in the box, so that rewards differ
within a group after a second of training.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tiny_model import build_tiny_model, build_tiny_tokenizer
from tokenizers import AddedToken

REPOSITORY = Path(__file__).parents[2]
SERVE_PYTHON = REPOSITORY / ".venv-serve" / "bin" / "python"
NUM_PROBLEMS = 40
HANGS_AFTER_S = 600.0
"""A guard, not a promise: what takes one minute alone may take three on a busy machine."""
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}={% endif %}"
)
_MARK = "MEGATRON_RL_TEST"


def write_inputs(folder: Path) -> Path:
    """Write model, problems and demonstrations; return the folder."""
    tokenizer = build_tiny_tokenizer()
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in ("<think>", "</think>")])
    tokenizer.chat_template = _CHAT_TEMPLATE
    build_tiny_model(seed=0).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_jsonl(
        folder / "problems.jsonl",
        [
            {"id": f"p{i}", "problem": f"{i % 10}+{i // 10}", "answer": str(i % 4)}
            for i in range(NUM_PROBLEMS)
        ],
    )
    write_jsonl(
        folder / "sft.jsonl",
        [
            {
                "prompt": f"{i % 10}+{i // 10}",
                "response": "<think>" + "lazy dog " * 4 + f"</think>\\boxed{{{(i * 7) % 4}}}",
            }
            for i in range(NUM_PROBLEMS)
        ],
    )
    return folder


def write_jsonl(path: Path, records: list[dict[str, str]]) -> Path:
    """Write one JSON document per line."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def write_config(inputs: Path, run_dir: Path, *, sft: bool) -> Path:
    """Write the run's configuration file next to its folder and return it."""
    path = run_dir.with_suffix(".toml")
    path.write_text(
        f"""
run_dir = "{run_dir}"
num_steps = 4
[model]
path = "{inputs / "model"}"
dtype = "float32"
[data]
train = "{inputs / "problems.jsonl"}"
evaluation = "{inputs / "problems.jsonl"}"
system_prompt = "none"
[generators]
python = "{SERVE_PYTHON}"
context_length = 128
sampling = {{max_new_tokens = 32}}
sglang = {{max-total-tokens = 4096, max-running-requests = 32}}
[rollout]
group_size = 4
n_batch = 16
n_async = 16
drop_zero_advantage = "never"
[learner]
token_budget = 512
optimizer = {{lr = 1e-2, warmup_steps = 0, eps = 1e-3}}
[checkpoint]
every = 2
[evaluation]
every = 2
"""
        + (_sft_table(inputs) if sft else "")
    )
    return path


def _sft_table(inputs: Path) -> str:
    return f"""
[sft]
data = "{inputs / "sft.jsonl"}"
num_epochs = 12
batch_size = 20
optimizer = {{lr = 5e-3, warmup_steps = 0}}
"""


@dataclass(frozen=True, kw_only=True)
class Program:
    """One ``megatron-rl`` command in a process group of its own, as a terminal starts it."""

    process: "subprocess.Popen[str]"
    mark: str

    @property
    def pid(self) -> int:
        """Of the command itself."""
        return self.process.pid

    def finish(self, *, within_s: float = HANGS_AFTER_S) -> tuple[int, str]:
        """Wait for the end; return the exit code and everything printed."""
        try:
            output, _ = self.process.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, output

    def processes(self) -> dict[int, str]:
        """Return pid and command line of every living process that descends from the command."""
        return marked_processes(self.mark)

    def pid_of(self, *words: str) -> int:
        """Return the process whose command line holds all the words; the eldest of several."""
        return min(
            pid for pid, line in self.processes().items() if all(word in line for word in words)
        )


@contextlib.contextmanager
def program(*arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[Program]:
    """Start ``megatron-rl ARGUMENTS``; whatever still lives on the way out is killed."""
    # Every process that descends from the command inherits the mark, also when it is orphaned.
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    extra = {} if environment is None else dict(environment)
    process = subprocess.Popen(
        [sys.executable, "-m", "megatron_rl", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, _MARK: mark, **extra},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    started = Program(process=process, mark=mark)
    try:
        yield started
    finally:
        for pid in started.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        process.communicate()


def run(*arguments: str, within_s: float = HANGS_AFTER_S) -> tuple[int, str]:
    """Run ``megatron-rl ARGUMENTS`` to its end; return the exit code and everything printed."""
    with program(*arguments) as started:
        return started.finish(within_s=within_s)


def marked_processes(mark: str) -> dict[int, str]:
    """Return pid and command line of the living processes whose environment holds the mark."""
    found = {}
    needle = f"{_MARK}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if needle not in (folder / "environ").read_bytes():
                continue
            if ") Z " not in (folder / "stat").read_text():
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
    return found


def wait_for(holds: Callable[[], object], *, within_s: float = HANGS_AFTER_S) -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.05)
