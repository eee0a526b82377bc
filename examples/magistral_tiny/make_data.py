"""Write the problems of a campaign, a messy teacher and two untrained models: ``make_data.py OUT``.

The same seed gives the same bytes. OUT receives::

    medium/ small/           config.json and tokenizer of two tiny Qwen3; no weights
    train_2.jsonl ..._4      problems of two, three and four digits
    held_out_2.jsonl ..._4   60 problems of each, whose operands occur in no other file
    messy.jsonl              the messy teacher's answers, {"prompt", "response"}: both models' base
"""

import argparse
import json
import random
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sums import DIGITS, Sum, careful_response, draw_sum, hasty_response

NUM_TRAIN, NUM_HELD_OUT, NUM_PAIRS = 3_000, 60, 12_000
CAREFUL_SHARE = 0.3
VOCAB_SIZE, MAX_LENGTH = 512, 192
WIDTHS = {"medium": 256, "small": 128}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out_dir", type=Path, help="folder to write; made when missing")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random choice")
    args = parser.parse_args(argv)
    write_all(args.out_dir, seed=args.seed)
    return 0


def write_all(out_dir: Path, *, seed: int) -> None:
    """Write all files into ``out_dir``."""
    rng = random.Random(seed)
    out_dir.mkdir(parents=True, exist_ok=True)
    held_out = {d: _draw(rng, d, NUM_HELD_OUT, frozenset()) for d in DIGITS}
    avoid = frozenset(problem.operands for drawn in held_out.values() for problem in drawn)
    for digits in DIGITS:
        _write(out_dir / f"held_out_{digits}.jsonl", _problems("held", held_out[digits]))
        drawn = _draw(rng, digits, NUM_TRAIN, avoid)
        _write(out_dir / f"train_{digits}.jsonl", _problems("train", drawn))
    taught = [draw_sum(rng, rng.choice(DIGITS), avoid=avoid) for _ in range(NUM_PAIRS)]
    pairs = [{"prompt": problem.text, "response": _teach(rng, problem)} for problem in taught]
    _write(out_dir / "messy.jsonl", pairs)
    for name, width in WIDTHS.items():
        _write_model(out_dir / name, [text for pair in pairs for text in pair.values()], width)


def _draw(
    rng: random.Random, digits: int, count: int, avoid: frozenset[tuple[int, int]]
) -> list[Sum]:
    return [draw_sum(rng, digits, avoid=avoid) for _ in range(count)]


def _teach(rng: random.Random, problem: Sum) -> str:
    is_careful = rng.random() < CAREFUL_SHARE
    return careful_response(problem) if is_careful else hasty_response(problem, rng)


def _problems(prefix: str, problems: Iterable[Sum]) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{prefix}-{problem.digits}-{i:04d}",
            "problem": problem.text,
            "answer": str(problem.answer),
            "kind": "math",
        }
        for i, problem in enumerate(problems)
    ]


def _write(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _write_model(folder: Path, corpus: Sequence[str], width: int) -> None:
    """Write config and tokenizer of an untrained model: the demo's, as wide as is said."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "demo"))
    from demo_model import make_tokenizer, write_configs  # late: transformers takes seconds

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(corpus, vocab_size=VOCAB_SIZE, max_length=MAX_LENGTH)
    tokenizer.save_pretrained(folder)
    write_configs(folder, tokenizer, max_length=MAX_LENGTH, width=width)


if __name__ == "__main__":
    sys.exit(main())
