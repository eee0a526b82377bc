"""Map reward and length over the plane in which a run moved (tools/map_weight_space.py).

The weights of every point are given to one server, which answers the same problems at each. Points
are appended as they are measured, so that a map that was stopped goes on where it was.
"""

import argparse
import asyncio
import contextlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.progress import Progress

from megatron_rl.algorithm.weight_space import grid_around
from megatron_rl.config import RunConfig, held_out_sets, unnamed_set
from megatron_rl.errors import ConfigError, VerifierError, WeightSyncError
from megatron_rl.evaluate import ScoredSample
from megatron_rl.generation.router import Admit
from megatron_rl.programs.builders.inference import (
    InferenceClients,
    open_inference,
    score_served_policy,
)
from megatron_rl.programs.builders.judge import reward_fn
from megatron_rl.programs.builders.prompts import (
    PromptSet,
    held_out_source,
    load_run_prompts,
    load_tokenizer,
    training_sources,
)
from megatron_rl.programs.builders.publisher import make_disk_publisher
from megatron_rl.programs.builders.server import run_local_server
from megatron_rl.programs.offline.weight_space_directions import WeightPlane, open_plane
from megatron_rl.programs.processes.asyncio_signals import run_until_signal
from megatron_rl.report.progress_bar import progress_bar
from megatron_rl.report.weight_space import write_weight_map
from megatron_rl.run_dir import (
    append_jsonl,
    drop_unfinished_line,
    read_jsonl,
    write_json,
)

_ADMIT: Admit = "acknowledged"

Point = tuple[float, float]


def main(config: RunConfig, options: argparse.Namespace) -> int:
    """Measure what is not measured yet, and draw the map.

    Args:
        config: the run, finished or not.
        options: ``out``, ``problems``, ``limit``, ``num_samples``, ``grid`` and ``margin``, see
            tools/map_weight_space.py.

    Raises:
        ConfigError: too few checkpoints, no problems, or ``out`` holds another map.
        CheckpointError, DataError, ModelError: a checkpoint, the problems or the model are damaged.
        ProgramError: the server did not start.
        WeightSyncError, VerifierError: it died, or nothing could be judged.
    """
    prompts, tokenizer = _prompts(config, options)
    _check_same_map(options)
    with open_plane(config, options.out) as plane:
        points = grid_around(
            plane.directions.positions_T2, size=options.grid, margin=options.margin
        )
        survey = _Survey(config, plane, prompts, options.num_samples, _points_file(options.out))
        missing = survey.missing(points)
        if missing:
            with _served(config) as served:
                code = run_until_signal(survey.measure(served, tokenizer, missing))
            if code != 0:
                return code
        page = options.out / "weight_space.html"
        write_weight_map(page, plane.steps, plane.directions, list(survey.measured().values()))
    print(page)
    return 0


