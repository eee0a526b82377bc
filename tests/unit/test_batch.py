import dataclasses
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from megatron_rl.batch import NO_VERSION, Batch, load_batch, make_batch, save_batch
from megatron_rl.errors import BatchFileError
from megatron_rl.sequences import SamplingSupport, Sequences
from megatron_rl.types import Cursor
from tests.unit.records import make_group, make_sample


def small_batch() -> Batch:
    """Two groups, three sequences: prompt 2 + completions 1 and 2; prompt 1 + completion 3."""
    return make_batch(
        [
            make_group(4, make_sample(versions=[3]), make_sample(versions=[3, 4])),
            make_group(7, make_sample(versions=[2, 2, 2], correct=False), prompt_ids=[9]),
        ],
        advantages_N=np.array([1, -1, 0.5], dtype=np.float32),
        weights_N=np.array([0.25, 0.25, 1 / 3], dtype=np.float32),
        minibatches_N=np.array([0, 0, 1]),
        cursor=Cursor(next_index=9, outstanding=(5, 8)),
        metrics={"reward/total": 0.5},
    )


def test_sequences_lie_end_to_end_prompt_before_completion():
    batch = small_batch()
    assert batch.sequences.token_ids_T.tolist() == [5, 6, 100, 5, 6, 100, 101, 9, 100, 101, 102]
    assert batch.sequences.offsets.tolist() == [0, 3, 7, 11]
    assert batch.sequences.behavior_logprobs_T.tolist() == [0, 0, -1, 0, 0, -1, -2, 0, -1, -2, -3]
    assert batch.policy_versions_T.tolist() == [-1, -1, 3, -1, -1, 3, 4, -1, 2, 2, 2]
    assert batch.sequences.loss_mask_T.astype(int).tolist() == [0, 0, 1, 0, 0, 1, 1, 0, 1, 1, 1]
    assert batch.groups_N.tolist() == [4, 4, 7]
    assert batch.sequences.lengths_N.tolist() == [3, 4, 4]
    assert (batch.num_sequences, batch.num_minibatches) == (3, 2)


def test_versions_are_those_of_sampled_tokens_only():
    assert NO_VERSION < 0
    assert (small_batch().oldest_version, small_batch().newest_version) == (2, 4)


def test_a_saved_batch_is_read_back_whole(tmp_path: Path):
    batch, path = small_batch(), tmp_path / "batches" / "step_000000.safetensors"
    save_batch(path, batch)
    loaded = load_batch(path)
    values = [(getattr(loaded, f.name), getattr(batch, f.name)) for f in dataclasses.fields(Batch)]
    values += [
        (getattr(loaded.sequences, f.name), getattr(batch.sequences, f.name))
        for f in dataclasses.fields(Sequences)
    ]
    for value, expected in values:
        if isinstance(expected, Sequences):
            continue  # its arrays are compared one by one
        if isinstance(expected, np.ndarray):
            assert value.dtype == expected.dtype
            np.testing.assert_array_equal(value, expected)
        else:
            assert value == expected
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no partial file stays


def test_the_file_holds_one_tensor_an_array(tmp_path: Path):
    """The format is older than the record Sequences: batches of earlier runs are replayed."""
    save_batch(tmp_path / "batch.safetensors", small_batch())
    assert sorted(load_file(tmp_path / "batch.safetensors")) == [
        "advantages_N",
        "behavior_logprobs_T",
        "groups_N",
        "loss_mask_T",
        "minibatches_N",
        "offsets",
        "policy_versions_T",
        "token_ids_T",
        "weights_N",
    ]


def truncated_batch() -> Batch:
    """One group of two completions, of two tokens and of one."""
    group = make_group(0, make_sample(versions=[0, 0]), make_sample(versions=[0]))
    supports = [SamplingSupport.of_rows([[100, 3], [101]]), SamplingSupport.of_rows([[100]])]
    samples = tuple(
        dataclasses.replace(
            sample, completion=dataclasses.replace(sample.completion, support=support)
        )
        for sample, support in zip(group.samples, supports, strict=True)
    )
    return make_batch(
        [dataclasses.replace(group, samples=samples)],
        advantages_N=np.ones(2, dtype=np.float32),
        weights_N=np.ones(2, dtype=np.float32),
        minibatches_N=np.zeros(2, dtype=np.int64),
        cursor=Cursor(),
        metrics={},
    )


def test_what_tokens_were_chosen_from_is_kept_beside_them(tmp_path: Path):
    path = tmp_path / "batch.safetensors"
    save_batch(path, truncated_batch())
    support = load_batch(path).sequences.support
    assert support is not None
    # Prompts of two tokens, which nobody sampled, before each completion.
    assert support.rows() == [[], [], [100, 3], [101], [], [], [100]]
    assert (support.ids_K.dtype, support.offsets.dtype) == (np.int32, np.int64)


def test_only_a_truncated_batch_needs_a_reader_that_knows_of_truncation(tmp_path: Path):
    whole, truncated = tmp_path / "whole.safetensors", tmp_path / "truncated.safetensors"
    save_batch(whole, small_batch())
    save_batch(truncated, truncated_batch())
    assert b'"format_version":"1"' in whole.read_bytes()
    assert b'"format_version":"2"' in truncated.read_bytes()


def test_samples_say_what_was_asked_answered_and_earned():
    sample = small_batch().samples[2]
    assert sample["problem_id"] == "p7"
    assert (sample["gold"], sample["answer"], sample["correct"]) == ("2", "2", False)
    assert sample["reward"] == {"format": 0.1, "correctness": 0.4}


def test_a_missing_batch_is_refused(tmp_path: Path):
    with pytest.raises(BatchFileError, match="nowhere"):
        load_batch(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_a_truncated_batch_is_refused(tmp_path: Path, keep: int):
    path = tmp_path / "batch.safetensors"
    save_batch(path, small_batch())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BatchFileError, match="cannot be read as a batch"):
        load_batch(path)


def test_another_safetensors_file_is_refused(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    save_file({"weight": np.zeros(2)}, path)
    with pytest.raises(BatchFileError):
        load_batch(path)


def test_another_format_version_is_refused(tmp_path: Path):
    path = tmp_path / "batch.safetensors"
    save_batch(path, small_batch())
    path.write_bytes(path.read_bytes().replace(b'"format_version":"1"', b'"format_version":"9"'))
    with pytest.raises(BatchFileError, match="batch format 9, this version reads 1 and 2"):
        load_batch(path)
