"""Protocols of the functions that packages exchange. Any object of the right shape will do."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from megatron_rl.types import (
    Assignment,
    Completion,
    Cursor,
    GroupOutcome,
    Problem,
    Response,
    Reward,
    Sampling,
    Verdict,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class GroupCurriculum(Protocol):
    """Say what each group works on."""

    def assignment(self, index: int) -> Assignment | None:
        """Return what the group with this index works on; None when nothing is left to work on.

        Groups that go on after a restart are asked for first, then every index in turn.
        """
        ...

    def settle(self, outcomes: Sequence[GroupOutcome], cursor: Cursor) -> None:
        """Take the outcomes of groups that are settled at ``cursor``, by their index.

        What later groups work on may depend on them. Only indices from ``cursor`` on follow.
        """
        ...


class GenerateFn(Protocol):
    """Sample one completion of a prompt."""

    async def __call__(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, request_id: str
    ) -> Completion:
        """Return the completion; raise GeneratorRequestError or GeneratorUnavailableError."""
        ...


class ReadFn(Protocol):
    """Read a completion."""

    def __call__(self, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> tuple[str, Response]:
        """Return the completion ``token_ids`` as people read it, and as it is judged."""
        ...


class Verifier(Protocol):
    """Judge a well-formed response to problems of one kind; pure."""

    def __call__(self, problem: Problem, text: str) -> Verdict:
        """Return the verdict on ``text``: the answer, or for a verifier of a user's the response.

        A user's verifier gets ``<think>THOUGHTS</think>ANSWER``, see ``verifiers.format``.
        """
        ...


class GradeFn(Protocol):
    """Grade a response of any kind. Pure: it runs in a killable process with a deadline."""

    def __call__(self, problem: Problem, response: Response) -> Verdict:
        """Return the verdict on a response to ``problem``."""
        ...


class RewardFn(Protocol):
    """Pay for a judged completion."""

    def __call__(self, verdict: Verdict, *, num_tokens: int, is_truncated: bool) -> Reward:
        """Return the reward of a completion of this length, cut off at its maximum or not."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishReport:
    """Duration and size of one publication."""

    seconds: float
    """From the first weight to the published state."""
    pause_s: float
    """Longest time during which a server did not sample."""
    num_bytes: int
    """Size of the weights, counted once."""
    num_servers: int
    """Servers that acknowledged."""
    num_sharded: int
    """Those of them that were sent shards."""
    received_bytes: int
    """Bytes that the busiest rank of a server received."""


class DeviceQueue(Protocol):
    """A device that computes later than it is asked, in an order of each thread's own."""

    @property
    def device(self) -> "torch.device":
        """Where it computes."""
        ...

    def synchronize(self) -> None:
        """Wait for everything it was asked for."""
        ...

    def mark(self) -> Any:
        """Return a mark of what the calling thread has asked for so far."""
        ...

    def follow(self, mark: Any) -> None:
        """Use the device from the calling thread, for what comes after another thread's mark."""
        ...


class PolicyPublisher(Protocol):
    """Bring the generators to the learner's weights. All learner ranks call it together."""

    def pending(self) -> bool:
        """Return whether a server waits for the current version; False on all ranks but the first.

        A server waits that has just started, for instance.
        """
        ...

    def publish(self, *, version: int) -> PublishReport | None:
        """Return when all servers have acknowledged; the report on the first rank, else None.

        A server that fails is logged and left out.
        """
        ...

    def close(self) -> None:
        """Release the servers."""
        ...


class WeightPublisher(Protocol):
    """Send a new policy version to the generators."""

    def pending(self) -> bool:
        """Return whether a server waits for the current version, such as one just started."""
        ...

    def publish(self, weights: "Iterable[tuple[str, Tensor]]", *, version: int) -> PublishReport:
        """Send every (Hugging Face name, tensor) pair; return when all have acknowledged.

        ``weights`` is always read to its end. A server that fails is logged and left out.
        """
        ...

    def close(self) -> None:
        """Release the servers."""
        ...
