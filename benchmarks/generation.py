"""Generation alone, and while a learner trains on the other core and publishes weights.

    python benchmarks/generation.py [--quick]

One real server and our router, with a fixed number of completions in flight (a new one starts when
one ends). First alone at several numbers, then at the largest beside a learner that trains without
pause and publishes in flight after every step; the learner's own speed is measured alone, too.
Only tokens of completions that end within the window count; the pause is the longest of all.
"""

import asyncio
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from policies import CONTEXT, DEMO, make_sequences, open_policy, run_config, write_model
from table import parser_of, show_and_keep

from megatron_rl.config import RunConfig
from megatron_rl.programs.builders.server import run_local_server
from megatron_rl.programs.gpu_stages.serving.generation import Load, tokens_per_s

IN_FLIGHT = (32, 64, 96)
PROMPT, SHORTEST, LONGEST = 16, 16, 96


class TrainingProcess:
    """A learner in a process of its own: publishes version 0, then trains while asked to."""

    def __init__(self, config: RunConfig) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_train, args=(config, theirs), daemon=True)
        self._process.start()
        assert self._ours.recv() == "ready"

    def during(self, call: Callable[[], Any], *, publishes: bool) -> tuple[Any, dict[str, float]]:
        """Train while ``call`` runs; return its result and the learner's measurements."""
        self._ours.send(publishes)
        result = call()
        self._ours.send("stop")
        return result, self._ours.recv()

    def close(self) -> None:
        """End the process."""
        self._ours.send("end")
        self._process.join()


def _train(config: RunConfig, orders: Any) -> None:
    from megatron_rl.programs.builders.publisher import open_publisher

    learner, parallel, platform = open_policy(config)
    publisher = open_publisher(config, platform, learner, parallel)
    sequences = make_sequences(128, shortest=PROMPT + SHORTEST, longest=PROMPT + LONGEST, seed=0)
    learner.update_supervised(sequences)  # the first is slow
    version = 0
    publisher.publish(version=version)
    orders.send("ready")
    while (order := orders.recv()) != "end":
        steps, pauses, started = 0, [], time.monotonic()
        while not orders.poll():
            learner.update_supervised(sequences)
            steps += 1
            if order:
                version += 1
                report = publisher.publish(version=version)
                pauses.append(report.pause_s)
        orders.recv()
        seconds = time.monotonic() - started
        orders.send(
            {
                "tokens_per_s": steps * float(sequences.offsets[-1]) / seconds,
                "steps": float(steps),
                "longest_pause_s": max(pauses, default=0.0),
            }
        )
    publisher.close()


def measure(scratch: Path, *, seconds: float, numbers: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return the table's rows."""
    model = write_model(scratch / "model", DEMO)
    config = run_config(scratch / "run", model, in_flight=max(numbers))
    rows: list[dict[str, Any]] = []

    def add(what: str, in_flight: int, speed: float, learner: dict[str, float]) -> None:
        rows.append(
            {
                "what": what,
                "in flight": in_flight,
                "generated/s": speed,
                "learnt/s": learner.get("tokens_per_s", 0.0),
                "updates": int(learner.get("steps", 0)),
                "pause ms": 1e3 * learner.get("longest_pause_s", 0.0),
            }
        )

    def generate(in_flight: int) -> float:
        load = Load(
            in_flight=in_flight,
            prompt=PROMPT,
            shortest=SHORTEST,
            longest=min(LONGEST, CONTEXT - PROMPT - 1),
            vocab_size=DEMO.vocab_size,
            seconds=seconds,
        )
        return asyncio.run(tokens_per_s(config, load))

    with run_local_server(config, starts_without_weights=True):
        training = TrainingProcess(config)
        for number in numbers:
            add("server alone", number, generate(number), {})
        _, learner = training.during(lambda: time.sleep(seconds), publishes=False)
        add("learner alone", 0, 0.0, learner)
        most = max(numbers)
        speed, learner = training.during(lambda: generate(most), publishes=True)
        add("both, with updates", most, speed, learner)
        add("server alone again", most, generate(most), {})
        training.close()
    return rows


def main() -> None:
    """Measure the demo's model."""
    options = parser_of(__doc__).parse_args()
    seconds, numbers = (3.0, IN_FLIGHT[:1]) if options.quick else (10.0, IN_FLIGHT)
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(Path(scratch), seconds=seconds, numbers=numbers)
    show_and_keep(
        "generation", "Tokens per second of generation and training", rows, output=options.output
    )


if __name__ == "__main__":
    main()
