"""Samples of one evaluation in a file, from which an evaluation that was interrupted goes on.

One line of JSON for each problem, as soon as all its samples are judged. Short completions end
first, so that to keep whatever had ended, and draw the rest anew, would prefer them: a share p of
completions that outlast the interruption would nearly vanish. Kept are therefore whole blocks of
problems that follow each other, with B = ``LEAST_BLOCK`` samples or more. A block is kept with
chance (1 - p)^B, so that the share becomes p (1 - (1 - p)^B): less by 0.6 % of all at most.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_rl.algorithm.pass_at_k import Votes
from megatron_rl.evaluate.scores import ProblemScore
from megatron_rl.evaluate.scoring import ScoredSample
from megatron_rl.run_dir import append_jsonl, drop_unfinished_line, read_jsonl
from megatron_rl.types import Problem, Verdict

_LOG = logging.getLogger(__name__)

LEAST_BLOCK = 64
"""Samples of problems that are kept together or not at all."""
_MOST_ANSWER_CHARS = 200  # a solution in code is its own answer


class SampleFile:
    """The samples of one set at one policy version; one writer."""

    def __init__(
        self,
        path: Path,
        *,
        problems: Sequence[Problem],
        settings: Mapping[str, Any],
        num_samples: int,
        version: int,
    ) -> None:
        """Open the file, or make it anew when it is of other settings.

        Args:
            path: JSON-lines file.
            problems: those of the set, in its order.
            settings: how they are sampled, plain JSON.
            num_samples: samples of each problem.
            version: the policy that is evaluated; tokens of older ones do not count.
        """
        self._path = path
        self._keys = [_key_of(problem) for problem in problems]
        self._names = [problem.id for problem in problems]
        self._block = -(-LEAST_BLOCK // num_samples)
        self._version = version
        drop_unfinished_line(path)
        head = {"settings": json.loads(json.dumps(settings))}
        found = next(iter(read_jsonl(path)), None)
        if found is not None and found != head:
            _LOG.warning("%s: of other settings; its samples are drawn anew", path)
            path.unlink()
        if found != head:
            append_jsonl(path, head)

    def known(self) -> dict[int, ProblemScore]:
        """Return the scores that an interrupted evaluation left, by position."""
        places = {key: position for position, key in enumerate(self._keys)}
        lines = (line for line in read_jsonl(self._path) if "key" in line)
        found = {places[line["key"]]: _score_of(line) for line in lines if line["key"] in places}
        fresh = {position for position, score in found.items() if self._is_fresh(score)}
        kept = {position: found[position] for position in self._whole_blocks(fresh)}
        if found:
            _LOG.info(
                "%s: %d problems of %d are known, and %d more that were not all of their block",
                *(self._path, len(kept), len(self._keys), len(found) - len(kept)),
            )
        return kept

    def keep(self, position: int, score: ProblemScore) -> None:
        """Append the samples of a problem."""
        votes = score.votes
        line = {
            "problem": self._names[position],
            "key": self._keys[position],
            "votes": {"right": votes.right, "wrong": list(votes.wrong), "silent": votes.silent},
            "samples": [_sample_record(sample) for sample in score.samples],
        }
        append_jsonl(self._path, line)

    def _is_fresh(self, score: ProblemScore) -> bool:
        versions = (version for sample in score.samples for version in sample.versions)
        return min(versions, default=self._version) >= self._version

    def _whole_blocks(self, positions: set[int]) -> Iterator[int]:
        for start in range(0, len(self._keys), self._block):
            block = range(start, min(start + self._block, len(self._keys)))
            if positions.issuperset(block):
                yield from block


def _key_of(problem: Problem) -> str:
    """Return what changes when the problem does."""
    asked = json.dumps([problem.id, problem.text, problem.answer, problem.kind])
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


def _sample_record(sample: ScoredSample) -> dict[str, Any]:
    answer = sample.verdict.answer
    return {
        "correct": sample.verdict.correct,
        "answer": None if answer is None else answer[:_MOST_ANSWER_CHARS],
        "format": sample.verdict.format_ok,
        "length": sample.length,
        "truncated": sample.is_truncated,
        "versions": {str(version): count for version, count in sample.versions.items()},
    }


def _score_of(line: Mapping[str, Any]) -> ProblemScore:
    votes = line["votes"]
    return ProblemScore(
        samples=[_sample_of(record) for record in line["samples"]],
        votes=Votes(right=votes["right"], wrong=tuple(votes["wrong"]), silent=votes["silent"]),
    )


def _sample_of(record: Mapping[str, Any]) -> ScoredSample:
    return ScoredSample(
        verdict=Verdict(
            format_ok=record["format"], correct=record["correct"], answer=record["answer"]
        ),
        length=record["length"],
        is_truncated=record["truncated"],
        versions=Counter({int(version): n for version, n in record["versions"].items()}),
    )
