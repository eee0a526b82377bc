"""Start on a million problems: seconds and memory until the first prompt is ready.

    python benchmarks/data_start.py [--quick]

What a run does with ``data.train`` before anything else starts: find the rows, read each of them,
drop those that are repeated, check every answer, bound every prompt's length. The problems are
made here: a question of 60 to 600 bytes, one in ten repeated, one answer in eight in LaTeX and the
rest plain numbers. "prompts/s" is how fast problems are then read and tokenized, at random places
and one by one, as a run asks for them.

Each measurement is a process of its own. Memory is the peak of that process and all of its workers
together, imports included; a page that several share counts once. "before" is the same when only
the tokenizer is loaded. Parquet needs pyarrow; without it the row is left out.
"""

import contextlib
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from table import parser_of, show_and_keep

_MIB = 2**20
_MEASURE = "--measure"
"""First argument of a process that is one measurement."""
_WORDS = "find the number of real roots such that each side has an integer length and sum is even"
_PROMPTS = 2000
_SAMPLED_S = 0.2
_CONFIG: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 4096,
    "max_position_embeddings": 16384,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
}


def make_records(count: int) -> Iterator[dict[str, Any]]:
    """Yield rows of verl's form."""
    rng = random.Random(0)
    words = _WORDS.split()
    for number in range(count):
        if number and rng.random() < 0.1:
            number = rng.randrange(number)
        own = random.Random(number)
        text = " ".join(own.choices(words, k=own.randint(10, 100)))
        answer = str(own.randrange(100_000))
        if own.random() < 0.125:
            answer = rf"\frac{{{own.randrange(1, 1000)}\sqrt{{{own.randrange(2, 50)}}}}}{{7}}"
        yield {
            "data_source": "made",
            "prompt": [{"role": "user", "content": f"{number}. {text} Put it in \\boxed{{}}."}],
            "reward_model": {"style": "rule", "ground_truth": answer},
            "extra_info": {"index": number},
        }


def write_files(folder: Path, count: int) -> list[str]:
    """Write the same rows in every form; return the names."""
    lines = folder / "train.jsonl"
    with lines.open("w") as file:
        for record in make_records(count):
            file.write(json.dumps(record) + "\n")
    subprocess.run(["gzip", "-1", "--keep", lines], check=True)
    names = [lines.name, f"{lines.name}.gz"]
    if importlib.util.find_spec("pyarrow") is None:
        print("pyarrow is not installed: no Parquet")
        return names
    import pyarrow as pa
    from pyarrow import parquet

    writer = None
    records = make_records(count)
    while batch := [record for _, record in zip(range(50_000), records, strict=False)]:
        table = pa.Table.from_pylist(batch)
        writer = writer or parquet.ParquetWriter(folder / "train.parquet", table.schema)
        writer.write_table(table)
    writer.close()
    return [*names, "train.parquet"]


def write_model(folder: Path) -> None:
    """Write a configuration and a byte-level BPE tokenizer as large models have them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4096, initial_alphabet=alphabet, special_tokens=["<eos>"], show_progress=False
    )
    core.train_from_iterator((r["prompt"][0]["content"] for r in make_records(2000)), trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<eos>",
        chat_template=(
            "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"
        ),
    ).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(_CONFIG))


def measure(path: Path) -> dict[str, float]:
    """Start on one file in this process."""
    from megatron_rl.config import resolve
    from megatron_rl.programs.builders import prompts

    config = resolve(
        {
            "run_dir": "unused",
            "num_steps": 1,
            "model": {"path": str(path.parent / "model"), "init": "random"},
            "data": {"train": str(path), "columns": {"preset": "verl"}},
            "generators": {"sampling": {"max_new_tokens": 8192}},
        }
    )
    tokenizer = prompts.load_tokenizer(config.model.path)
    before_mib = _tree_mib(os.getpid())
    started = time.perf_counter()
    found = prompts.load_run_prompts(config, prompts.training_sources(config.data)[0], tokenizer)
    seconds = time.perf_counter() - started
    places = random.Random(0).choices(range(len(found.problems)), k=_PROMPTS)
    started = time.perf_counter()
    for place in places:
        assert found.prompts[place] and found.problems[place].answer
    return {
        "problems": len(found.problems),
        "seconds": seconds,
        "before MiB": before_mib,
        "prompts/s": _PROMPTS / (time.perf_counter() - started),
    }


def run_measured(command: list[str]) -> dict[str, float]:
    """Run a measurement; return what it prints, and the peak memory of all of its processes."""
    peak_mib = 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak_mib = max(peak_mib, _tree_mib(process.pid))
            time.sleep(_SAMPLED_S)
        assert process.stdout is not None and process.returncode == 0, command
        return {**json.loads(process.stdout.read()), "peak MiB": peak_mib}


def _tree_mib(pid: int) -> float:
    """Return the memory of a process and its descendants, shared pages counted once."""
    num_bytes = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                num_bytes += process.memory_full_info().pss
    return num_bytes / _MIB


def main() -> None:
    """Measure every form of the same rows."""
    options = parser_of(__doc__).parse_args()
    count = 25_000 if options.quick else 1_000_000
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        names = write_files(Path(folder), count)
        write_model(Path(folder) / "model")
        for name in names:
            path = Path(folder) / name
            command = [sys.executable, __file__, _MEASURE, str(path)]
            size = path.stat().st_size / _MIB
            rows.append({"file": name, "rows": count, "file MiB": size, **run_measured(command)})
    show_and_keep("data_start", f"Start on {count:,} rows", rows, output=options.output)


if __name__ == "__main__":
    if sys.argv[1:2] == [_MEASURE]:
        print(json.dumps(measure(Path(sys.argv[2]))))
    else:
        main()
