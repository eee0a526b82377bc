"""An old checkpoint that is half deleted when the process dies never counts as a whole one."""

import shutil

import pytest

from megatron_rl.learner.checkpoint.steps import (
    complete_steps,
    name_latest,
    remove_old_checkpoints,
    step_folder,
)


@pytest.fixture
def root(tmp_path):
    for step in (1, 2, 3):
        step_folder(tmp_path, step).mkdir()
        (step_folder(tmp_path, step) / "weights").write_text("w")
    name_latest(tmp_path, 3)
    return tmp_path


def test_a_process_that_dies_while_it_deletes_leaves_no_half_checkpoint(root, monkeypatch):
    def die(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            remove_old_checkpoints(root, keep=1, keep_every=0)
    assert complete_steps(root) == [3]
    remove_old_checkpoints(root, keep=1, keep_every=0)
    assert sorted(path.name for path in root.iterdir()) == ["latest.json", "step_000003"]
