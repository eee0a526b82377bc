"""Columns of problem files that others wrote: which holds what, and presets of well-known ones."""

from dataclasses import dataclass
from typing import Any, Literal

from megatron_rl.config.base import Lines, Section

AnswerFormatSetting = Literal["boxed", "answer_line", "hashes", "asked"]


class ColumnsConfig(Section):
    """Columns of files that are not of the package's own form; a dot leads into a nested one."""

    preset: Literal["verl", "slime", "openr1", "numina"] | None = None
    """Columns as these have them; keys that are given replace the preset's. Without it the names
    are the package's own."""
    problem: str | None = None
    """What is asked, a text. Give this or ``messages``."""
    messages: str | None = None
    """What is asked, a list of chat messages (or the JSON text of one, or a text); the last is the
    user's. A system message in it is used instead of data.system_prompt."""
    answer: str | None = None
    """The right answer, a text or a number."""
    id: str | None = None
    """Name of the problem. Without it a hash of the row's content, by which rows that are repeated
    are found as well."""
    kind: str | None = None
    """Kind of the problem; math where it is missing."""
    extra: Lines | None = None
    """Columns that verifiers see in Problem.extra, under these names; a code problem needs its
    language and tests. Without a preset, every column that has no other use when not given."""
    unanswerable: Lines | None = None
    """Answers that say that there is none, such as "proof"; "" is a blank or missing one. Their
    rows are dropped and counted."""
    suffix: str | None = None
    """Text behind the last message (or problem), such as a request for a form of the answer."""
    answer_format: AnswerFormatSetting | None = None
    """Form of the final answer of a math problem: \\boxed{}, a line "Answer: ...", a line
    "#### ...", or whatever of these the problem asks for (\\boxed{} if none)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnNames:
    """Columns in force; see :class:`ColumnsConfig`."""

    problem: str | None
    messages: str | None
    answer: str
    id: str | None
    kind: str | None
    extra: tuple[str, ...] | None
    """None for every column that has no other use."""
    required: frozenset[str]
    """Settings whose column was named by the user, and must be there."""
    unanswerable: frozenset[str]
    suffix: str
    answer_format: AnswerFormatSetting | None
    """None for the problem's own field, or a box."""
    takes_numbers: bool
    """Whether a number is a text."""
    given_kind: str | None = None
    """Kind of every problem, whatever its row says."""

    @property
    def top_level(self) -> frozenset[str] | None:
        """Columns of the file that are read; None for all."""
        if self.extra is None:
            return None
        used = (self.problem, self.messages, self.answer, self.id, self.kind, *self.extra)
        # A column may have a dot in its own name.
        return frozenset(n for name in used if name for n in (name, name.partition(".")[0]))


_NOTHING: dict[str, Any] = {
    **dict.fromkeys(["problem", "messages", "answer", "id", "kind", "extra", "answer_format"]),
    "unanswerable": (),
    "suffix": "",
}
_OWN_NAMES = ("problem", "messages", "answer", "id", "kind")
_OWN_FORM = _NOTHING | dict(zip(_OWN_NAMES, _OWN_NAMES, strict=True))
_BOX = "\n\nPut the final answer in \\boxed{}."
_NO_ANSWER = ("", "proof", "notfound")
_OPEN_DATA = ColumnsConfig(
    problem="problem",
    answer="answer",
    extra=("source",),
    unanswerable=_NO_ANSWER,
    suffix=_BOX,
    answer_format="boxed",
)
PRESETS: dict[str, ColumnsConfig] = {
    "verl": ColumnsConfig(
        messages="prompt",
        answer="reward_model.ground_truth",
        extra=("data_source", "ability", "extra_info"),
        answer_format="asked",
    ),
    "slime": ColumnsConfig(
        messages="prompt", answer="label", extra=("metadata",), answer_format="asked"
    ),
    "openr1": _OPEN_DATA,
    "numina": _OPEN_DATA,
}
"""Columns of files as other trainers and data sets have them.

None names an id: where rows are repeated, ids often are not.
"""


def column_names(config: ColumnsConfig | None, *, kind: str | None = None) -> ColumnNames:
    """Return the columns in force; None is the package's own form, without a section.

    Args:
        config: the section.
        kind: kind of every problem, None where the rows say it.
    """
    given = {} if config is None else config.model_dump(exclude_none=True, exclude={"preset"})
    if config is None or config.preset is None:
        filled = _OWN_FORM
    else:
        filled = _NOTHING | PRESETS[config.preset].model_dump(exclude_none=True)
    if "problem" in given or "messages" in given:
        filled = filled | {"problem": None, "messages": None}
    values = filled | given
    extra = values["extra"]
    return ColumnNames(
        problem=values["problem"],
        messages=values["messages"],
        answer=values["answer"],
        id=values["id"],
        kind=values["kind"],
        extra=None if extra is None else tuple(extra),
        required=frozenset(given.keys() & {"problem", "messages", "answer", "id"}),
        unanswerable=frozenset(values["unanswerable"]),
        suffix=values["suffix"],
        answer_format=values["answer_format"],
        takes_numbers=config is not None,
        given_kind=kind,
    )
