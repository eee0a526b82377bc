"""Held-out sets of a run with all their settings, and the rules that those settings keep."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from megatron_rl.config.columns import ColumnsConfig
from megatron_rl.config.evaluation import EvaluationSetConfig
from megatron_rl.config.sections import RunConfig

_MAX = "max_new_tokens"
_RESERVED = {
    "temperature": "set {0}.temperature",
    "top_p": "set {0}.top_p",
    "n": "set {0}.num_samples",
    "beam_width": "completions are sampled; set {0}.num_samples",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOutSet:
    """Held-out problems and how they are sampled; nothing is left to a default."""

    name: str | None
    """None for the set of data.evaluation, whose metrics and files carry no name."""
    path: Path
    path_key: str
    """Setting that names the file, for people."""
    rows: str | None
    rows_key: str
    columns: ColumnsConfig | None
    every: int
    num_samples: int
    temperature: float
    top_p: float
    max_new_tokens: int
    max_new_tokens_key: str
    """Setting that decides on it, for people."""
    sampling: Mapping[str, Any]
    """Further sampling parameters."""
    system_prompt: Path | Literal["default", "none"]
    split_by: str | None
    """Field to split scores by; None for "language" where problems have it."""

    @property
    def title(self) -> str:
        """Name for people and for tables of several sets."""
        return self.path_key if self.name is None else self.name

    def describe(self, *, num_problems: int | None) -> str:
        """Return the settings and what an evaluation asks, for people; None is not known."""
        k = self.num_samples
        count = (
            f"{k:,} completions of each problem (its file is not here)"
            if num_problems is None
            else f"{num_problems:,} problems x {k:,} = {num_problems * k:,} completions"
        )
        when = f"every {self.every} versions, " if self.every else ""
        return (
            f"{self.title}: {count} of up to {self.max_new_tokens:,} tokens, temperature "
            f"{self.temperature:g}, top-p {self.top_p:g}; {when}before and after"
        )

    @property
    def sampling_params(self) -> dict[str, Any]:
        """SGLang's ``sampling_params``."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            _MAX: self.max_new_tokens,
            **self.sampling,
        }


def held_out_sets(config: RunConfig) -> tuple[HeldOutSet, ...]:
    """Return the sets of a run: that of data.evaluation, if any, and those with names."""
    data = config.data
    unnamed = () if data.evaluation is None else (unnamed_set(config, data.evaluation),)
    return (*unnamed, *(_named_set(config, given) for given in config.evaluation.sets))


def unnamed_set(config: RunConfig, path: Path, *, path_key: str = "data.evaluation") -> HeldOutSet:
    """Return a set that is sampled as [evaluation] says; its rows are those of data.evaluation."""
    evaluation = config.evaluation
    limit, limit_key = _longest(config)
    return HeldOutSet(
        name=None,
        path=path,
        path_key=path_key,
        rows=config.data.evaluation_rows if path_key == "data.evaluation" else None,
        rows_key="data.evaluation_rows",
        columns=held_out_columns(config),
        every=evaluation.every,
        num_samples=evaluation.num_samples,
        temperature=evaluation.temperature,
        top_p=evaluation.top_p,
        max_new_tokens=limit,
        max_new_tokens_key=limit_key,
        sampling=_further(evaluation.sampling),
        system_prompt=config.data.system_prompt,
        split_by=evaluation.split_by,
    )


def held_out_columns(config: RunConfig) -> ColumnsConfig | None:
    """Return the columns of held-out problems that have none of their own."""
    data = config.data
    return data.columns if data.evaluation_columns is None else data.evaluation_columns


def with_filled_sets(config: RunConfig) -> RunConfig:
    """Return the configuration with every setting of its sets as it will be used."""
    filled = [
        given.model_copy(
            update={key: getattr(wanted, key) for key in type(given).model_fields}
            | {"sampling": dict(wanted.sampling)}
        )
        for given in config.evaluation.sets
        for wanted in (_named_set(config, given),)
    ]
    evaluation = config.evaluation.model_copy(update={"sets": tuple(filled)})
    return config.model_copy(update={"evaluation": evaluation})


