"""Normal answers get their verdicts while the judge is full of hostile ones."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_rl.config import JudgeConfig, RewardConfig
from megatron_rl.errors import VerifierError
from megatron_rl.judge.judge import Judge
from megatron_rl.programs.builders.judge import open_judge
from megatron_rl.types import Problem, Response

pytestmark = pytest.mark.system

CORPORA = Path(__file__).parents[1] / "corpora"
NUM_HOSTILE = 6
NUM_ANSWERS = 100
# On an idle machine 50 ms; here the machine may be busy with other tests.
LONGEST_WAIT_S = 2.0


def hostile_answers() -> Iterator[str]:
    lines = [
        line
        for name in ("hostile.jsonl", "hostile_second.jsonl")
        for line in (CORPORA / name).read_text().splitlines()
    ]
    for line in itertools.cycle(lines):
        yield "".join(unit * count for unit, count in json.loads(line)["parts"])


def boxed(answer: str) -> Response:
    return Response(thoughts="hm", answer=f"\\boxed{{{answer}}}", fault=None)


async def attack(judge: Judge, answers: Iterator[str], wrong: list[str]) -> None:
    """Keep one hostile answer in the judge; each is wrong, or given up by name."""
    problem = Problem(id="hostile", text="", answer="7")
    for answer in answers:
        with contextlib.suppress(VerifierError):
            verdict = await judge(problem, boxed(answer))
            assert not verdict.correct, answer[:200]
            wrong.append(answer)


async def ask(judge: Judge, i: int) -> float:
    """Return the seconds from the question to the verdict, one in ten of which takes algebra."""
    gold, answer = (f"x^2-{i * i}", f"(x-{i})(x+{i})") if i % 10 == 0 else (str(i), str(i))
    asked_s = time.monotonic()
    verdict = await judge(Problem(id=str(i), text="", answer=gold), boxed(answer))
    assert verdict.correct, answer
    return time.monotonic() - asked_s


def test_normal_answers_are_graded_while_hostile_ones_run():
    async def scenario() -> tuple[list[float], list[str]]:
        settings = JudgeConfig(num_workers=4, deadline_s=5.0)
        answers, wrong = hostile_answers(), []
        async with open_judge(settings, RewardConfig(language=0.0)) as judge:
            attackers = [
                asyncio.create_task(attack(judge, answers, wrong)) for _ in range(NUM_HOSTILE)
            ]
            waits_s = []
            for i in range(NUM_ANSWERS):
                waits_s.append(await ask(judge, i))
                await asyncio.sleep(0.05)
                assert not any(task.done() for task in attackers), attackers
            for task in attackers:
                task.cancel()
            await asyncio.gather(*attackers, return_exceptions=True)
        return sorted(waits_s), wrong

    waits_s, wrong = asyncio.run(asyncio.wait_for(scenario(), 240))
    # One in a hundred may wait for the operating system.
    assert waits_s[-2] < LONGEST_WAIT_S
    assert len(wrong) >= 20, "nobody was hostile"
