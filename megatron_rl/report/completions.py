"""Completion as HTML, tinted by the policy version that sampled each part. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

NUM_COLORS = 8
"""Tints that the page's style sheet defines."""

EXCERPT_CHARS = 240


@dataclass(frozen=True, kw_only=True)
class CompletionView:
    """A completion as the report shows it.

    Example::

        CompletionView(step=12, problem="1+1?", gold="2", spans=[(10, "<think>one"), (11, "...")],
                       reward_parts={"format": 0.1, "correctness": 0.9}, correct=True, reason="")
    """

    step: int
    """Policy version after the step that trained on it."""
    problem: str
    gold: str
    spans: Sequence[tuple[int, str]]
    """Consecutive (policy version, text) pieces."""
    reward_parts: Mapping[str, float]
    correct: bool
    reason: str
    """Why the verifier refused the completion; empty when it was accepted."""
    flaws: Sequence[str] = ()
    """Which of ``FLAWS`` the completion has."""


FLAWS = ("malformed", "truncated")
"""What can be wrong with a completion besides its answer."""


def completion_html(view: CompletionView) -> str:
    """Render a folded entry; every text in it is escaped."""
    versions = sorted({version for version, _ in view.spans})
    return (
        f'<details class="card completion" data-flaws="{" ".join(view.flaws)}" '
        f'data-step="{view.step}" data-verdict="{_verdict(view)}">'
        f"{summary_html(view, _version_range(versions))}{body_html(view)}</details>"
    )


def summary_html(view: CompletionView, note: str) -> str:
    """Render the line of a folded entry, with a note at its end."""
    return (
        f'<summary><span class="muted">step {view.step}</span>'
        f'<span class="{_verdict(view)}">{_verdict(view)}</span>'
        f"<span>{sum(view.reward_parts.values()):+.2f}</span>"
        f'<span class="excerpt">{escape(_excerpt(view.problem))}</span>'
        f'<span class="versions muted">{escape(note)}</span></summary>'
    )


def body_html(view: CompletionView) -> str:
    """Render what an entry holds when it is unfolded: facts, and the text by policy version."""
    versions = sorted({version for version, _ in view.spans})
    return (
        f'<div class="body"><dl>{_facts_html(view)}</dl>'
        f"<p>{''.join(_chip_html(version) for version in versions)}</p>"
        f'<div class="text">{"".join(_span_html(v, text) for v, text in view.spans)}</div>'
        "</div>"
    )


def _verdict(view: CompletionView) -> str:
    return "right" if view.correct else "wrong"


def _facts_html(view: CompletionView) -> str:
    parts = "   ".join(f"{name} {value:+.3g}" for name, value in view.reward_parts.items())
    facts = {"Problem": view.problem, "Gold": view.gold, "Reward": parts, "Refused": view.reason}
    facts["Flaws"] = ", ".join(view.flaws)
    return "".join(
        f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts.items() if text
    )


def _span_html(version: int, text: str) -> str:
    return (
        f'<span class="span v{version % NUM_COLORS}" title="policy version {version}">'
        f"{escape(text)}</span>"
    )


def _chip_html(version: int) -> str:
    return f'<span class="chip v{version % NUM_COLORS}">version {version}</span>'


def _version_range(versions: Sequence[int]) -> str:
    if not versions:
        return ""
    if versions[0] == versions[-1]:
        return f"version {versions[0]}"
    return f"versions {versions[0]}-{versions[-1]}"


def _excerpt(text: str) -> str:
    return " ".join(text.split())[:EXCERPT_CHARS]
