"""Evaluation settings: how often held-out problems are sampled, and how, set by set."""

from typing import Annotated, Any, Literal

from pydantic import Field, Strict, StringConstraints

from megatron_rl.config.base import LaxPath, NonNegative, Positive, RowRange, Section
from megatron_rl.config.columns import ColumnsConfig

SetName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$")]
"""A name that metrics and files can have."""
_Temperature = Annotated[float, Field(gt=0)]
_TopP = Annotated[float, Field(gt=0, le=1)]


class EvaluationSetConfig(Section):
    """A held-out set with settings of its own; what is not given is that of [evaluation]. All sets
    are evaluated beside each other. The first one, or data.evaluation if that is given too, is that
    of the run's headline numbers."""

    name: SetName
    """Letters, digits, - and _; part of the set's metrics and files, such as aime24."""
    path: LaxPath
    """Problems, as data.evaluation takes them."""
    rows: RowRange | None = None
    """Rows of ``path`` that are used; all when not given."""
    columns: ColumnsConfig | None = None
    """Columns of ``path``; data.evaluation_columns, or else data.columns, when not given. An empty
    table is the package's own form."""
    every: NonNegative | None = None
    """Policy versions between evaluations; 0 evaluates only before and after."""
    num_samples: Positive | None = None
    """Completions per problem."""
    temperature: _Temperature | None = None
    """Sampling temperature."""
    top_p: _TopP | None = None
    """Nucleus."""
    max_new_tokens: Positive | None = None
    """Longest completion; may be longer than in training."""
    sampling: dict[str, Any] | None = None
    """Any other sampling parameter of the installed SGLang, instead of evaluation.sampling."""
    system_prompt: LaxPath | Literal["default", "none"] | None = None
    """A text file, "default" or "none"; data.system_prompt when not given."""
    split_by: str | None = None
    """Field of the problems by which scores are given too; "" for none."""


class EvaluationConfig(Section):
    """Held-out evaluation before, during and after training."""

    every: NonNegative = 20
    """Policy versions between evaluations; 0 evaluates only before and after."""
    num_samples: Positive = 1
    """Completions per problem."""
    temperature: _Temperature = 0.7
    """Sampling temperature of evaluations."""
    top_p: _TopP = 1.0
    """Nucleus of evaluations."""
    max_new_tokens: Positive | None = None
    """Longest completion of evaluations, for which generators.context_length has to leave room;
    generators.sampling.max_new_tokens when not given."""
    sampling: dict[str, Any] = Field(default_factory=dict)
    """Any other sampling parameter of the installed SGLang, such as top_k, min_p, stop,
    repetition_penalty or sampling_seed; max_new_tokens may be lower than that of training."""
    split_by: str | None = None
    """Field of the problems (a column that they have in Problem.extra), of whose every value scores
    are given too; "" for none. "language", where problems have it, when not given."""
    sets: Annotated[tuple[EvaluationSetConfig, ...], Strict(False)] = ()
    """Held-out sets with names, [[evaluation.sets]]."""
