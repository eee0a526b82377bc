"""Findings about a run that hangs: which ranks wait, in what, and for whom. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from megatron_rl.report.hang.processes import RunProcess
from megatron_rl.report.hang.waits import Wait


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """A rank and where it is."""

    process: RunProcess
    wait: Wait

    @property
    def rank(self) -> int:
        """Its number; a process that was started alone is rank 0."""
        return 0 if self.process.rank is None else self.process.rank


def explain_waits(ranks: Sequence[Observed]) -> list[str]:
    """Say who waits for whom, as far as stacks of Python tell."""
    sentences = []
    collectives = _by_place([r for r in ranks if r.wait.kind == "collective"])
    others = [r for r in ranks if r.wait.kind in ("known", "elsewhere")]
    on_device = [r for r in ranks if r.wait.kind == "device"]
    if len(collectives) == 1:
        ((place, inside),) = collectives.items()
        sentences.append(_of_one_collective(place, inside, others, len(ranks)))
    elif collectives:
        sentences.append(_of_several_collectives(collectives, others))
    elif others:
        sentences.append(f"No rank is in a collective: {_whereabouts(others)}.")
    if on_device:
        sentences.append(
            f"{_start(on_device)} for the GPU. What the GPU is in, a collective or a kernel, is "
            "not in Python's stack: NCCL's watchdog says it in the log when the time is up."
        )
    missing = _missing(ranks)
    if missing:
        sentences.append(
            f"{ranks_text(missing).capitalize()} of {max(r.process.world_size or 0 for r in ranks)}"
            " are not here: on another machine, or ended."
        )
    return sentences


_STATES = {
    "T": "is stopped by a signal; kill -CONT {pid} lets it go on",
    "t": "is stopped by a debugger",
    "D": "waits in the kernel for a device or a file system, which no signal ends",
    "Z": "has ended, and its parent has not taken note of it",
}


def explain_states(processes: Iterable[RunProcess]) -> list[str]:
    """Say which processes the system itself holds up: everybody else may wait for these."""
    return [
        f"{process.name.capitalize()} (process {process.pid}) "
        f"{_STATES[process.state].format(pid=process.pid)}."
        for process in processes
        if process.state in _STATES
    ]


def ranks_text(ranks: Iterable[int]) -> str:
    """Write ranks with runs joined: ``rank 3``, ``ranks 0-2, 5``."""
    numbers = sorted(set(ranks))
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)
    return f"rank {words}" if len(numbers) == 1 else f"ranks {words}"


def _of_one_collective(
    place: str, inside: Sequence[Observed], others: Sequence[Observed], num_ranks: int
) -> str:
    if others:
        are = "is" if len(others) == 1 else "are"
        return (
            f"{_start(inside)} in {place}, for {ranks_text(r.rank for r in others)}, which {are} "
            f"not there: {_whereabouts(others)}."
        )
    if len(inside) < num_ranks:
        return f"{_start(inside)} in {place}."
    return (
        f"Every rank that is here, {ranks_text(r.rank for r in inside)}, is in {place}. None of "
        "them lags behind in Python: the network, or a rank that is not here or stopped, holds "
        "them up."
    )


def _of_several_collectives(
    collectives: dict[str, list[Observed]], others: Sequence[Observed]
) -> str:
    inside = "; ".join(
        f"{ranks_text(r.rank for r in ranks)} in {place}" for place, ranks in collectives.items()
    )
    rest = f" The rest is elsewhere: {_whereabouts(others)}." if others else ""
    return (
        f"Ranks are in different collectives: {inside}. Of one process group, they wait for each "
        f"other for ever; of several, find the group whose ranks are not all there.{rest}"
    )


def _by_place(ranks: Sequence[Observed]) -> dict[str, list[Observed]]:
    places: dict[str, list[Observed]] = defaultdict(list)
    for observed in ranks:
        caller = f", called by {observed.wait.caller}" if observed.wait.caller else ""
        places[f"{observed.wait.what}{caller}"].append(observed)
    # The many first: who is elsewhere is the odd one out.
    return dict(sorted(places.items(), key=lambda item: -len(item[1])))


def _start(ranks: Sequence[Observed]) -> str:
    verb = "waits" if len(ranks) == 1 else "wait"
    return f"{ranks_text(r.rank for r in ranks).capitalize()} {verb}"


def _whereabouts(ranks: Sequence[Observed]) -> str:
    words: dict[str, list[int]] = defaultdict(list)
    for observed in ranks:
        prefix = "" if observed.wait.kind == "known" else "in "
        words[f"{prefix}{observed.wait.what}"].append(observed.rank)
    return "; ".join(f"{ranks_text(numbers)} {what}" for what, numbers in words.items())


def _missing(ranks: Sequence[Observed]) -> list[int]:
    world = max((r.process.world_size or 0 for r in ranks), default=0)
    return sorted(set(range(world)) - {r.rank for r in ranks})
