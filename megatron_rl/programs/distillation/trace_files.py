"""Files of traces: the pairs, and beside them a manifest that says where each line comes from."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_rl.data.rows import Rows
from megatron_rl.data.sft_files import sft_pair_at
from megatron_rl.programs.builders.parallel_parts import map_parts
from megatron_rl.programs.distillation.batch_survey import (
    ALONE_MIB,
    BatchFile,
    ids_at,
    read_batch,
    trace_reader,
    versions_at,
)
from megatron_rl.run_dir import publish_stream


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenTraces:
    """The completions of one batch file that become lines."""

    file: BatchFile
    places: tuple[int, ...]
    """Positions in the batch, ascending."""
    copies: tuple[int, ...]
    """Lines of each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceLine:
    """A line of the file, and its line of the manifest."""

    pair: str
    origin: Mapping[str, Any]


def manifest_of(out: Path) -> Path:
    """Return the path of the manifest of a file of traces."""
    return out.with_name(f"{out.name}.manifest.jsonl")


def write_traces(
    out: Path,
    header: Mapping[str, Any],
    chosen: Sequence[ChosenTraces],
    *,
    general: Rows | None,
    general_places: Sequence[int],
) -> None:
    """Write the pairs and their manifest, each whole or not at all; the pairs appear last.

    Args:
        out: file of pairs.
        header: first line of the manifest.
        chosen: what becomes lines, in the order of the steps.
        general: pairs to mix in, None without any.
        general_places: which of them, in this order; spread evenly over the file.
    """
    traces = _copied(chosen)
    num_traces = sum(sum(file.copies) for file in chosen)
    with publish_stream(out) as pairs, publish_stream(manifest_of(out)) as manifest:
        manifest.write(json.dumps(header) + "\n")
        lines = _mixed(traces, num_traces, general, general_places)
        for number, line in enumerate(lines, start=1):
            pairs.write(line.pair + "\n")
            manifest.write(json.dumps({"line": number, **line.origin}) + "\n")


def lines_of(chosen: ChosenTraces) -> list[TraceLine]:
    """Return one line for each chosen completion of a file."""
    batch, read = read_batch(chosen.file), trace_reader(chosen.file.config)
    lines = []
    for place in chosen.places:
        sample = batch.samples[place]
        trace = read(sample["problem"], *ids_at(batch, place))
        assert not isinstance(trace, str), f"{chosen.file.path}: {place} was a candidate: {trace}"
        origin = {
            "step": chosen.file.step,
            "sequence": place,
            "problem_id": sample["problem_id"],
            "policy_versions": versions_at(batch, place),
            "thought_tokens": trace.num_thought_tokens,
        }
        lines.append(TraceLine(pair=_pair(sample["problem"], trace.response), origin=origin))
    return lines


def _copied(chosen: Sequence[ChosenTraces]) -> Iterator[TraceLine]:
    files = [file for file in chosen if file.places]
    sizes = [file.file.num_mib for file in files]
    found = map_parts(lines_of, files, sizes, what="writing traces (MiB)", alone=ALONE_MIB)
    for file, lines in zip(files, found, strict=True):
        for line, copies in zip(lines, file.copies, strict=True):
            for copy in range(copies):
                yield TraceLine(pair=line.pair, origin={**line.origin, "copy": copy})


def _mixed(
    traces: Iterator[TraceLine], num_traces: int, general: Rows | None, places: Sequence[int]
) -> Iterator[TraceLine]:
    """Yield the traces with the general pairs spread evenly among them."""
    num_given = 0
    for number, line in enumerate(traces, start=1):
        yield line
        due = number * len(places) // num_traces
        for place in places[num_given:due]:
            assert general is not None
            pair = sft_pair_at(general, place)
            yield TraceLine(
                pair=_pair(pair.prompt, pair.response), origin={"mix": general.where(place)}
            )
        num_given = due


def _pair(prompt: str, response: str) -> str:
    return json.dumps({"prompt": prompt, "response": response}, ensure_ascii=False)
