"""Key numbers on top of the report, chosen and formatted from the summary. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Card:
    """One key number; two values mean from and to."""

    label: str
    values: tuple[str, ...]
    note: str = ""
    is_main: bool = False


def make_cards(summary: Mapping[str, Any]) -> list[Card]:
    """Return the cards whose numbers the summary has, most important first."""
    cards = [
        *_score_cards(summary),
        _reward_card(summary),
        _card("Policy versions", summary["policy_versions"], "{:,}", "published"),
        _card(
            "Staleness",
            summary["rollout/staleness_mean"],
            "{:.2f}",
            _note("versions, at most {:g}", summary["rollout/staleness_max"]),
        ),
        _card(
            "Spanning",
            summary["rollout/spanning_fraction"],
            "{:.1%}",
            "2+ policy versions",
        ),
        _card("Generation", summary["generation/tokens_per_s"], "{:,.0f}", "tokens per second"),
        _card("Learner", summary["learner/tokens_per_s"], "{:,.0f}", "tokens per second"),
        _card("Generators busy", summary["generation/busy_fraction"], "{:.1%}", "of training time"),
        _card("Packing waste", summary["packing/waste"], "{:.1%}", "padding in packed rows"),
        _card(
            "Dropped groups",
            summary["rollout/dropped_groups"],
            "{:,.0f}",
            _note("of {:,.0f} started", summary["rollout/started_groups"])
            + _note(", at most {:,.0f} in a row", summary["rollout/barren_groups"]),
        ),
        _problems_card(summary),
        _card("Judge errors", summary["judge/errors"], "{:,.0f}", "crashes and timeouts"),
        _time_card(summary),
    ]
    return [card for card in cards if card is not None]


def format_duration(seconds: float) -> str:
    """Render seconds as people say them: 42 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _score_cards(summary: Mapping[str, Any]) -> list[Card | None]:
    k = summary["evaluation/k"]
    best, version = summary["pass@1/best_during"], summary["pass@1/best_during_version"]
    note = "" if best is None else f"best {best:.1%} at version {version:.0f}"
    of = "" if summary["evaluation/set"] is None else f" of {summary['evaluation/set']}"
    cards = [_from_to(f"pass@1{of}", summary, "pass@1", note=note, is_main=True)]
    if k is not None and k > 1:
        cards.append(_from_to(f"maj@{k}{of}", summary, "maj@k", note="majority vote"))
        cards.append(_from_to(f"pass@{k}{of}", summary, "pass@k", note="any of the samples right"))
    return cards


def _from_to(
    label: str, summary: Mapping[str, Any], score: str, *, note: str, is_main: bool = False
) -> Card | None:
    ends = (summary[f"{score}/before"], summary[f"{score}/after"])
    values = tuple(f"{value:.1%}" for value in ends if value is not None)
    return Card(label=label, values=values, note=note, is_main=is_main) if values else None


def _reward_card(summary: Mapping[str, Any]) -> Card | None:
    first, last = summary["reward/first"], summary["reward/last"]
    if first is None or last is None:
        return None
    window = summary["reward/window_steps"]
    note = "first and last step" if window == 1 else f"first and last {window} steps"
    return Card(label="Reward", values=(f"{first:.3f}", f"{last:.3f}"), note=note)


def _problems_card(summary: Mapping[str, Any]) -> Card | None:
    counts = {name: summary.get(f"curriculum/{name}") for name in ("active", "solved", "deferred")}
    if counts["active"] is None:
        return None
    note = f"active; {counts['solved']:,.0f} solved, {counts['deferred']:,.0f} deferred"
    return Card(label="Problems", values=(f"{counts['active']:,.0f}",), note=note)


def _time_card(summary: Mapping[str, Any]) -> Card | None:
    phases = {
        name.removeprefix("wall_s/"): value
        for name, value in summary.items()
        if name.startswith("wall_s/")
    }
    if not phases:
        return None
    longest = max(phases, key=lambda name: phases[name])
    note = f"{longest} {format_duration(phases[longest])}"
    return Card(label="Wall time", values=(format_duration(sum(phases.values())),), note=note)


def _card(label: str, value: float | None, form: str, note: str) -> Card | None:
    return None if value is None else Card(label=label, values=(form.format(value),), note=note)


def _note(form: str, value: float | None) -> str:
    return "" if value is None else form.format(value)
