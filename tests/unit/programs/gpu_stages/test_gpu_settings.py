"""What the stages of gpu-check ask for on GPUs, as far as a machine without one can tell."""

from pathlib import Path

import pytest

from megatron_rl.parallelism.memory import RESERVE_GIB, Memory
from megatron_rl.programs.gpu_stages.learning.layouts import LAYOUTS, _names
from megatron_rl.programs.gpu_stages.learning.memory import _peak, _state
from megatron_rl.programs.gpu_stages.learning.speed import Training, estimated_gib
from megatron_rl.programs.gpu_stages.serving.server import EAGER, GRAPHS, _config
from megatron_rl.programs.gpu_stages.sizes import ON_CPU, ON_GPU, sizes_of
from megatron_rl.programs.stage_runs.servers import gpus_beside_learner
from megatron_rl.programs.stage_runs.stage import Place, read_place, write_place

GIB = 2**30


def place_of(folder: Path, *, gpus: tuple[str, ...], server: str | None = None) -> Place:
    return Place(
        folder=folder,
        shared=folder / "models",
        is_rehearsal=not gpus,
        gpus=gpus,
        serving_python=folder / "python",
        server=server,
    )


@pytest.mark.parametrize(
    ("gpus", "server", "is_eager", "backend"),
    [
        (("0",), EAGER, True, "gloo"),
        (("0",), GRAPHS, False, "gloo"),
        (("4", "5"), GRAPHS, False, "auto"),
        ((), "shared", True, "auto"),
    ],
)
def test_a_server_has_graphs_or_not_and_nccl_where_it_has_a_gpu_of_its_own(
    gpus, server, is_eager, backend, tmp_path
):
    place = place_of(tmp_path, gpus=gpus, server=server)
    config = _config(place, sizes_of(place), tmp_path / "model", tmp_path / "run")
    assert ("disable-cuda-graph" in config.generators.sglang) is is_eager
    assert config.weights.backend == backend
    assert config.model.dtype == "bfloat16"  # a server on a GPU has no float32
    assert config.learner.precision is None


def test_a_server_takes_the_second_gpu_where_there_is_one(tmp_path):
    def visible_to_server(*gpus: str) -> dict[str, str]:
        return gpus_beside_learner(place_of(tmp_path, gpus=gpus)).of_server(0)

    assert visible_to_server("3") == {"CUDA_VISIBLE_DEVICES": "3"}
    assert visible_to_server("3", "7") == {"CUDA_VISIBLE_DEVICES": "7"}
    assert visible_to_server() == {}


@pytest.mark.parametrize(("count", "number"), [(1, 1), (2, 4), (3, 1), (4, 5), (8, 6)])
def test_layouts_are_those_that_fill_the_ranks(count, number):
    # Alone; tp, cp and pp of 2 from two ranks; two of them from four; all three from eight.
    assert len(_names(count)) == number
    assert all(count % LAYOUTS[name].model_size == 0 for name in _names(count))


def test_the_trained_shapes_fit_gpus_of_80_and_of_40_gib_by_the_planner(tmp_path):
    large, small = (
        estimated_gib(
            Training(shape=shape, length=ON_GPU.length, rows=ON_GPU.rows, precision="bf16"),
            tmp_path,
        )
        for shape in ON_GPU.trained
    )
    assert small + RESERVE_GIB < 40 < large + RESERVE_GIB < 80


def test_load_and_prompts_fit_the_context_and_the_cache():
    for sizes in (ON_GPU, ON_CPU):
        longest = sizes.context_length // 8 + sizes.context_length // 2
        assert sizes.in_flight * longest <= sizes.cache_tokens
        assert sizes.num_sequences * sizes.context_length <= sizes.cache_tokens


def test_memory_is_judged_by_what_plan_keeps_free():
    memory = Memory(
        weights=2 * GIB,
        reference=0,
        gradients=4 * GIB,
        optimizer=12 * GIB,
        activations=5 * GIB,
        logits=GIB,
    )
    # Held: 18 GiB are estimated; 18.5 are 1.03 times that.
    assert all(figure.holds for figure in _state(memory, 18 * GIB + GIB // 2))
    assert not all(figure.holds for figure in _state(memory, 20 * GIB))
    # Peak: 24 GiB are estimated, 8 more are free.
    assert all(figure.holds for figure in _peak(memory, 31 * GIB))
    assert not all(figure.holds for figure in _peak(memory, 33 * GIB))
    assert not all(figure.holds for figure in _peak(memory, 11 * GIB))


def test_a_place_survives_its_file(tmp_path):
    place = place_of(tmp_path, gpus=("0", "1"), server=GRAPHS)
    write_place(place)
    assert read_place(tmp_path) == place