class _Survey:
    """One map: what is asked at every point, and what is known already."""

    def __init__(
        self,
        config: RunConfig,
        plane: WeightPlane,
        prompts: PromptSet,
        num_samples: int,
        path: Path,
    ) -> None:
        self._config = config
        self._plane = plane
        self._prompts = prompts
        self._num_samples = num_samples
        self._path = path
        longest = config.generators.sampling.max_new_tokens
        self._reward_of = reward_fn(config.reward, max_tokens=longest)

    def measured(self) -> dict[Point, dict[str, Any]]:
        """Return the records of all points measured so far."""
        return {(r["along_1"], r["along_2"]): r for r in read_jsonl(self._path)}

    def missing(self, points: list[Point]) -> list[Point]:
        """Return the points that are still to be measured."""
        drop_unfinished_line(self._path)
        known = self.measured()
        return [point for point in points if point not in known]

    async def measure(self, served: RunConfig, tokenizer: Any, points: list[Point]) -> None:
        """Visit the points in turn; the server keeps running."""
        total = len(points) * len(self._prompts.problems)
        with progress_bar("answering, problems", total) as progress:
            async with open_inference(served, tokenizer, admit=_ADMIT) as clients:
                for version, point in enumerate(points, 1):
                    await asyncio.to_thread(self._publish, served, point, version)
                    record = await self._answer(served, clients, progress)
                    record = {"along_1": point[0], "along_2": point[1], **record}
                    await asyncio.to_thread(append_jsonl, self._path, record)

    def _publish(self, served: RunConfig, point: Point, version: int) -> None:
        # A new one each time: servers it does not know discard prefixes cached at other points.
        publisher = make_disk_publisher(served)
        report = publisher.publish(self._plane.weights_at(*point), version=version)
        if not report.num_servers:
            raise WeightSyncError("the server did not take the weights of a point; see above")

    async def _answer(
        self, served: RunConfig, clients: InferenceClients, progress: Progress
    ) -> dict[str, float]:
        samples: list[ScoredSample] = []
        scored = score_served_policy(served, clients, self._prompts, num_samples=self._num_samples)
        async with contextlib.aclosing(scored):
            async for _, of_problem in scored:
                samples += of_problem
                progress.advance(progress.task_ids[0])
        if not samples:
            raise VerifierError("not a single completion of a point was judged; see above")
        return self._summary(samples)

    def _summary(self, samples: list[ScoredSample]) -> dict[str, float]:
        rewards = [
            self._reward_of(s.verdict, num_tokens=s.length, is_truncated=s.is_truncated)
            for s in samples
        ]
        raw = [reward.total - reward.parts["length"] for reward in rewards]
        return {
            "reward": fmean(reward.total for reward in rewards),
            "reward_without_length": fmean(raw),
            "length": fmean(sample.length for sample in samples),
            "pass@1": fmean(sample.verdict.correct for sample in samples),
            "samples": len(samples),
        }


@contextlib.contextmanager
def _served(config: RunConfig) -> Iterator[RunConfig]:
    """Start a server that waits for weights, in a run folder of its own."""
    with tempfile.TemporaryDirectory(prefix="megatron-rl-served-") as folder:
        # A folder has the weights as they are: nothing there quantises them.
        generators = config.generators.model_copy(update={"quantization": "none"})
        own = config.model_copy(
            update={"run_dir": Path(folder), "sft": None, "generators": generators}
        )
        with run_local_server(own, starts_without_weights=True):
            yield own


def _prompts(config: RunConfig, options: argparse.Namespace) -> tuple[PromptSet, Any]:
    as_evaluated = held_out_source(unnamed_set(config, Path()))
    if options.problems is not None:
        source = held_out_source(unnamed_set(config, options.problems, path_key="--problems"))
    elif held_out := held_out_sets(config):
        source = held_out_source(held_out[0])
    else:
        source, *others = training_sources(config.data)
        if others:
            raise ConfigError(
                "data.train is a mixture, and there are no held-out problems: name the problems to "
                "measure with --problems"
            )
    # Whatever is asked, completions are sampled as [evaluation] says.
    source = replace(source, answered=as_evaluated.answered)
    tokenizer = load_tokenizer(config.model.path)
    prompts = load_run_prompts(config, source, tokenizer)
    return prompts.at(range(len(prompts.problems))[: options.limit]), tokenizer


def _check_same_map(options: argparse.Namespace) -> None:
    """Refuse to mix points that were measured differently; the grid itself may grow."""
    path = options.out / "map.json"
    problems = None if options.problems is None else str(options.problems.absolute())
    asked = {"problems": problems, "limit": options.limit, "num_samples": options.num_samples}
    if not path.exists():
        write_json(path, asked)
        return
    known = json.loads(path.read_text())
    for key, value in asked.items():
        if known[key] != value:
            raise ConfigError(
                f"--out {options.out}: its points were measured with {key} = {known[key]}, not "
                f"{value}; name another folder"
            )


def _points_file(out: Path) -> Path:
    return out / "points.jsonl"
