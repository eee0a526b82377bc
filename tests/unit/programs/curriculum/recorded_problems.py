"""Problems of a run, checked against the outcomes it has recorded."""

from collections.abc import Sequence

from megatron_rl.batch import load_batch
from megatron_rl.batch_files import written_steps
from megatron_rl.config import RunConfig
from megatron_rl.data.curriculum.lifecycle import BorderRecord, LifecycleCurriculum, SourceKey
from megatron_rl.data.curriculum.source import CurriculumSource
from megatron_rl.programs.curriculum.outcome_log import OutcomeLog
from megatron_rl.programs.curriculum.sources import open_curriculum
from megatron_rl.run_dir import RunDir


def borders_of(run_dir: RunDir) -> list[BorderRecord]:
    """Return the borders up to the newest batch file."""
    step = written_steps(run_dir)[-1] + 1
    return list(OutcomeLog(run_dir.outcomes).open(step, load_batch(run_dir.batch(step - 1)).cursor))


def check_that_problems_follow_from_outcomes(
    config: RunConfig, sources: Sequence[CurriculumSource]
) -> dict[int, str]:
    """Return the problem of each settled group.

    It must be what the borders before the group's start give to whoever reads them, and what the
    batch files say. No group may be settled or trained on twice.
    """
    run_dir = RunDir(config.run_dir)
    borders = borders_of(run_dir)
    names = {
        SourceKey(source.name, int(key)): source.assignment(position).problem.id
        for source in sources
        for position, key in enumerate(source.keys_P)
    }
    settled = [pair for border in borders for pair in border.settled]
    recorded = {outcome.index: names[problem] for outcome, problem in settled}
    assert len(recorded) == len(settled)
    for number, border in enumerate(borders):
        again = open_curriculum(config, sources)
        assert isinstance(again, LifecycleCurriculum)
        again.restore(borders[:number])
        start = borders[number - 1].cursor.next_index if number else 0
        for index in range(start, border.cursor.next_index):
            assignment = again.assignment(index)
            assert assignment is not None
            assert recorded.get(index, assignment.problem.id) == assignment.problem.id
    trained: list[int] = []
    for step in written_steps(run_dir):
        batch = load_batch(run_dir.batch(step))
        pairs = zip(batch.groups_N.tolist(), batch.samples, strict=True)
        problems = {index: sample["problem_id"] for index, sample in pairs}
        assert problems == {index: recorded[index] for index in problems}
        trained += problems
    assert len(trained) == len(set(trained))
    return recorded