def held_out_faults(config: RunConfig) -> Iterator[str]:
    """Yield every broken rule of the settings of evaluations."""
    data, evaluation = config.data, config.evaluation
    if data.evaluation is None and data.evaluation_rows is not None:
        yield "data.evaluation_rows needs data.evaluation; name the file, or remove the key"
    if data.evaluation is None and not evaluation.sets and data.evaluation_columns is not None:
        yield "data.evaluation_columns needs data.evaluation; name the file, or remove the key"
    yield from _reserved("evaluation", evaluation.sampling)
    yield from _own_limit(config)
    for name, count in Counter(given.name for given in evaluation.sets).items():
        if count > 1:
            yield (
                f'evaluation.sets.name ("{name}") must be unique: metrics and files carry it; '
                f"{count} sets have it, rename all but one"
            )
    for given in evaluation.sets:
        yield from _set_faults(given)
    yield from _without_room(config)


def _set_faults(given: EvaluationSetConfig) -> Iterator[str]:
    where = f"evaluation.sets.{given.name}"
    sampling = {} if given.sampling is None else given.sampling
    yield from _reserved(where, sampling)
    if _MAX in sampling:
        yield f"{where}.sampling.{_MAX} cannot be set here: set {where}.{_MAX}"


def _reserved(where: str, sampling: Mapping[str, Any]) -> Iterator[str]:
    for name in sampling.keys() & _RESERVED.keys():
        yield f"{where}.sampling.{name} cannot be set here: {_RESERVED[name].format(where)}"


def _own_limit(config: RunConfig) -> Iterator[str]:
    """Yield what is wrong with evaluation.sampling.max_new_tokens."""
    evaluation, training = config.evaluation, config.generators.sampling.max_new_tokens
    if _MAX not in evaluation.sampling:
        return
    wanted = evaluation.sampling[_MAX]
    if evaluation.max_new_tokens is not None:
        yield (
            f"evaluation.sampling.{_MAX} ({wanted!r}) and evaluation.{_MAX} "
            f"({evaluation.max_new_tokens}) must not be given together; remove the first"
        )
    if not isinstance(wanted, int) or not 1 <= wanted <= training:
        yield (
            f"evaluation.sampling.{_MAX} ({wanted!r}) must be a whole number from 1 to "
            f"generators.sampling.{_MAX} ({training}); evaluation.{_MAX} may be more"
        )


def _without_room(config: RunConfig) -> Iterator[str]:
    """Yield the limits of completions that leave a prompt no room."""
    context = config.generators.context_length
    if context is None:
        return
    limits = dict(
        [_longest(config)[::-1], *(_longest(config, s)[::-1] for s in config.evaluation.sets)]
    )
    for key, limit in limits.items():
        is_own = not key.startswith("generators.") and isinstance(limit, int)
        if is_own and limit >= context:
            yield (
                f"{key} ({limit}) must be < generators.context_length ({context}): the prompt "
                "needs room; raise generators.context_length, or lower it"
            )


def _named_set(config: RunConfig, given: EvaluationSetConfig) -> HeldOutSet:
    evaluation, where = config.evaluation, f"evaluation.sets.{given.name}"

    def own(key: str) -> Any:
        value = getattr(given, key)
        return getattr(evaluation, key) if value is None else value

    limit, limit_key = _longest(config, given)
    return HeldOutSet(
        name=given.name,
        path=given.path,
        path_key=f"{where}.path",
        rows=given.rows,
        rows_key=f"{where}.rows",
        columns=held_out_columns(config) if given.columns is None else given.columns,
        every=own("every"),
        num_samples=own("num_samples"),
        temperature=own("temperature"),
        top_p=own("top_p"),
        max_new_tokens=limit,
        max_new_tokens_key=limit_key,
        sampling=_further(own("sampling")),
        system_prompt=(
            config.data.system_prompt if given.system_prompt is None else given.system_prompt
        ),
        split_by=own("split_by"),
    )


def _longest(config: RunConfig, given: EvaluationSetConfig | None = None) -> tuple[int, str]:
    """Return the longest completion of a set, and the setting that says so."""
    evaluation = config.evaluation
    if given is not None and given.max_new_tokens is not None:
        return given.max_new_tokens, f"evaluation.sets.{given.name}.{_MAX}"
    if evaluation.max_new_tokens is not None:
        return evaluation.max_new_tokens, f"evaluation.{_MAX}"
    if _MAX in evaluation.sampling:
        return evaluation.sampling[_MAX], f"evaluation.sampling.{_MAX}"
    return config.generators.sampling.max_new_tokens, f"generators.sampling.{_MAX}"


def _further(sampling: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in sampling.items() if name != _MAX}
