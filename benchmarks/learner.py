"""The learner's speed beside plain transformers.

    python benchmarks/learner.py [--quick]

One process trains the same Qwen3 on the same sequences, in turn with Megatron on packed rows and
with transformers on padded batches (sorted by length, the usual remedy; and in order of arrival),
both with AdamW, gradient clipping and the same loss, float32, on 1 and on 2 threads. A step is
forward, backward and optimiser over all sequences; tokens are real ones, padding does not count.
The losses of the first step are compared, so both compute the same. Scoring is the log-probability
of every token without gradients.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from policies import (
    DEMO,
    LARGER,
    LEARNING_RATE,
    TOKEN_BUDGET,
    Shape,
    make_sequences,
    open_policy,
    run_config,
    write_model,
)
from table import parser_of, show_and_keep

from megatron_rl.sequences import Sequences

SHORTEST, LONGEST = 16, 128


class Padded:
    """The same policy in transformers, trained on padded batches of at most the row's tokens."""

    def __init__(self, shape: Shape, weights: dict[str, torch.Tensor]) -> None:
        from transformers import Qwen3Config, Qwen3ForCausalLM

        config = {k: v for k, v in shape.config().items() if k not in ("model_type", "rope_theta")}
        rope = {"rope_type": "default", "rope_theta": shape.config()["rope_theta"]}
        self.model = Qwen3ForCausalLM(Qwen3Config(**config, rope_parameters=rope)).float()
        self.model.load_state_dict(weights, strict=False)  # the output layer is tied
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE, fused=True)

    def step(self, sequences: Sequences, *, is_sorted: bool) -> float:
        """Take one optimiser step; return the loss."""
        self.optimizer.zero_grad()
        total = 0.0
        for batch in padded_batches(sequences, is_sorted=is_sorted):
            loss = -self.logprobs(*batch).sum() / sequences.loss_mask_T.sum()
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return total

    def score(self, sequences: Sequences) -> None:
        """Compute the log-probability of every token, without gradients."""
        with torch.no_grad():
            for batch in padded_batches(sequences, is_sorted=True):
                self.logprobs(*batch)

    def logprobs(self, token_ids_NL: torch.Tensor, mask_NL: torch.Tensor) -> torch.Tensor:
        """Return the log-probability of the real tokens but the first of each sequence."""
        logits = self.model(token_ids_NL[:, :-1], attention_mask=mask_NL[:, :-1]).logits
        is_real = mask_NL[:, 1:].bool()
        return -F.cross_entropy(logits[is_real], token_ids_NL[:, 1:][is_real], reduction="none")


def padded_batches(
    sequences: Sequences, *, is_sorted: bool
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return (token ids, mask), [N, longest] each, at most a row's budget of positions."""
    lengths = np.diff(sequences.offsets)
    order = np.argsort(-lengths, kind="stable") if is_sorted else np.arange(len(lengths))
    batches: list[list[int]] = [[]]
    for i in order.tolist():
        longest = max([lengths[i], *(lengths[j] for j in batches[-1])])
        if longest * (len(batches[-1]) + 1) > TOKEN_BUDGET:
            batches.append([])
        batches[-1].append(i)
    return [_pad(sequences, batch, lengths) for batch in batches]


def _pad(sequences: Sequences, batch: list[int], lengths: Any) -> tuple[torch.Tensor, torch.Tensor]:
    token_ids = torch.zeros(len(batch), max(lengths[i] for i in batch), dtype=torch.long)
    mask = torch.zeros_like(token_ids)
    for row, i in enumerate(batch):
        start, end = sequences.offsets[i], sequences.offsets[i + 1]
        token_ids[row, : lengths[i]] = torch.from_numpy(sequences.token_ids_T[start:end])
        mask[row, : lengths[i]] = 1
    return token_ids, mask


def best_of(calls: dict[str, Callable[[], Any]], *, rounds: int) -> dict[str, float]:
    """Return the shortest seconds of each call, taken in turn so that noise meets all alike."""
    seconds = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    return seconds


def measure(shape: Shape, learner: Any, sequences: Sequences, *, rounds: int) -> list[dict]:
    """Return the table's rows of one model."""
    padded = Padded(shape, {name: w.clone() for name, w in learner.named_weights()})
    ours = learner.update_supervised(sequences)["sft/loss"]
    theirs = padded.step(sequences, is_sorted=True)
    assert abs(ours - theirs) < 1e-4, f"the two compute different losses: {ours} {theirs}"
    calls = {
        "megatron": lambda: learner.update_supervised(sequences),
        "sorted": lambda: padded.step(sequences, is_sorted=True),
        "padded": lambda: padded.step(sequences, is_sorted=False),
        "megatron logprobs": lambda: learner.logprobs(sequences),
        "sorted logprobs": lambda: padded.score(sequences),
    }
    tokens, rows = int(sequences.offsets[-1]), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        speed = {name: tokens / s for name, s in best_of(calls, rounds=rounds).items()}
        rows.append(
            {
                "M params": sum(p.numel() for p in padded.model.parameters()) / 1e6,
                "threads": threads,
                "train": speed["megatron"],
                "HF sorted": speed["sorted"],
                "ratio": speed["megatron"] / speed["sorted"],
                "HF unsorted": speed["padded"],
                "score": speed["megatron logprobs"],
                "HF score": speed["sorted logprobs"],
                "ratio of scores": speed["megatron logprobs"] / speed["sorted logprobs"],
            }
        )
    return rows


def main() -> None:
    """Measure the demo's model and a larger one."""
    options = parser_of(__doc__).parse_args()
    rounds, counts = (1, (24, 8)) if options.quick else (3, (64, 12))
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as scratch:
        for shape, count in zip((DEMO, LARGER), counts, strict=True):
            folder = Path(scratch) / str(shape.hidden_size)
            config = run_config(folder / "run", write_model(folder / "model", shape), in_flight=1)
            learner, _, _ = open_policy(config)
            sequences = make_sequences(count, shortest=SHORTEST, longest=LONGEST, seed=0)
            rows += measure(shape, learner, sequences, rounds=rounds)
            shut_down()
    show_and_keep(
        "learner",
        "Tokens per second: the learner beside transformers (HF)",
        rows,
        output=options.output,
    )


def shut_down() -> None:
    """Leave the process groups of one learner, so that the next can be opened."""
    from megatron_rl.learner.device.parallel import shut_down_parallel

    shut_down_parallel()


if __name__ == "__main__":
    main()
