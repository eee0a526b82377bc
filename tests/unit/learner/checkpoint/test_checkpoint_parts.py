"""Boxes that describe a range of a flat parameter; what is compared before a checkpoint loads."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_rl.conversion.families import model_spec
from megatron_rl.errors import CheckpointError
from megatron_rl.learner.checkpoint.integrity import check_files, write_file_list
from megatron_rl.learner.checkpoint.model_identity import check_same_model, write_model_facts
from megatron_rl.learner.checkpoint.optimizer_state import boxes

CONFIG = {
    "model_type": "qwen3",
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 61,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
}


def test_a_range_within_rows_is_cut_at_their_ends():
    # Of [0..3], [4..7], [8..11]: elements 2, 3; the whole second row; element 8.
    assert list(boxes((3, 4), 2, 9)) == [((0, 2), (1, 2)), ((1, 0), (1, 4)), ((2, 0), (1, 1))]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.data())
def test_boxes_hold_the_elements_of_the_range_in_order(shape, data):
    count = math.prod(shape)
    start = data.draw(st.integers(0, count))
    stop = data.draw(st.integers(start, count))
    array = torch.arange(count).view(shape)
    found = list(boxes(tuple(shape), start, stop))
    elements = [
        array[tuple(slice(o, o + n) for o, n in zip(offset, size, strict=True))].flatten()
        for offset, size in found
    ]
    assert torch.cat([*elements, torch.empty(0)]).tolist() == list(range(start, stop))
    assert len(found) <= 2 * len(shape) - 1


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"hidden_size": 64}, "hidden_size is 32 in the checkpoint and 64 in model.path"),
        ({"rope_theta": 1e6}, "rope_theta is 10000.0 in the checkpoint and 1000000.0 in"),
        ({"model_type": "llama"}, "family is qwen3 in the checkpoint and llama in model.path"),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            "rope_scaling is None in the checkpoint and {'factor': 2.0} in model.path with "
            "model.rope_scaling",
        ),
    ],
)
def test_another_model_is_refused_with_both_values(tmp_path, change, difference):
    write_model_facts(tmp_path, model_spec(CONFIG))
    with pytest.raises(CheckpointError, match=difference):
        check_same_model(tmp_path, model_spec(CONFIG | change))


def test_the_same_model_with_a_longer_context_goes_on(tmp_path):
    write_model_facts(tmp_path, model_spec(CONFIG))
    check_same_model(tmp_path, model_spec(CONFIG | {"max_position_embeddings": 4096}))


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of two files and the one before it."""
    for step in (2, 4):
        folder = tmp_path / f"step_00000{step}"
        folder.mkdir()
        (folder / "common.pt").write_bytes(b"common")
        (folder / "__0_0.distcp").write_bytes(b"shards")
        write_file_list(folder)
    check_files(folder)
    return folder


def test_a_missing_file_is_named_with_the_way_to_go_on(checkpoint):
    (checkpoint / "__0_0.distcp").unlink()
    with pytest.raises(CheckpointError) as error:
        check_files(checkpoint)
    assert str(error.value) == (
        f"{checkpoint}/__0_0.distcp is missing; to resume from the one before, remove {checkpoint} "
        f'and write {{"step": 2}} to {checkpoint.parent}/latest.json'
    )


@pytest.mark.parametrize(
    ("name", "content", "finding"),
    [
        ("__0_0.distcp", b"sha", "3 bytes long, but 6 were written"),
        ("common.pt", b"COMMON", "not the bytes that were written"),
    ],
)
def test_a_damaged_file_is_named(checkpoint, name, content, finding):
    (checkpoint / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name}: damaged: {finding}; to resume"):
        check_files(checkpoint)


def test_without_one_before_the_remedy_is_to_start_over(checkpoint):
    (checkpoint.parent / "step_000002").rename(checkpoint.parent / "elsewhere")
    (checkpoint / "common.pt").unlink()
    with pytest.raises(CheckpointError, match=r"there is none before it; remove .* to start over$"):
        check_files(checkpoint)


def test_a_list_that_is_damaged_is_named_itself(checkpoint):
    (checkpoint / "files.json").write_text(json.dumps([1]))
    with pytest.raises(CheckpointError, match=r"files\.json: damaged"):
        check_files(checkpoint)
