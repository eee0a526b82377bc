"""Settings of the judge and of the reward."""

from typing import Annotated

from pydantic import Field

from megatron_rl.config.base import NonNegative, Positive, Seconds, Section


class JudgeConfig(Section):
    """The pool of verifier processes."""

    num_workers: Positive = 1
    """Verifier processes."""
    deadline_s: Seconds = 10.0
    """Longest execution of one verdict; queueing does not count."""
    max_retries: NonNegative = 1
    """Attempts after a crash or time-out before the completion's group is dropped by name."""


class RewardConfig(Section):
    """Parts of the reward (arXiv:2506.10910, section 2.2)."""

    format: float = 0.1
    """For a well-formed response; anything else earns 0 in total."""
    correctness: float = 0.9
    """For a right answer."""
    length_penalty: Annotated[float, Field(ge=0)] = 0.1
    """Largest deduction for length; 1.0 with a fifth of max_new_tokens as length_cache is DAPO's
    overlong penalty."""
    length_cache: Positive | None = None
    """Tokens before max_new_tokens over which the deduction grows; a fifth of it when not given."""
