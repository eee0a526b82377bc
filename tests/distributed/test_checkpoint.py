"""Checkpoints: exact continuation, another layout, and what a crash or a person leaves behind."""

import json
import shutil

import pytest
import torch
from checkpoint_ranks import DAMAGES, MODELS
from ranks import free_port, run_on_ranks
from tiny_policy import CONFIG

from megatron_rl.errors import CheckpointError
from megatron_rl.learner.checkpoint.steps import (
    complete_steps,
    cut_off_checkpoints,
    latest_step,
    remove_old_checkpoints,
    step_folder,
)
from megatron_rl.run_dir import write_json

TIMINGS = {"learner/tokens_per_s", "time/update_s"}


@pytest.fixture(scope="module")
def model_folders(tmp_path_factory):
    """One folder written by transformers per family, tied and untied."""
    import transformers

    folders = []
    for family, tied in (("Qwen3", False), ("Mistral", True)):
        fields = {k: v for k, v in CONFIG.items() if k not in ("model_type", "rope_theta")}
        fields |= {"tie_word_embeddings": tied}
        if family == "Mistral":
            fields |= {"sliding_window": None}
        config = getattr(transformers, f"{family}Config")(**fields)
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}ForCausalLM")(config)
        folders.append(tmp_path_factory.mktemp(family))
        model.save_pretrained(folders[-1])
    return folders


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the ranks leave their checkpoints."""
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def outcome(folder, model_folders):
    """What two ranks saw."""
    hf = [str(path) for path in model_folders]
    ports = [free_port() for _ in range(9 + len(hf))]
    return run_on_ranks(
        "checkpoint_ranks:work_on_two_ranks",
        {"ports": ports, "folder": str(folder), "hf": hf},
        num_ranks=2,
    )


def numbers(records):
    return [{k: v for k, v in record.items() if k not in TIMINGS} for record in records]


@pytest.mark.distributed
def test_a_restored_run_continues_bit_for_bit(outcome):
    assert outcome["restored"] == [3, {"cursor": [7, [1, 2]]}]
    assert numbers(outcome["resumed"]) == numbers(outcome["went on"])
    assert outcome["is exact at dp2"]


@pytest.mark.distributed
def test_a_learner_that_has_already_stepped_can_go_back(outcome):
    assert outcome["lr after going back"] == outcome["went on"][1]["policy/lr"]


@pytest.mark.distributed
def test_dp2_continues_at_tp2(outcome):
    assert outcome["is exact at tp2"]
    assert_close(outcome["resumed at tp2"], outcome["went on"])


@pytest.fixture(scope="module")
def alone(outcome, folder):
    """What one rank saw, that loaded the checkpoint of two."""
    return run_on_ranks(
        "checkpoint_ranks:load_on_one_rank",
        {"ports": [free_port() for _ in range(2 + len(MODELS))], "folder": str(folder)},
        num_ranks=1,
    )


@pytest.mark.distributed
def test_dp2_continues_on_one_rank(outcome, alone):
    assert alone["is exact"]
    assert_close(alone["resumed"], outcome["went on"])


def assert_close(actual, expected):
    assert actual[0]["policy/loss"] == pytest.approx(expected[0]["policy/loss"], abs=1e-6)
    for mine, theirs in zip(actual, expected, strict=True):
        for key in ("policy/loss", "policy/grad_norm", "policy/entropy", "policy/lr"):
            assert mine[key] == pytest.approx(theirs[key], rel=2e-5, abs=2e-6), key


@pytest.mark.distributed
def test_weights_whose_gathering_overlaps_the_next_step_are_saved_up_to_date(outcome):
    assert outcome["is exact after overlap"]


@pytest.mark.distributed
def test_bf16_continues_bit_for_bit_from_its_float32_master_weights(outcome):
    assert outcome["is exact in bf16"]


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("key", "stored", "wanted"),
    [
        ("hidden_size", "32", "64"),
        ("num_layers", "4", "2"),
        ("family", "qwen3", "llama"),
        ("vocab_size", "61", "67"),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused_with_both_values(
    key, stored, wanted, alone, folder
):
    assert alone[key].startswith(f"{folder / 'dp2'}/step_000003 is of another model: ")
    assert f"{key} is {stored} in the checkpoint and {wanted} in model.path" in alone[key]
    assert alone[key].endswith("go back to the model it was made with, or name another run_dir")


@pytest.mark.distributed
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_named_with_the_way_to_go_on(name, alone, folder):
    step = folder / name / "step_000003"
    assert alone[name].startswith(
        f"{step / DAMAGES[name]}{' is missing' if 'missing' in name else ': damaged'}"
    )
    assert alone[name].endswith(
        f'to resume from the one before, remove {step} and write {{"step": 2}} to '
        f"{folder / name / 'latest.json'}"
    )


@pytest.mark.distributed
def test_what_is_saved_in_the_background_is_the_state_at_the_save_bit_for_bit(outcome):
    background = outcome["background"]
    assert background["steps"] == [1, 3, [3, {}]]
    assert background["is the state at the save"]
    assert background["goes on exactly"]


@pytest.mark.distributed
def test_a_checkpoint_is_not_named_before_it_is_complete_on_all_ranks(outcome):
    assert outcome["background"]["latest before it is complete"] is None


@pytest.mark.distributed
def test_a_rank_that_cannot_write_ends_the_run_on_all_with_the_folder_named(outcome, folder):
    full, no_folder = outcome["background"]["failures"]
    assert full.startswith(f"{folder / 'background'}/.step_000004.partial: cannot be written: ")
    assert "File too large" in full
    assert no_folder.startswith(f"{folder}/a file/.step_000004.partial: cannot be written: Not")


@pytest.mark.distributed
def test_a_run_killed_while_it_saves_in_the_background_goes_on_from_the_checkpoint_before(
    tmp_path,
):
    argument = {"ports": [free_port()], "folder": str(tmp_path)}
    with pytest.raises(AssertionError, match=r"ended with \[-9\]"):
        run_on_ranks("checkpoint_ranks:die_while_saving", argument, num_ranks=1)
    assert latest_step(tmp_path) == 1
    assert cut_off_checkpoints(tmp_path) == [tmp_path / ".step_000002.partial"]


@pytest.mark.distributed
def test_a_resumed_run_takes_its_rates_from_its_own_configuration(outcome):
    assert outcome["lr of the new configuration"] == pytest.approx(3e-3)


@pytest.mark.distributed
def test_weights_leave_tp2_as_they_were_read_in_bit_for_bit_and_in_order(outcome, model_folders):
    assert [outcome[str(path)] for path in model_folders] == [True, True]


def make_checkpoints(root, *steps):
    for step in steps:
        step_folder(root, step).mkdir(parents=True)
    write_json(root / "latest.json", {"step": steps[-1]})


def test_without_checkpoints_there_is_no_latest(tmp_path):
    assert latest_step(tmp_path) is None
    assert complete_steps(tmp_path / "nothing") == []


def test_a_checkpoint_cut_off_while_it_is_written_is_never_chosen(tmp_path):
    make_checkpoints(tmp_path, 2, 4)
    (tmp_path / ".step_000006.partial").mkdir()
    assert latest_step(tmp_path) == 4
    assert complete_steps(tmp_path) == [2, 4]
    assert cut_off_checkpoints(tmp_path) == [tmp_path / ".step_000006.partial"]


def test_multiples_of_keep_every_stay_for_good(tmp_path):
    make_checkpoints(tmp_path, 2, 4, 6, 8, 10)
    remove_old_checkpoints(tmp_path, keep=1, keep_every=4)
    assert complete_steps(tmp_path) == [4, 8, 10]  # two multiples of 4, and the newest


def test_a_checkpoint_the_pointer_does_not_name_yet_is_not_the_latest(tmp_path):
    make_checkpoints(tmp_path, 2, 4)
    step_folder(tmp_path, 6).mkdir()  # whole, but the crash came before the pointer moved
    assert latest_step(tmp_path) == 4


def test_a_pointer_to_a_missing_folder_is_an_error_that_lists_what_is_left(tmp_path):
    make_checkpoints(tmp_path, 2, 4, 6)
    shutil.rmtree(step_folder(tmp_path, 6))
    with pytest.raises(CheckpointError, match=r"step_000006 is missing; .* one of: 2, 4$"):
        latest_step(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"stage": 1}', '{"step": "new"}'])
def test_a_damaged_pointer_is_an_error(tmp_path, content):
    (tmp_path / "latest.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"latest\.json"):
        latest_step(tmp_path)


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    make_checkpoints(tmp_path, 2, 4, 6, 1_000_000)
    (tmp_path / ".step_000008.partial").mkdir()
    remove_old_checkpoints(tmp_path, keep=2, keep_every=0)
    assert complete_steps(tmp_path) == [6, 1_000_000]
    assert not (tmp_path / ".step_000008.partial").exists()


def test_going_back_to_an_older_checkpoint_does_not_get_the_new_ones_deleted(tmp_path):
    make_checkpoints(tmp_path, 2, 4, 6)
    (tmp_path / "latest.json").write_text(json.dumps({"step": 2}))  # as the error above suggests
    step_folder(tmp_path, 3).mkdir()
    write_json(tmp_path / "latest.json", {"step": 3})
    remove_old_checkpoints(tmp_path, keep=1, keep_every=0)
    assert latest_step(tmp_path) == 3
    assert complete_steps(tmp_path) == [3, 4, 6]
