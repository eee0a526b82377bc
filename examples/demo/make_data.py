"""Write the demo's problems, teacher data and an untrained tiny model: ``make_data.py OUT_DIR``.

The same seed gives the same bytes. OUT_DIR receives::

    model/            config.json, generation_config.json and tokenizer of a tiny Qwen3; no weights
    train.jsonl       problems to learn from by trial, {"id", "problem", "answer", "kind"}
    evaluation.jsonl  200 problems whose operands occur in no other file
    sft.jsonl         the messy teacher's answers, {"prompt", "response"}
"""

import argparse
import json
import random
import sys
from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from typing import Any

from word_problems import WordProblem, careful_response, draw_problem, hasty_response

NUM_TRAIN = 6_000
NUM_EVALUATION = 200
NUM_SFT = 10_000
CAREFUL_SHARE = 0.3
VOCAB_SIZE = 512
WIDTH = 256
MAX_LENGTH = 192
"""Positions of the model: a prompt of 40 tokens and a completion of 128 fit."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out_dir", type=Path, help="folder to write; made when missing")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random choice")
    args = parser.parse_args(argv)
    write_all(args.out_dir, seed=args.seed)
    return 0


def write_all(out_dir: Path, *, seed: int) -> None:
    """Write the four parts of the demo into ``out_dir``."""
    rng = random.Random(seed)
    out_dir.mkdir(parents=True, exist_ok=True)
    evaluation = draw_problems(rng, NUM_EVALUATION, avoid=frozenset())
    held_out = {problem.operands for problem in evaluation}
    train = draw_problems(rng, NUM_TRAIN, avoid=held_out)
    pairs = teach(rng, draw_problems(rng, NUM_SFT, avoid=held_out))
    write_lines(out_dir / "evaluation.jsonl", problem_lines("eval", evaluation))
    write_lines(out_dir / "train.jsonl", problem_lines("train", train))
    write_lines(out_dir / "sft.jsonl", pairs)
    write_model(out_dir / "model", [text for pair in pairs for text in pair.values()])


def draw_problems(
    rng: random.Random, num_problems: int, *, avoid: Set[tuple[int, int]]
) -> list[WordProblem]:
    """Draw problems whose operands are not in ``avoid``; questions may share operands."""
    return [draw_problem(rng, avoid=avoid) for _ in range(num_problems)]


def teach(rng: random.Random, problems: Iterable[WordProblem]) -> list[dict[str, str]]:
    """Answer every problem in one of the teacher's two habits."""
    return [
        {
            "prompt": problem.text,
            "response": careful_response(problem)
            if rng.random() < CAREFUL_SHARE
            else hasty_response(problem, rng),
        }
        for problem in problems
    ]


def problem_lines(prefix: str, problems: Iterable[WordProblem]) -> list[dict[str, str]]:
    """Give problems the fields of the trainer's problem files."""
    return [
        {
            "id": f"{prefix}-{i:05d}",
            "problem": problem.text,
            "answer": str(problem.answer),
            "kind": "math",
        }
        for i, problem in enumerate(problems)
    ]


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_model(model_dir: Path, corpus: Sequence[str]) -> None:
    """Write config and tokenizer of the untrained model."""
    from demo_model import make_tokenizer, write_configs  # late: transformers takes seconds

    model_dir.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(corpus, vocab_size=VOCAB_SIZE, max_length=MAX_LENGTH)
    tokenizer.save_pretrained(model_dir)
    write_configs(model_dir, tokenizer, max_length=MAX_LENGTH, width=WIDTH)


if __name__ == "__main__":
    sys.exit(main())
