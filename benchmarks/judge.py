"""The judge: how long a normal answer waits while hostile ones use up their whole deadline.

    python benchmarks/judge.py [--quick]

Four workers. Math answers, one in ten of which takes algebra, come twenty a second; meanwhile the
judge has six hostile ones at a time: answers that compute until their deadline of 3 s ends them, or
those of the tests' corpus of hostile answers, over and over. The latency is from the question to
the verdict. Compared: nobody hostile; hostile ones under the judge's two lanes; and first come
first served, which is what a plain pool of processes does.
"""

import asyncio
import contextlib
import itertools
import json
import logging
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from table import Row, parser_of, show_and_keep

from megatron_rl.config import JudgeConfig, RewardConfig
from megatron_rl.errors import VerifierError
from megatron_rl.judge.judge import Judge
from megatron_rl.programs.builders.judge import open_judge
from megatron_rl.types import Problem, Response, Verdict

NUM_WORKERS = 4
NUM_HOSTILE = 6
INTERVAL_S = 0.05
DEADLINE_S = 3.0
CORPORA = Path(__file__).parents[1] / "tests" / "corpora"
Question = tuple[Problem, Response]


def spin(problem: Problem, text: str) -> Verdict:
    """Compute for ever; a judge imports this by name."""
    while True:
        pass


def main() -> None:
    """Measure and show."""
    options = parser_of(__doc__).parse_args()
    logging.disable(logging.WARNING)  # every hostile answer is reported
    num_answers = 200 if options.quick else 1200
    endless = [(Problem(id="hostile", text="", answer="", kind="spin"), boxed(""))]
    corpus = read_corpus()
    # A verdict that is never taken for slow never makes room.
    lanes, no_lanes = 0.1, 1e6
    cases = [
        ("nobody hostile", [], lanes),
        ("two lanes, endless ones", endless, lanes),
        ("two lanes, hostile corpus", corpus, lanes),
        ("first come first served, endless ones", endless, no_lanes),
        ("first come first served, hostile corpus", corpus, no_lanes),
    ]
    rows = [
        asyncio.run(measure(name, hostile, quick, num_answers)) for name, hostile, quick in cases
    ]
    show_and_keep("judge", "Waiting for a verdict", rows, output=options.output)


def read_corpus() -> list[Question]:
    """Return the hostile answers of the tests, against a plain number."""
    problem = Problem(id="hostile", text="", answer="7")
    lines = (CORPORA / "hostile.jsonl").read_text().splitlines()
    texts = ("".join(unit * count for unit, count in json.loads(line)["parts"]) for line in lines)
    return [(problem, boxed(text)) for text in texts]


def boxed(answer: str) -> Response:
    """Return a response with this answer."""
    return Response(thoughts="hm", answer=f"\\boxed{{{answer}}}", fault=None)


async def measure(name: str, questions: Sequence[Question], quick_s: float, num: int) -> Row:
    """Ask at an even pace and return the percentiles of the latency."""
    settings = JudgeConfig(
        num_workers=NUM_WORKERS,
        deadline_s=DEADLINE_S,
        quick_s=quick_s,
        verifiers={"spin": f"{Path(__file__).absolute()}:spin"},
    )
    async with open_judge(settings, RewardConfig(language=0.0)) as judge:
        hostile = []
        if questions:
            endless = itertools.cycle(questions)
            hostile = [asyncio.create_task(attack(judge, endless)) for _ in range(NUM_HOSTILE)]
            await asyncio.sleep(1.0)
        asked = []
        for i in range(num):
            asked.append(asyncio.create_task(ask(judge, i)))
            await asyncio.sleep(INTERVAL_S)
        latencies = sorted(await asyncio.gather(*asked))
        for task in hostile:
            task.cancel()
        await asyncio.gather(*hostile, return_exceptions=True)
        return {
            "pool": name,
            "answers": num,
            "p50 ms": 1e3 * statistics.median(latencies),
            "p99 ms": 1e3 * latencies[len(latencies) * 99 // 100],
            "worst ms": 1e3 * latencies[-1],
            "hostile judged": judge.stats().judged - num,
            "hostile given up": judge.stats().errors,
        }


async def ask(judge: Judge, i: int) -> float:
    """Return how long a normal answer waits for its verdict, seconds."""
    gold, answer = (f"x^2-{i * i}", f"(x-{i})(x+{i})") if i % 10 == 0 else (str(i), str(i))
    problem = Problem(id=str(i), text="", answer=gold)
    asked_s = time.perf_counter()
    verdict = await judge(problem, boxed(answer))
    assert verdict.correct, (gold, answer)
    return time.perf_counter() - asked_s


async def attack(judge: Judge, questions: Iterator[Question]) -> None:
    """Keep one hostile answer in the judge."""
    for problem, response in questions:
        with contextlib.suppress(VerifierError):
            await judge(problem, response)


if __name__ == "__main__":
    main()
