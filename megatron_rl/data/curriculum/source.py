"""Source of problems as the curriculum takes them: what a group that is given one works on."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_rl.types import Assignment, Problem


@dataclass(frozen=True, kw_only=True, slots=True)
class CurriculumSource:
    """Problems that groups are given, and how often.

    Shape letter: P = problems, those of the reserve last.
    """

    name: str
    """Name in a mixture; empty where the problems are the only ones."""
    problems: Sequence[Problem]
    prompts: Sequence[tuple[int, ...]]
    """Prompt token ids of each problem."""
    keys_P: NDArray[np.uint64]
    """[P] what tells the problems apart, whatever rows of the file are in use."""
    num_reserve: int
    """Problems that are not given out before they are called for."""
    weight: float
    """Share of the groups, relative to the weights of other sources."""
    group_size: int
    """Completions of each problem."""

    @property
    def num_given(self) -> int:
        """Problems that are given out from the start."""
        return len(self.problems) - self.num_reserve

    def assignment(self, position: int) -> Assignment:
        """Return what a group does that is given the problem at ``position``.

        Sources may have problems of one id, such as their number, so names tell them apart.
        """
        problem = self.problems[position]
        if self.name:
            problem = dataclasses.replace(problem, id=f"{self.name}/{problem.id}")
        return Assignment(
            problem=problem,
            prompt_ids=self.prompts[position],
            group_size=self.group_size,
            source=self.name,
        )
