"""Folder of a run with batch files, as a rollout would have written them, of texts to test with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megatron_rl.batch import make_batch, save_batch
from megatron_rl.config import RunConfig
from megatron_rl.config.load import resolve
from megatron_rl.programs.builders.prompts import load_tokenizer
from megatron_rl.programs.builders.stop_tokens import turn_end_of
from megatron_rl.programs.builders.thinking import open_thinking, prompt_maker
from megatron_rl.run_dir import RunDir, write_json
from megatron_rl.types import Completion, Cursor, Group, Problem, Reward, Sample, Verdict
from tests.think_tokenizers import ids_of, think_tokenizer
from tests.tiny_models import write_model


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One completion of a problem."""

    text: str
    """What the policy wrote, without the end of its turn."""
    correct: bool = True
    paid: float = 0.9
    """Its reward for being correct."""
    finish_reason: str = "stop"
    versions: tuple[int, ...] = (0,)
    """Versions that sampled its first tokens; the last sampled the rest."""


class RecordedRun:
    """A run folder, and what is needed to write batches into it."""

    def __init__(self, folder: Path, shape: str, **sections: Any) -> None:
        model = folder / "model"
        write_model("qwen3", model, vocab_size=2000)
        think_tokenizer(shape).save_pretrained(model)
        (model / "generation_config.json").unlink(missing_ok=True)
        self.out = folder / "traces.jsonl"
        self.config: RunConfig = resolve(
            {
                "run_dir": str(folder / "run"),
                "num_steps": 9,
                "model": {"path": str(model)},
                "data": {"train": str(folder / "train.jsonl")},
                "sft": {"data": str(self.out), "batch_size": 1},
                **sections,
            }
        )
        self.run_dir = RunDir(self.config.run_dir)
        write_json(self.run_dir.config, self.config.model_dump(mode="json"))
        self.tokenizer = load_tokenizer(model)
        self.thinking = open_thinking(self.config, self.tokenizer)
        self.make_prompt = prompt_maker(self.config, self.tokenizer, self.thinking)
        self.turn_end = turn_end_of(self.config, self.tokenizer)

    def write_batch(self, step: int, groups: dict[str, Sequence[Answer]]) -> None:
        """Write the batch of a step: completions by problem, whose text is its id."""
        made = [
            self._group(100 * step + number, problem, answers)
            for number, (problem, answers) in enumerate(groups.items())
        ]
        num = sum(len(group.samples) for group in made)
        batch = make_batch(
            made,
            advantages_N=np.ones(num, dtype=np.float32),
            weights_N=np.ones(num, dtype=np.float32),
            minibatches_N=np.zeros(num, dtype=np.int64),
            cursor=Cursor(),
            metrics={},
        )
        save_batch(self.run_dir.batch(step), batch)

    def ids(self, problem: str, text: str) -> tuple[int, ...]:
        """Return prompt, completion and end of the turn, as a batch has them."""
        assert self.turn_end is not None
        return (*self.make_prompt(problem), *ids_of(self.tokenizer, text), self.turn_end)

    def _group(self, index: int, problem: str, answers: Sequence[Answer]) -> Group:
        return Group(
            index=index,
            problem=Problem(id=problem, text=problem, answer="2"),
            prompt_ids=self.make_prompt(problem),
            samples=tuple(self._sample(answer) for answer in answers),
        )

    def _sample(self, answer: Answer) -> Sample:
        assert self.turn_end is not None
        end = (self.turn_end,) if answer.finish_reason == "stop" else ()
        token_ids = (*ids_of(self.tokenizer, answer.text), *end)
        rest = len(token_ids) - len(answer.versions)
        return Sample(
            completion=Completion(
                token_ids=token_ids,
                logprobs=(-1.0,) * len(token_ids),
                policy_versions=(*answer.versions, *answer.versions[-1:] * rest),
                finish_reason=answer.finish_reason,
            ),
            text=answer.text,
            verdict=Verdict(format_ok=True, correct=answer.correct, answer="2"),
            reward=Reward(parts={"format": 0.1, "correctness": answer.paid, "length": 0.0}),
        )
