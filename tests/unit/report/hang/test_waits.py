import ast
import re
import selectors
from pathlib import Path

import pytest
import torch.distributed.distributed_c10d as collectives

from megatron_rl.report.hang.stacks import Frame
from megatron_rl.report.hang.waits import KNOWN, Wait, wait_of

ROOT = Path(__file__).parents[4]
C10D = "torch/distributed/distributed_c10d.py"


def frames(*calls: str) -> list[Frame]:
    """Read calls like ``function (file:1)``, the innermost first."""
    found = [re.fullmatch(r"(\S+) \((.+):(\d+)\)", call) for call in calls]
    return [Frame(function=m[1], file=m[2], line=int(m[3])) for m in found if m]


WRAPPER = "_exception_logger.<locals>.wrapper (torch/distributed/c10d_logger.py:83)"


def test_a_collective_is_named_with_the_code_of_ours_that_called_it():
    stack = frames(
        f"all_reduce ({C10D}:3252)",
        WRAPPER,
        "RankConsensus.decide (megatron_rl/learner/rank_consensus.py:42)",
        "main (megatron_rl/programs/learn.py:60)",
    )
    assert wait_of(stack) == Wait(
        kind="collective",
        what="all_reduce",
        caller="RankConsensus.decide (megatron_rl/learner/rank_consensus.py:42)",
    )


def test_a_collective_made_of_others_is_named_as_it_was_asked_for():
    stack = frames(
        f"broadcast ({C10D}:2900)",
        WRAPPER,
        f"broadcast_object_list ({C10D}:3700)",
        WRAPPER,
        "LearnLoop.run (/home/x/megatron_rl/programs/learn.py:9)",
    )
    assert wait_of(stack).what == "broadcast_object_list"


def test_torch_below_megatron_is_passed_over_to_the_first_call_outside():
    stack = frames(
        f"all_gather_into_tensor ({C10D}:1)",
        WRAPPER,
        "_gather (megatron/core/tensor_parallel/mappings.py:88)",
        "step (megatron_rl/learner/learner.py:7)",
    )
    assert wait_of(stack).caller == "_gather (megatron/core/tensor_parallel/mappings.py:88)"


def test_waiting_for_the_gpu_is_no_collective():
    stack = frames("synchronize (torch/cuda/__init__.py:1210)", "update (megatron_rl/a.py:1)")
    assert wait_of(stack).kind == "device"


def test_rank_0_that_looks_for_a_batch_waits_for_rollout():
    stack = frames(
        "RankConsensus._wait (/opt/lib/megatron_rl/learner/rank_consensus.py:55)",
        "RankConsensus.decide (/opt/lib/megatron_rl/learner/rank_consensus.py:40)",
    )
    wait = wait_of(stack)
    assert wait.kind == "known" and "rollout or a server that is late" in wait.what


def test_anything_else_is_told_by_its_innermost_call():
    stack = frames("convolve (numpy/lib.py:3)", "load (megatron_rl/data/x.py:5)")
    assert wait_of(stack) == Wait(
        kind="elsewhere", what="convolve (numpy/lib.py:3)", caller="convolve (numpy/lib.py:3)"
    )
    assert wait_of([]) == Wait(kind="elsewhere", what="no call", caller="")


def test_asking_for_the_rank_is_no_wait():
    assert wait_of(frames(f"get_rank ({C10D}:9)", "f (megatron_rl/a.py:1)")).kind == "elsewhere"


@pytest.mark.parametrize("place", KNOWN, ids=lambda place: place[1])
def test_every_place_that_is_known_exists(place: tuple[str, str]):
    file, function = place
    places = {"megatron_rl": ROOT, "torch": Path(collectives.__file__).parents[2]}
    top = file.split("/")[0]
    package = places[top] if top in places else Path(selectors.__file__).parent
    tree = ast.parse((package / file).read_text())
    names = {
        n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert function in names


def test_collectives_lie_in_the_file_that_stacks_are_searched_for():
    assert collectives.__file__.endswith(C10D)
    assert hasattr(collectives, "all_reduce") and hasattr(collectives, "barrier")
