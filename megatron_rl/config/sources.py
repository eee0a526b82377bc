"""Sources of problems to train on: the entries of a mixture, and the rules that they obey."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Strict, StringConstraints, Tag

from megatron_rl.config.base import LaxPath, RowRange, Section
from megatron_rl.config.columns import ColumnsConfig

GroupSize = Annotated[int, Field(ge=2)]
SourceName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+$")]
_FORMATS = {".jsonl", ".json", ".gz", ".zst", ".parquet", ".arrow"}


class SourceConfig(Section):
    """A source of problems in a mixture; each [[data.train]] is one."""

    path: LaxPath
    """Problems: any file or folder that data.train may name by itself."""
    name: SourceName | None = None
    """Name in metrics, and before the ids of its problems; the file's name without its ending when
    not given."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Share of the groups that are started, relative to the weights of the other sources."""
    rows: RowRange | None = None
    """Rows of ``path`` that are used, as data.rows."""
    reserve: LaxPath | None = None
    """Harder problems of this source, as data.reserve."""
    reserve_rows: RowRange | None = None
    """Rows of ``reserve`` that are used."""
    columns: ColumnsConfig | None = None
    """Columns of ``path``; data.columns when not given. An empty section is the package's own
    form."""
    kind: Annotated[str, StringConstraints(min_length=1)] | None = None
    """Kind of all its problems, whatever their rows say."""
    system_prompt: LaxPath | Literal["default", "none"] | None = None
    """System prompt of its problems; data.system_prompt when not given."""
    group_size: GroupSize | None = None
    """Completions of each of its problems (G); rollout.group_size when not given."""

    @property
    def label(self) -> str:
        """The name in force."""
        if self.name is not None:
            return self.name
        path = Path(self.path.name)
        while path.suffix in _FORMATS:
            path = path.with_suffix("")
        return path.name


def _form(value: object) -> str:
    return "sources" if isinstance(value, list | tuple) else "path"


Sources = Annotated[tuple[SourceConfig, ...], Strict(False)]
TrainSetting = Annotated[
    Annotated[LaxPath, Tag("path")] | Annotated[Sources, Tag("sources")], Discriminator(_form)
]
"""A path, or the sources of a mixture; errors tell of the form that was meant."""


def source_rules(
    sources: Sequence[SourceConfig], *, given: Collection[str], n_minibatch: int, n_async: int
) -> Iterator[str]:
    """Yield the rules that a mixture breaks.

    Args:
        sources: the mixture.
        given: keys of [data] that are for a single path, of which these have a value.
        n_minibatch: completions of an optimiser step.
        n_async: completions in flight.
    """
    if not sources:
        yield "data.train ([]) must name problems; give a path, or a [[data.train]] for each source"
    for key in given:
        yield (
            f"data.{key} is for a data.train that is one path; give {key} to each [[data.train]] "
            "that needs it"
        )
    places: dict[str, int] = {}
    for place, source in enumerate(sources):
        where = f"data.train.{place}"
        yield from _name_rules(where, source, places)
        places.setdefault(source.label, place)
        yield from _size_rules(where, source.group_size, n_minibatch, n_async)
        if source.reserve_rows is not None and source.reserve is None:
            yield f"{where}.reserve_rows needs {where}.reserve; name the file, or remove the key"


def _name_rules(where: str, source: SourceConfig, places: dict[str, int]) -> Iterator[str]:
    name = source.label
    if name in places:
        yield (
            f'{where}.name ("{name}") must differ from that of data.train.{places[name]}, since '
            "metrics and ids are told apart by it; give one of them another name"
        )
    if not name or not all(c.isascii() and (c.isalnum() or c in "_.-") for c in name):
        yield (
            f'{where}.name ("{name}", from its path) must consist of letters, digits, "_", "." '
            'and "-", as metrics have it; give a name'
        )


def _size_rules(where: str, size: int | None, n_minibatch: int, n_async: int) -> Iterator[str]:
    if size is None:
        return
    if n_minibatch % size:
        yield (
            f"{where}.group_size ({size}) must divide the completions of an optimiser step "
            f"({n_minibatch}), since a group is never split; change it, or rollout.n_minibatch"
        )
    if n_async < size:
        yield (
            f"rollout.n_async ({n_async}) must be >= {where}.group_size ({size}), or no group is "
            "ever whole in flight"
        )
