"""Feed of a live page: what a browser lacks, given what it had last. Pure."""

import json
import secrets
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from megatron_rl.report.live.changes import Figures, changes_between

_MAX_CHANGES = 100
"""A browser that lacks more of them gets every figure anew."""


class Feed:
    """The parts of a page, each with the number of the update that changed it last.

    A browser names the update it has seen. It gets the parts that are newer, each once and as they
    are by then, and the changes of the curves since; after a longer sleep, or from another life of
    this program, it gets everything.
    """

    def __init__(self) -> None:
        self._life = secrets.token_hex(4)
        self._number = 0
        self._parts: dict[str, tuple[int, str]] = {}
        self.figures: Figures = {}
        self.plots = ""
        self._replaced_at = 0
        self._changes: deque[tuple[int, Mapping[str, Any]]] = deque(maxlen=_MAX_CHANGES)

    @property
    def last_id(self) -> str:
        """Identifier of the newest update."""
        return f"{self._life}-{self._number}"

    def update(self, parts: Mapping[str, str], *, plots: str, figures: Figures) -> bool:
        """Take up how the page is to be; return whether anything is different.

        Args:
            parts: HTML of each part by the id of its element.
            plots: HTML of the cards that the figures are drawn in.
            figures: plotly's figure of each plot.
        """
        number = self._number + 1
        changed = {
            name: (number, html)
            for name, html in parts.items()
            if name not in self._parts or self._parts[name][1] != html
        }
        self._parts |= changed
        has_new_curves = self._update_figures(plots, figures, number)
        if changed or has_new_curves:
            self._number = number
        return self._number == number

    def part(self, name: str) -> str:
        """Return the HTML of a part, nothing for one that there is none of."""
        return self._parts[name][1] if name in self._parts else ""

    def since(self, last_id: str) -> Iterator[str]:
        """Yield the events that a browser lacks, as text/event-stream.

        Args:
            last_id: of the newest update that it has; anything else means it has none.
        """
        seen = self._seen(last_id)
        for name, (number, html) in self._parts.items():
            if number > seen:
                yield _event("part", {"id": name, "html": html})
        oldest = self._changes[0][0] if self._changes else self._number + 1
        is_lost = len(self._changes) == _MAX_CHANGES and oldest > seen + 1
        if seen < self._replaced_at or is_lost:
            yield _event("figures", {"plots": self.plots, "figures": self.figures})
        else:
            for number, change in self._changes:
                if number > seen:
                    yield _event("curves", change)
        # Last, so that a browser whose connection broke before it asks for all of them again.
        yield f"id: {self.last_id}\n" + _event("seen", None)

    def _update_figures(self, plots: str, figures: Figures, number: int) -> bool:
        if figures is self.figures and plots == self.plots:
            return False
        changes = changes_between(self.figures, figures) if plots == self.plots else None
        self.figures, self.plots = figures, plots
        if changes is None:
            self._replaced_at = number
            self._changes.clear()
        elif changes:
            self._changes.append((number, changes))
        return changes is None or len(changes) > 0

    def _seen(self, last_id: str) -> int:
        life, _, number = last_id.partition("-")
        return int(number) if life == self._life and number.isdecimal() else -1


def _event(kind: str, data: Any) -> str:
    # JSON has no line break, which would end the event.
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"
