"""Records that cross between packages. Plain frozen data, no behaviour beyond sums.

Example of one group of two completions, seen from the trainer::

    Group(index=7, problem=Problem(id="a1", text="1+1?", answer="2"), prompt_ids=(5, 6),
          samples=(Sample(...reward 1.0...), Sample(...reward 0.1...)))
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from megatron_rl.sequences import SamplingSupport

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
class Assignment:
    """What the curriculum gives a group to work on."""

    problem: Problem
    prompt_ids: tuple[int, ...]
    group_size: int
    """Completions of the group."""
    source: str = ""
    """Name of the problem's source in a mixture; empty without one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How completions are sampled, and what is to be told of it."""

    params: Mapping[str, Any]
    """SGLang's ``sampling_params``."""
    returns_support: bool = False
    """Ask for what each token was chosen from. A truncated sampler (top_k, top_p, min_p) is
    described exactly only with it; ``params`` then need a top_k of at least 2."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """Tokens sampled for one prompt; the three tuples are equally long."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Log-probability of each token under the sampler that chose it, at its temperature."""
    policy_versions: tuple[int, ...]
    """Policy version that sampled each token; grows along the completion, never shrinks."""
    finish_reason: str
    """``stop`` (end-of-sequence token sampled), ``length`` (cut off) or ``abort``."""
    support: "SamplingSupport | None" = field(default=None, compare=False)
    """What each token was chosen from, where that was asked for; ``logprobs`` are then those of the
    truncated sampler."""

    def __post_init__(self) -> None:
        lengths = {len(self.token_ids), len(self.logprobs), len(self.policy_versions)}
        if self.support is not None:
            lengths.add(self.support.num_positions)
        assert len(lengths) == 1, f"ragged completion: {lengths}"

    @property
    def is_truncated(self) -> bool:
        """Whether the completion was cut off at its maximum length."""
        return self.finish_reason == "length"


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
    is_masked: bool = False
    """Whether the completion stays out of the loss; its reward counts in its group's mean."""

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
    source: str = ""
    """Name of the problem's source in a mixture; empty without one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupOutcome:
    """How many completions of a group were right; the group is trained on, or dropped."""

    index: int
    num_correct: int
    num_completions: int

    @property
    def pass_rate(self) -> float:
        """Share of the completions that were right."""
        return self.num_correct / self.num_completions


@dataclass(frozen=True, kw_only=True, slots=True)
class Cursor:
    """How far the curriculum is consumed. Saved with every batch, so resuming is one fact."""

    next_index: int = 0
    """Index of the first group that was never started."""
    outstanding: tuple[int, ...] = field(default_factory=tuple)
    """Groups started but neither trained on nor dropped; they are started again first."""
