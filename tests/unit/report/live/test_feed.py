import json
from collections.abc import Iterable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from megatron_rl.report.live.changes import changes_between
from megatron_rl.report.live.feed import Feed


def figures_of(y: Iterable[float], *, color: str = "blue") -> dict[str, Any]:
    """Return one plot with one line."""
    points = list(y)
    trace = {"x": list(range(len(points))), "y": points, "name": "mean", "color": color}
    return {"reward": {"data": [trace], "layout": {"height": 280}}}


class Browser:
    """Does with events what the page's script does."""

    def __init__(self) -> None:
        self.last_id = ""
        self.parts: dict[str, str] = {}
        self.figures: dict[str, Any] = {}
        self.kinds: list[str] = []

    def take(self, events: Iterable[str]) -> None:
        self.kinds = []
        for event in events:
            fields = dict(line.split(": ", 1) for line in event.rstrip("\n").split("\n"))
            data = json.loads(fields["data"])
            self.kinds.append(fields["event"])
            if fields["event"] == "part":
                self.parts[data["id"]] = data["html"]
            elif fields["event"] == "figures":
                self.figures = data["figures"]
            elif fields["event"] == "curves":
                self._grow(data)
            if "id" in fields:
                self.last_id = fields["id"]

    def _grow(self, changes: dict[str, Any]) -> None:
        for name, traces in changes.items():
            for change in traces:
                target = self.figures[name]["data"][change["trace"]]
                for field in ("x", "y"):
                    target[field] = target[field][: change["keep"]] + change[field]


def update(feed: Feed, y: Iterable[float], **parts: str) -> bool:
    return feed.update(parts, plots="<div>", figures=figures_of(y))


def test_a_curve_that_grew_is_sent_by_its_new_end():
    changes = changes_between(figures_of([1, 2, 3]), figures_of([1, 2, 4, 5]))
    assert changes == {"reward": [{"trace": 0, "keep": 2, "x": [2, 3], "y": [4, 5]}]}
    assert changes_between(figures_of([1]), figures_of([1])) == {}


def test_a_curve_that_was_cut_keeps_its_start():
    changes = changes_between(figures_of([1, 2, 3]), figures_of([1, 2]))
    assert changes == {"reward": [{"trace": 0, "keep": 2, "x": [], "y": []}]}


def test_another_look_or_another_plot_is_no_growth():
    assert changes_between(figures_of([1]), figures_of([1], color="red")) is None
    assert changes_between({}, figures_of([1])) is None


def test_a_new_browser_gets_everything_and_then_only_what_changed():
    feed, browser = Feed(), Browser()
    assert update(feed, [1.0], state="a", logs="x")
    browser.take(feed.since(""))
    assert sorted(browser.kinds) == ["figures", "part", "part", "seen"]
    assert not update(feed, [1.0], state="a", logs="x")
    assert update(feed, [1.0, 2.0], state="b", logs="x")
    browser.take(feed.since(browser.last_id))
    assert browser.kinds == ["part", "curves", "seen"]
    assert browser.parts == {"state": "b", "logs": "x"}
    assert browser.figures == figures_of([1.0, 2.0])


def test_the_last_event_alone_has_the_number():
    feed = Feed()
    update(feed, [1.0], state="a")
    events = list(feed.since(""))
    assert [event.startswith("id: ") for event in events] == [False, False, True]


def test_a_page_that_slept_gets_each_part_once_and_as_it_is():
    feed, browser = Feed(), Browser()
    update(feed, [0.0], state="0")
    browser.take(feed.since(""))
    for number in range(1, 20):
        update(feed, range(number), state=str(number))
    browser.take(feed.since(browser.last_id))
    assert browser.kinds.count("part") == 1
    assert browser.parts["state"] == "19"
    assert browser.figures == figures_of(range(19))


def test_a_page_that_slept_for_very_long_gets_the_figures_anew():
    feed, browser = Feed(), Browser()
    update(feed, [0.0])
    browser.take(feed.since(""))
    for number in range(2, 300):
        update(feed, range(number))
    browser.take(feed.since(browser.last_id))
    assert browser.kinds == ["figures", "seen"]
    assert browser.figures == figures_of(range(299))


def test_a_page_of_an_earlier_life_of_the_server_gets_everything():
    first, second, browser = Feed(), Feed(), Browser()
    update(first, [1.0], state="old")
    browser.take(first.since(""))
    update(second, [1.0, 2.0], state="new")
    browser.take(second.since(browser.last_id))
    assert browser.parts["state"] == "new" and browser.figures == figures_of([1.0, 2.0])


@given(
    curves=st.lists(st.lists(st.sampled_from([0.0, 1.0]), max_size=6), min_size=1, max_size=12),
    connected=st.lists(st.booleans(), min_size=12, max_size=12),
    is_broken=st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_whenever_a_browser_connects_and_breaks_off_it_ends_with_what_there_is(
    curves: list[list[float]], connected: list[bool], is_broken: list[bool]
):
    feed, browser = Feed(), Browser()
    for i, curve in enumerate(curves):
        update(feed, curve, state=str(i))
        if connected[i]:
            events = list(feed.since(browser.last_id))
            # The last event is lost with the connection, so that it asks for all of them again.
            browser.take(events[:-1] if is_broken[i] else events)
    browser.take(feed.since(browser.last_id))
    assert browser.figures == figures_of(curves[-1])
    assert browser.parts["state"] == str(len(curves) - 1)
