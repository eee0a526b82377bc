"""The stage that a run is in, from the stages that are over."""

import pytest

from megatron_rl.config import RunConfig, held_out_sets, resolve
from megatron_rl.errors import ConfigError
from megatron_rl.programs.campaign.current_stage import (
    current_stage,
    ends_the_run,
    final_stage,
    is_run_over,
    refuse_unplaced,
    stages_left,
)
from megatron_rl.programs.processes.run_folder import config_file, write_config
from megatron_rl.run_dir import RunDir
from megatron_rl.stage_record import (
    StageEnd,
    expected_steps,
    read_stage_ends,
    record_stage_end,
)


@pytest.fixture
def config(tmp_path) -> RunConfig:
    stages = [{"name": name, "num_steps": 10} for name in ("one", "two")]
    return resolve(
        {
            "run_dir": str(tmp_path),
            "model": {"path": "m"},
            "data": {"train": "t"},
            "stages": stages,
        }
    )


def end(config, number, *, first_step, step):
    name = config.stages[number - 1].name
    record_stage_end(
        RunDir(config.run_dir),
        StageEnd(
            number=number,
            name=name,
            first_step=first_step,
            end=step,
            planned_steps=10,
            reason="of a test",
            restarted_groups=3,
            time=1.0,
        ),
    )


def place(stage):
    return stage.stage.name, stage.stage.first_step, stage.num_steps


def test_stages_follow_each_other_as_they_end(config):
    seen = []
    for stage in stages_left(config):
        seen.append(place(stage))
        assert not is_complete_too_early(seen, stage)
        # The first is ended by a rule, the second by its number of steps.
        number = stage.stage.number
        end(config, number, first_step=stage.stage.first_step, step={1: 4, 2: 14}[number])
    assert seen == [("one", 0, 10), ("two", 4, 14)]
    assert final_stage(config).num_steps == 14


def is_complete_too_early(seen, stage):
    return len(seen) == 1 and ends_the_run(stage, stage.num_steps)


def test_a_last_stage_that_a_rule_ends_is_begun_once_more_to_end_the_run(config):
    assert final_stage(config).num_steps == 20
    end(config, 1, first_step=0, step=10)
    seen = []
    for stage in stages_left(config):
        seen.append(place(stage))
        end(config, 2, first_step=10, step=13)
    assert seen == [("two", 10, 20), ("two", 10, 13)]
    assert not ends_the_run(stage.model_copy(update={"num_steps": 20}), 13)
    assert ends_the_run(stage, 13) and is_run_over(stage)
    assert final_stage(config).num_steps == 13


def test_the_end_of_a_stage_is_recorded_once(config):
    end(config, 1, first_step=0, step=10)
    end(config, 1, first_step=0, step=10)
    (ended,) = read_stage_ends(RunDir(config.run_dir))
    assert (ended.name, ended.restarted_groups) == ("one", 3)


def test_a_record_that_a_crash_cut_short_is_written_again(config):
    run_dir = RunDir(config.run_dir)
    end(config, 1, first_step=0, step=10)
    whole = run_dir.stages.read_text()
    run_dir.stages.write_text(whole[: len(whole) // 2])
    assert place(current_stage(config)) == ("one", 0, 10)
    end(config, 1, first_step=0, step=10)
    assert run_dir.stages.read_text() == whole


def test_other_stages_than_the_run_has_gone_through_are_refused(config):
    end(config, 1, first_step=0, step=10)
    renamed = config.stages[0].model_copy(update={"name": "uno"})
    other = config.model_copy(update={"stages": (renamed, config.stages[1])})
    with pytest.raises(ConfigError, match=r"stages \(uno, two\) must begin with .* \(one\); put"):
        current_stage(other)


def test_a_stage_that_is_over_is_not_made_longer(config):
    end(config, 1, first_step=0, step=10)
    longer = config.stages[0].model_copy(update={"num_steps": 50})
    other = config.model_copy(update={"stages": (longer, config.stages[1])})
    with pytest.raises(
        ConfigError, match=r'"one": num_steps \(50\) must be 10, since the stage is'
    ):
        current_stage(other)


def test_a_run_of_one_stage_is_not_over_before_it_has_ended(config):
    alone = current_stage(config.model_copy(update={"stages": config.stages[:1]}))
    assert not is_run_over(alone)
    end(config, 1, first_step=0, step=10)
    assert is_run_over(alone)


def test_what_the_last_stage_asks_for_makes_a_run_complete(config):
    sets = {"sets": [{"name": "own", "path": "p"}]}
    last = config.stages[1].model_copy(update={"settings": {"evaluation": sets}})
    other = config.model_copy(update={"stages": (config.stages[0], last)})
    assert held_out_sets(other) == ()
    assert [held_out.name for held_out in held_out_sets(final_stage(other))] == ["own"]
    alone = config.model_copy(update={"stages": ()})
    assert final_stage(alone) == alone


def test_programs_of_a_run_with_stages_want_the_configuration_of_one(config):
    with pytest.raises(ConfigError, match="learn: the run has 2 stages; give the configuration"):
        refuse_unplaced(config, "learn")
    stage = current_stage(config)
    refuse_unplaced(stage, "learn")
    assert config_file(stage).name == "01_one.json"
    write_config(config)
    write_config(stage)
    assert RunDir(config.run_dir).config.exists() and config_file(stage).exists()


def test_steps_to_expect_are_those_of_stages_that_are_over_and_of_those_ahead(config):
    run_dir, written = RunDir(config.run_dir), config.model_dump(mode="json")
    assert expected_steps(run_dir, written) == 20
    end(config, 1, first_step=0, step=4)
    assert expected_steps(run_dir, written) == final_stage(config).num_steps == 14
    end(config, 2, first_step=4, step=9)
    assert expected_steps(run_dir, written) == 9
