"""The learner's look at what its run has recorded."""

from megatron_rl.config import planned_stages, resolve
from megatron_rl.programs.campaign.stage_ending import StageEnding
from megatron_rl.run_dir import RunDir, append_jsonl
from megatron_rl.stage_record import read_stage_ends


class Alone:
    """The consensus of a single rank."""

    def decide(self, look, *, wants_stop):
        return look()


def ending_of(tmp_path, ends_when, **evaluation) -> StageEnding:
    config = resolve(
        {
            "run_dir": str(tmp_path),
            "model": {"path": "m"},
            "data": {"train": "t"},
            "evaluation": evaluation,
            "stages": [{"name": "one", "num_steps": 40, "ends_when": ends_when}],
        }
    )
    return StageEnding(planned_stages(config)[0], Alone())


def test_only_the_first_held_out_set_ends_a_stage(tmp_path):
    sets = [{"name": name, "path": name} for name in ("easy", "hard")]
    rules = {"pass_rate_plateaus": {"window": 10, "min_gain": 0.01}}
    over = ending_of(tmp_path, rules, every=5, sets=sets)
    run_dir = RunDir(tmp_path)
    for step in range(1, 21):
        append_jsonl(run_dir.metrics, {"step": step})
    for version, name, score in ((5, "easy", 0.8), (15, "easy", 0.85), (15, "hard", 0.1)):
        append_jsonl(run_dir.evaluations, {"version": version, "set": name, "pass@1": score})
    assert not over.is_over()
    append_jsonl(run_dir.evaluations, {"version": 20, "set": "easy", "pass@1": 0.6})
    assert over.is_over()
    assert "pass@1 went from 0.8000 to 0.7250" in over.reason
    over.record(20)
    (ended,) = read_stage_ends(run_dir)
    assert (ended.end, ended.planned_steps, ended.restarted_groups) == (20, 40, 0)
    assert ended.reason == over.reason


def test_a_stage_without_rules_ends_at_its_number_of_steps(tmp_path):
    over = ending_of(tmp_path, {})
    assert not over.is_over()
    over.record(40)
    (ended,) = read_stage_ends(RunDir(tmp_path))
    assert ended.reason == "num_steps (40)"
