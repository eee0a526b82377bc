"""Checkpoint time that training waits for: written at once, and in the background.

    python benchmarks/checkpoint.py [--quick]

One process trains a Qwen3 in float32 and saves its whole state (weights, float32 copies and both
moments: 16 bytes a parameter) in turn at once and in the background, where training steps follow
until the checkpoint is complete. "waits" is what a step of training is longer for it: the call that
starts the save, all looks at whether it is complete, and its completion. "slower steps" is how much
longer steps take while a thread writes, on the cores there are. "first" is the first background
save, which also allocates the copies. Medians.
"""

import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from policies import LARGER, Shape, make_sequences, open_policy, run_config, write_model
from table import parser_of, show_and_keep

LARGE = Shape(num_layers=6, hidden_size=768, vocab_size=512)
_MB = 10**6


def save_at_once(learner: Any, root: Path, step: int) -> float:
    """Return the seconds that training waits."""
    started = time.perf_counter()
    learner.save(root, step, extra={})
    seconds = time.perf_counter() - started
    forget(root)
    return seconds


def save_in_background(
    learner: Any, root: Path, step: int, sequences: Any
) -> tuple[float, float, list[float]]:
    """Return the seconds that training waits, those until it is complete, and those of steps."""
    steps: list[float] = []
    started = time.perf_counter()
    learner.start_saving(root, step, extra={})
    waited = time.perf_counter() - started
    while True:
        looked = time.perf_counter()
        saved = learner.finish_saving(wait=False)
        waited += time.perf_counter() - looked
        if saved is not None:
            forget(root)
            return waited, saved.total_s, steps
        steps.append(train(learner, sequences))


def forget(root: Path) -> None:
    """Remove all checkpoints but the first, so that the disk does not fill up."""
    for path in root.glob("step_*"):
        if path.name != "step_000001":
            shutil.rmtree(path)


def train(learner: Any, sequences: Any) -> float:
    """Return the seconds of one step."""
    started = time.perf_counter()
    learner.update_supervised(sequences)
    return time.perf_counter() - started


def measure(learner: Any, root: Path, sequences: Any, *, rounds: int) -> list[dict[str, Any]]:
    """Return the table's rows."""
    train(learner, sequences)
    save_at_once(learner, root, 1)
    first_waited, first_total, _ = save_in_background(learner, root, 2, sequences)
    quiet, at_once, waited, total, busy = [], [], [], [], []
    for index in range(rounds):
        quiet += [train(learner, sequences) for _ in range(2)]
        at_once.append(save_at_once(learner, root, 3 + 2 * index))
        one_waited, one_total, steps = save_in_background(learner, root, 4 + 2 * index, sequences)
        waited.append(one_waited)
        total.append(one_total)
        busy += steps
    size = sum(path.stat().st_size for path in (root / "step_000001").iterdir()) / _MB
    base, quiet_s = statistics.median(at_once), statistics.median(quiet)
    slower = statistics.median(busy) / quiet_s if busy else 1.0

    def row(way: str, waits: float, until: float, steps: float | str) -> dict[str, Any]:
        return {
            "save": way,
            "MB": size,
            "waits s": waits,
            "of at once": waits / base,
            "complete after s": until,
            "slower steps": steps,
        }

    return [
        row("at once", base, base, "-"),
        row("background", statistics.median(waited), statistics.median(total), slower),
        row("background, first", first_waited, first_total, "-"),
    ]


def main() -> None:
    """Measure one model."""
    options = parser_of(__doc__).parse_args()
    shape, rounds = (LARGER, 2) if options.quick else (LARGE, 5)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        config = run_config(folder / "run", write_model(folder / "model", shape), in_flight=1)
        learner, _, _ = open_policy(config)
        sequences = make_sequences(8, shortest=16, longest=64, seed=0)
        rows = measure(learner, folder / "checkpoints", sequences, rounds=rounds)
    show_and_keep("checkpoint", "What training waits for a checkpoint", rows, output=options.output)


if __name__ == "__main__":
    main()
