"""Rollout's own loop in a process of its own, with generators and judge that need no model.

The outcome of a completion depends on its group's index and problem alone, and how long it takes is
drawn anew in every life. ``python recorded_rollout.py RUN_DIR NUM_BATCHES MODE`` fills batches.
"""

import asyncio
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megatron_rl.batch_files import FileBatchSink
from megatron_rl.config import RunConfig, resolve
from megatron_rl.data.curriculum.source import CurriculumSource
from megatron_rl.generation.router_stats import RouterSnapshot
from megatron_rl.judge.judge import JudgeStats
from megatron_rl.programs.builders.inference import InferenceClients
from megatron_rl.programs.rollout import _collect
from megatron_rl.run_dir import RunDir
from megatron_rl.types import Completion, Problem, Response, Sampling, Verdict

TICK_S = 0.004
NUM_PROBLEMS = {"easy": 12, "mixed": 20}
LIFECYCLE = {"retire_above": 0.75, "retire_visits": 1, "defer_visits": 1, "reserve_join": 4}


def config_of(run_dir: Path, mode: str, *, n_batch: int = 16) -> RunConfig:
    return resolve(
        {
            "run_dir": str(run_dir),
            "num_steps": 1000,
            "model": {"path": "model"},
            "data": {
                "train": [
                    {"path": "easy.jsonl", "group_size": 2},
                    {"path": "mixed.jsonl", "weight": 2, "reserve": "hard.jsonl"},
                ],
                "lifecycle": LIFECYCLE,
            },
            "rollout": {"mode": mode, "group_size": 4, "n_batch": n_batch, "n_async": 24},
            "reward": {"thinking": "none"},
        }
    )


def sources() -> tuple[CurriculumSource, ...]:
    return tuple(
        CurriculumSource(
            name=name,
            problems=[Problem(id=f"{i}", text=f"{i}", answer="1") for i in range(num)],
            prompts=[(i,) for i in range(num)],
            keys_P=np.arange(100, 100 + num, dtype=np.uint64),
            num_reserve=8 if name == "mixed" else 0,
            weight=1.0 if name == "easy" else 2.0,
            group_size=2 if name == "easy" else 4,
        )
        for name, num in NUM_PROBLEMS.items()
    )


class Generators:
    """A router whose completions take a random time."""

    async def lease(self) -> "Generators":
        return self

    def snapshot(self) -> RouterSnapshot:
        return RouterSnapshot(
            num_routable=1, in_flight=0, finished=0, moved=0, generated_tokens=0, busy_s=0.0
        )

    async def __call__(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, request_id: str
    ) -> Completion:
        await asyncio.sleep(random.paretovariate(1.5) * TICK_S)
        index, position = map(int, request_id.split("-")[-2:])
        # Hard problems are those with high numbers; all get easier with time.
        ease = (1 + index / 400) / (1 + prompt_ids[0] / 4)
        is_right = random.Random(f"{index}/{position}/{prompt_ids[0]}").random() < ease
        return Completion(
            token_ids=(int(is_right),) * (1 + index % 3),
            logprobs=(-1.0,) * (1 + index % 3),
            policy_versions=(0,) * (1 + index % 3),
            finish_reason="stop",
        )


class Judge:
    """A judge that finds right what says so."""

    def stats(self) -> JudgeStats:
        return JudgeStats(
            judged=0,
            errors=0,
            retries=0,
            queue_length=0,
            mean_execution_s=0.0,
            latency_p50_s=0.0,
            latency_p99_s=0.0,
        )

    async def __call__(self, problem: Problem, response: Response) -> Verdict:
        return Verdict(format_ok=True, correct=response.answer == "1")


def read(prompt_ids: Sequence[int], token_ids: Sequence[int]) -> tuple[str, Response]:
    text = str(token_ids[0])
    return text, Response(thoughts=None, answer=text, fault=None)


def fill(run_dir: Path, num_batches: int, mode: str, *, n_batch: int = 16) -> None:
    """Fill batches after those that are there, by the loop of ``megatron-rl rollout``."""
    generators: Any = Generators()
    judge: Any = Judge()
    clients = InferenceClients(router=generators, judge=judge, read=read)
    sink = FileBatchSink(RunDir(run_dir), max_steps_ahead=None, poll_s=0.01)
    config = config_of(run_dir, mode, n_batch=n_batch)
    asyncio.run(_collect(config, clients, sink, sources(), num_batches, is_followed=False))


if __name__ == "__main__":
    fill(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
