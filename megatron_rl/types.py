"""Records that cross between packages. Plain frozen data, no behaviour beyond sums.

Example of one group of two completions, seen from the trainer::

    Group(index=7, problem=Problem(id="a1", text="1+1?", answer="2"), prompt_ids=(5, 6),
          samples=(Sample(...reward 1.0...), Sample(...reward 0.1...)))
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

PromptThought = Literal["unopened", "opened", "closed"]
"""State in which the end of a prompt leaves the thought: the policy has to open it; the prompt has
opened it; or it is over before the response begins."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A verifiable problem: what is asked and what the right answer is."""

    id: str
    text: str
    answer: str
    """Ground truth; empty where ``extra`` holds it, as for code."""
    kind: str = "math"
    """Kind of the problem, which selects the verifier."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of the record, plain JSON: the tests of a code problem, or fields that a
    verifier of your own reads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """Tokens sampled for one prompt; the three tuples are equally long."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Log-probability of each token under the policy that sampled it, at its temperature."""
    policy_versions: tuple[int, ...]
    """Policy version that sampled each token; grows along the completion, never shrinks."""
    finish_reason: str
    """``stop`` (end-of-sequence token sampled), ``length`` (cut off) or ``abort``."""

    def __post_init__(self) -> None:
        lengths = {len(self.token_ids), len(self.logprobs), len(self.policy_versions)}
        assert len(lengths) == 1, f"ragged completion: {lengths}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """A completion as read: thoughts and answer, apart from the marks between them."""

    thoughts: str | None
    """Text of the thoughts; None where none are asked for, or where they cannot be told apart."""
    answer: str
    """Text after the thoughts, which alone is graded; the whole text where there is a fault."""
    fault: str | None
    """Why the thoughts are not where they have to be; None if they are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Result of a verifier; a verifier that failed raises an error instead."""

    format_ok: bool
    correct: bool
    answer: str | None = None
    """The answer as extracted from the response, for people to read."""
    reason: str = ""
    """Why the response was refused, empty when it was accepted."""
    is_parsable: bool = True
    """Whether an answer was found and parsed; an unparsable answer is wrong, and counted apart."""
    language_ok: bool | None = None
    """Whether problem, thoughts and answer are in one language; None when not checked."""
    score: float | None = None
    """Part of the tests that passed, 0 to 1, where a verifier measures it; None elsewhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reward:
    """Named parts that add up to the reward."""

    parts: Mapping[str, float]

    @property
    def total(self) -> float:
        """Sum of the parts."""
        return sum(self.parts.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One judged completion."""

    completion: Completion
    text: str
    """The completion as people read it: the marks of its thoughts are shown, other special tokens
    are not; nor is a mark that the prompt wrote."""
    verdict: Verdict
    reward: Reward


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """All judged completions of one problem.

    ``index`` counts the groups in the order in which they were *started*; it also identifies the
    problem's place in the curriculum, so that a restarted run knows what is done.
    """

    index: int
    problem: Problem
    prompt_ids: tuple[int, ...]
    samples: tuple[Sample, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cursor:
    """How far the curriculum is consumed. Saved with every batch, so resuming is one fact."""

    next_index: int = 0
    """Index of the first group that was never started."""
    outstanding: tuple[int, ...] = field(default_factory=tuple)
    """Groups started but neither trained on nor dropped; they are started again first."""
