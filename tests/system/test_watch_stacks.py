"""Two ranks of which one does not come to the collective, looked at from outside by py-spy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import REPOSITORY, run, wait_for

from megatron_rl.report.hang.stacks import find_py_spy

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(find_py_spy() is None, reason="no py-spy"),
]

RANKS = """
import os, sys, time
from pathlib import Path
import torch
import torch.distributed as dist

def falls_behind():
    Path(sys.argv[1], "behind").touch()
    time.sleep(600)

def update():
    if dist.get_rank() == 1:
        falls_behind()
    Path(sys.argv[1], "waiting").touch()
    dist.all_reduce(torch.ones(1))

store = dist.FileStore(os.path.join(sys.argv[1], "store"), 2)
dist.init_process_group("gloo", store=store, rank=int(os.environ["RANK"]), world_size=2)
update()
"""


@pytest.fixture
def run_folder(tmp_path: Path):
    """Start both ranks with the command line of a learner, and end them."""
    folder, script = tmp_path / "run", tmp_path / "ranks.py"
    folder.mkdir()
    script.write_text(RANKS)
    command = [sys.executable, script, tmp_path, "-m", "megatron_rl", "learn"]
    ranks = [
        subprocess.Popen(
            [*command, folder / "config.json"],
            env=os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"},
            cwd=REPOSITORY,
        )
        for rank in range(2)
    ]
    try:
        wait_for(lambda: (tmp_path / "behind").exists() and (tmp_path / "waiting").exists())
        yield folder
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def test_the_rank_that_sleeps_is_the_one_that_is_waited_for(run_folder: Path):
    def is_told() -> bool:
        code, text = run("watch", str(run_folder), "--stacks")
        assert code == 0, text
        # Rank 0 touches its file a moment before it is in the collective.
        return (
            "Rank 0 waits in all_reduce, called by update (ranks.py:15), for rank 1, which is not "
            "there: rank 1 in falls_behind (ranks.py:9)."
            in text
            and "learn rank 0 (process" in text
        )

    wait_for(is_told, within_s=120)
