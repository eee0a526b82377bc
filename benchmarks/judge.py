"""The judge: how long a normal answer waits while hostile ones use up their whole deadline.

    python benchmarks/judge.py [--quick]

Four workers. Math answers, one in ten of which takes algebra, come twenty a second; meanwhile six
answers at a time compute until their deadline of 3 s ends them, and then others like them come. The
latency is from the question to the verdict. Compared: nobody hostile; hostile ones under
the judge's two lanes; and first come first served, which is what a plain pool of processes does.
"""

import asyncio
import contextlib
import logging
import statistics
import time
from pathlib import Path

from table import Row, parser_of, show_and_keep

from megatron_rl.config import JudgeConfig, RewardConfig
from megatron_rl.errors import VerifierError
from megatron_rl.programs.judging import open_judge
from megatron_rl.rollout.judge import Judge
from megatron_rl.types import Problem, Verdict

NUM_WORKERS = 4
NUM_HOSTILE = 6
INTERVAL_S = 0.05
DEADLINE_S = 3.0


def spin(problem: Problem, text: str) -> Verdict:
    """Compute for ever; a judge imports this by name."""
    while True:
        pass


def main() -> None:
    """Measure and show."""
    options = parser_of(__doc__).parse_args()
    logging.disable(logging.WARNING)  # every hostile answer is reported
    num_answers = 200 if options.quick else 1200
    cases = [("nobody hostile", 0, 0.1), ("two lanes", NUM_HOSTILE, 0.1)]
    # A verdict that is never taken for slow never makes room.
    cases.append(("first come first served", NUM_HOSTILE, 1e6))
    rows = [
        asyncio.run(measure(name, hostile, quick, num_answers)) for name, hostile, quick in cases
    ]
    show_and_keep("judge", "Waiting for a verdict", rows, output=options.output)


async def measure(name: str, num_hostile: int, quick_s: float, num_answers: int) -> Row:
    """Ask at an even pace and return the percentiles of the latency."""
    settings = JudgeConfig(
        num_workers=NUM_WORKERS,
        deadline_s=DEADLINE_S,
        quick_s=quick_s,
        verifiers={"spin": f"{Path(__file__).absolute()}:spin"},
    )
    async with open_judge(settings, RewardConfig(language=0.0)) as judge:
        hostile = [asyncio.create_task(attack(judge)) for _ in range(num_hostile)]
        if hostile:
            await asyncio.sleep(1.0)
        asked = []
        for i in range(num_answers):
            asked.append(asyncio.create_task(ask(judge, i)))
            await asyncio.sleep(INTERVAL_S)
        latencies = sorted(await asyncio.gather(*asked))
        for task in hostile:
            task.cancel()
        await asyncio.gather(*hostile, return_exceptions=True)
        return {
            "pool": name,
            "answers": num_answers,
            "p50 ms": 1e3 * statistics.median(latencies),
            "p99 ms": 1e3 * latencies[len(latencies) * 99 // 100],
            "worst ms": 1e3 * latencies[-1],
            "hostile given up": judge.stats().errors,
        }


async def ask(judge: Judge, i: int) -> float:
    """Return how long a normal answer waits for its verdict, seconds."""
    gold, answer = (f"x^2-{i * i}", f"(x-{i})(x+{i})") if i % 10 == 0 else (str(i), str(i))
    problem = Problem(id=str(i), text="", answer=gold)
    asked_s = time.perf_counter()
    verdict = await judge(problem, rf"<think>well</think>\boxed{{{answer}}}")
    assert verdict.correct, (gold, answer)
    return time.perf_counter() - asked_s


async def attack(judge: Judge) -> None:
    """Keep one hostile answer in the judge."""
    while True:
        with contextlib.suppress(VerifierError):
            await judge(Problem(id="hostile", text="", answer="", kind="spin"), "<think></think>")


if __name__ == "__main__":
    main()
