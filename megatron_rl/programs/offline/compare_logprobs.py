"""Compare log-probabilities of sampled tokens between server and learner.

Before an update of the weights, for sequences that are in flight during it, and after it.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch.distributed as dist
from numpy.typing import NDArray

from megatron_rl.config import GeneratorsConfig
from megatron_rl.generation.router import Admit
from megatron_rl.learner.learner import Learner
from megatron_rl.programs.offline.parity_samples import (
    Answered,
    Asker,
    InFlight,
    PromptToSample,
    as_sequences,
    differences,
    load_answers,
    prompts_as_sequences,
    save_answers,
)
from megatron_rl.protocols import PolicyPublisher
from megatron_rl.run_dir import RunDir


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One comparison; differences are |reported - learner's| log-probability of a token."""

    title: str
    num_sequences: int
    differences: NDArray
    must_agree: bool
    """False for what is shown but differs by design."""


class Comparison:
    """One model in a server and in the learner. All ranks call the methods together, in order.

    Samples are drawn on the first rank, and cross to the others as files.
    """

    def __init__(
        self,
        run_dir: RunDir,
        learner: Learner,
        publisher: PolicyPublisher,
        generators: GeneratorsConfig,
        prompts: Sequence[PromptToSample],
    ) -> None:
        self._run_dir = run_dir
        self._learner = learner
        self._publisher = publisher
        self._generators = generators
        self._prompts = prompts

    def as_loaded(self) -> Iterator[Finding]:
        """Compare the weights that the server has read from the folder by itself."""
        answers = self._on_first("loaded", lambda: self._asker("standalone").ask(self._prompts))
        yield self._compare("as the server loaded the weights", answers, version=0)
        if self._generators.sampling.is_truncated:
            title = "the same, if the truncation were ignored"
            yield self._compare(title, _untruncated(answers), version=0, must_agree=False)

    def around_an_update(self, *, num_updates: int) -> Iterator[Finding]:
        """Publish, compare, take ``num_updates`` steps, publish in flight, compare again."""
        before, after = (self._run_dir.root / "learner" / name for name in ("before", "after"))
        # A first step, since the learner saves its state only once the optimiser has one.
        self._learner.update_supervised(prompts_as_sequences(self._prompts))
        self._learner.save(before, 1, extra={})
        self._publish(0)
        first = self._on_first("before", lambda: self._asker().ask(self._prompts))
        yield self._compare("before the update", first, version=0)

        for _ in range(num_updates):
            self._learner.update_supervised(as_sequences(first))
        self._learner.save(after, 1 + num_updates, extra={})
        running = self._on_first(
            "in_flight", self._publish_in_flight, elsewhere=lambda: self._publish(1)
        )
        self._learner.restore(before)
        yield self._compare("in flight, tokens of the old weights", running, version=0)
        self._learner.restore(after)
        yield self._compare(
            "in flight, new weights on the old KV cache", running, version=1, must_agree=False
        )
        yield self._compare(
            "how far the update moved the first samples", first, version=0, must_agree=False
        )
        # The same prompts again: older weights have left them in the server's prefix cache.
        answers = self._on_first("after", lambda: self._asker().ask(self._prompts))
        yield self._compare("after the update, the same prompts", answers, version=1)

    def _publish_in_flight(self) -> list[Answered]:
        with InFlight(self._asker(), self._prompts) as running:
            self._publish(1)
        return running.answers()

    def _asker(self, admit: Admit = "acknowledged") -> Asker:
        return Asker(self._run_dir, self._generators, admit=admit)

    def _publish(self, version: int) -> None:
        self._publisher.publish(version=version)

    def _on_first(
        self,
        name: str,
        sample: Callable[[], list[Answered]],
        *,
        elsewhere: Callable[[], None] = lambda: None,
    ) -> list[Answered]:
        """Sample on the first rank and return the answers on all; ``elsewhere`` runs on others."""
        path = self._run_dir.root / "answers" / f"{name}.json"
        if dist.get_rank() == 0:
            save_answers(path, sample())
        else:
            elsewhere()
        dist.barrier()
        return load_answers(path)

    def _compare(
        self, title: str, answers: list[Answered], *, version: int, must_agree: bool = True
    ) -> Finding:
        logprobs = self._learner.logprobs(as_sequences(answers))
        return Finding(
            title=title,
            num_sequences=len(answers),
            differences=differences(answers, logprobs, version=version),
            must_agree=must_agree,
        )


def _untruncated(answers: Sequence[Answered]) -> list[Answered]:
    """Return the answers as if each token had been chosen from the whole vocabulary."""
    return [
        dataclasses.replace(answer, completion=dataclasses.replace(answer.completion, support=None))
        for answer in answers
    ]
