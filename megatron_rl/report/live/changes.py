"""Changes of a drawn figure since it was last sent: the new ends of its curves. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]
_GROWING = ("x", "y", "customdata")


def changes_between(old: Figures, new: Figures) -> dict[str, list[dict[str, Any]]] | None:
    """Return per plot what changed of its traces; None when more than their points did.

    A change ``{"trace": i, "keep": n, "x": [...], "y": [...]}`` says that trace ``i`` keeps its
    first ``n`` points, and which follow. Few do, since a curve changes at its end.

    Args:
        old: the figures as a browser has them, by plot.
        new: as it is to have them.
    """
    if [(key, _frame(figure)) for key, figure in old.items()] != [
        (key, _frame(figure)) for key, figure in new.items()
    ]:
        return None
    changes = {}
    for key, figure in new.items():
        pairs = enumerate(zip(old[key]["data"], figure["data"], strict=True))
        found = [_change(i, before, after) for i, (before, after) in pairs if before != after]
        if found:
            changes[key] = found
    return changes


def _frame(figure: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    """Everything but the points."""
    traces = [{k: v for k, v in trace.items() if k not in _GROWING} for trace in figure["data"]]
    return figure["layout"], traces


def _change(index: int, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    fields = [field for field in _GROWING if field in after]
    keep = min(_num_common(before[field], after[field]) for field in fields)
    return {"trace": index, "keep": keep} | {field: after[field][keep:] for field in fields}


def _num_common(before: Sequence[float], after: Sequence[float]) -> int:
    for i, (left, right) in enumerate(zip(before, after, strict=False)):
        if left != right:
            return i
    return min(len(before), len(after))
