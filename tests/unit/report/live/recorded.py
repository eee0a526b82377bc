"""A recorded run with one batch or several, for tests of what the live page reads."""

from collections.abc import Sequence

import numpy as np

from megatron_rl.batch import Batch, make_batch, save_batch
from megatron_rl.run_dir import RunDir
from megatron_rl.types import Completion, Cursor, Group, Problem, Reward, Sample, Verdict

RIGHT, WRONG, MALFORMED, CUT = "right", "wrong", "malformed", "truncated"


def decode(token_ids: Sequence[int]) -> str:
    """Read token ids as characters."""
    return "".join(map(chr, token_ids))


def sample_of(text: str, kind: str, *, versions: tuple[int, int] = (3, 4)) -> Sample:
    """Return a sample whose second half another policy version wrote."""
    half = len(text) // 2
    is_right = kind == RIGHT
    return Sample(
        completion=Completion(
            token_ids=tuple(map(ord, text)),
            logprobs=(-1.0,) * len(text),
            policy_versions=(versions[0],) * half + (versions[1],) * (len(text) - half),
            finish_reason="length" if kind == CUT else "stop",
        ),
        text=text,
        verdict=Verdict(
            format_ok=kind != MALFORMED,
            correct=is_right,
            answer="2",
            reason="" if is_right else f"refused: {kind}",
        ),
        reward=Reward(parts={"correctness": float(is_right)}),
    )


def batch_of(samples: Sequence[Sample], *, problem: str = "1+1?") -> Batch:
    """Return a batch of one group."""
    number = len(samples)
    group = Group(
        index=0,
        problem=Problem(id="p", text=problem, answer="gold 2"),
        prompt_ids=tuple(map(ord, "prompt ")),
        samples=tuple(samples),
    )
    return make_batch(
        [group],
        advantages_N=np.zeros(number, dtype=np.float32),
        weights_N=np.zeros(number, dtype=np.float32),
        minibatches_N=np.zeros(number, dtype=np.int64),
        cursor=Cursor(),
        metrics={"judge/queue": 7.0, "judge/latency_p50_s": 0.25},
    )


def write_batch(run_dir: RunDir, step: int, *samples: Sample, problem: str = "1+1?") -> None:
    """Write the batch of a step."""
    save_batch(run_dir.batch(step), batch_of(samples, problem=problem))
