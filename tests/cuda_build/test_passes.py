"""Forward and backward passes through Transformer Engine, up to each kernel."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_rl.learner.device.precision import has_engine_attention
from tests.cuda_build import absent_gpu
from tests.cuda_build.attention_shapes import attention_of_shapes
from tests.cuda_build.even_experts import even_experts
from tests.cuda_build.passes import step_of_shapes
from tests.cuda_build.surroundings import LAYOUTS, PRECISIONS, learner_of, ranks_of, refusal
from tests.tiny_models import CASES

ROOT = Path(__file__).parents[2]
COMPARED = ("alone", "tp2+sp", "cp2", "ep2")
"""Layouts at which every case is compared with the host."""
KINDS = ("qwen3", "qwen2, window in the last layers", "mixtral", "qwen3 moe")
"""Cases that are tried at every layout, in every precision."""


@pytest.fixture(scope="module")
def host():
    """What steps on the host look like, by layout and case."""
    plain = {k: v for k, v in os.environ.items() if k != absent_gpu.CAPABILITY}
    done = subprocess.run(
        [sys.executable, ROOT / "tests/cuda_build/host_side.py", *COMPARED],
        env=plain | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


# The stages of a pipeline read the shapes of what they exchange on the host.
@pytest.fixture(scope="module", params=[name for name in LAYOUTS if "pp" not in name])
def layout(request, platform):
    """A layout's name, and this rank's place in it."""
    with ranks_of(request.param, platform) as parallel:
        yield request.param, parallel


def step_on(layout, case, precision, gpu, platform, specs, device):
    """Return what a step looks like, and what attention was asked; skip what is refused."""
    reason = refusal(specs[case], layout[1].layout, precision, device)
    if reason is not None:
        pytest.skip(f"refused: {reason}")
    with gpu.dropping(), attention_of_shapes() as calls, even_experts():
        before = gpu.work
        learner = learner_of(specs[case], layout[1], platform, precision)
        seen = step_of_shapes(learner)
    assert gpu.work.copies_refused == before.copies_refused, "the host waited for the GPU"
    assert gpu.work.products > before.products
    return seen, calls


@pytest.mark.parametrize(
    ("case", "precision"),
    [
        *((case, "bf16") for case in CASES),
        *((case, p) for case, p in itertools.product(KINDS, PRECISIONS) if p != "bf16"),
    ],
)
def test_a_step_has_the_shapes_and_types_of_the_host(
    case, precision, layout, host, gpu, platform, specs, device
):
    name, _ = layout
    if name not in COMPARED and case not in KINDS:
        pytest.skip("another layout stands for this one")
    seen, calls = step_on(layout, case, precision, gpu, platform, specs, device)
    # In a round of the ring of ranks whose keys come before all queries there is nothing to mask.
    of_ring = {"NVTE_PADDING_MASK"} if layout[1].layout.cp > 1 else set()
    assert {call["mask"] for call in calls} <= {"NVTE_PADDING_CAUSAL_MASK", *of_ring}
    assert {call["layout"] for call in calls} <= {"NVTE_THD_THD_THD"}
    assert {call["dropout"] for call in calls} <= {0.0}
    is_engines = has_engine_attention(
        gpu.capability,
        head_dim=specs[case].head_dim,
        value_dim=specs[case].value_dim,
        has_sinks=specs[case].has_sinks,
    )
    assert bool(calls) == is_engines
    if name in COMPARED and precision == "bf16":
        assert seen == host[name][case]
