"""Parts of the demo's data that ablations train on and are scored on: ``make_parts.py DATA``.

DATA is what examples/demo/make_data.py wrote, and receives::

    train_carry.jsonl, train_no_carry.jsonl            sums whose ones carry into the tens, or not
    evaluation_carry.jsonl, evaluation_no_carry.jsonl  the same of the held-out problems
    train_digits.jsonl                                 all problems, for the verifier of digits.py
    sft_careful.jsonl                                  the teacher's careful answers alone
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="folder of the demo's data")
    args = parser.parse_args(argv)
    write_parts(args.data)
    return 0


def write_parts(data: Path) -> None:
    """Write every part beside the files that it is of."""
    for name in ("train", "evaluation"):
        problems = read_lines(data / f"{name}.jsonl")
        write_lines(data / f"{name}_carry.jsonl", (p for p in problems if has_carry(p["problem"])))
        write_lines(
            data / f"{name}_no_carry.jsonl", (p for p in problems if not has_carry(p["problem"]))
        )
    train = read_lines(data / "train.jsonl")
    write_lines(data / "train_digits.jsonl", ({**line, "kind": "digits"} for line in train))
    pairs = read_lines(data / "sft.jsonl")
    write_lines(data / "sft_careful.jsonl", (p for p in pairs if is_careful(p["response"])))


def has_carry(question: str) -> bool:
    """Return whether the ones of a question's two numbers carry into the tens."""
    x, y = map(int, re.findall(r"\d+", question))
    return x % 10 + y % 10 >= 10


def is_careful(response: str) -> bool:
    """Return whether an answer of the teacher is of its careful habit."""
    return "column by column" in response


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    sys.exit(main())
