"""Functions that Megatron has torch compile, compiled for the GPU."""

import pytest
import torch

from tests.cuda_build.attention_shapes import attention_of_shapes
from tests.cuda_build.even_experts import even_experts
from tests.cuda_build.passes import step_of_shapes
from tests.cuda_build.surroundings import learner_of, ranks_of


@pytest.mark.parametrize("case", ["qwen3", "qwen3 moe"])
def test_they_are_traced_whole_and_compiled(case, gpu, platform, specs):
    from torch._dynamo.utils import counters
    from torch._inductor import metrics

    counters.clear()
    metrics.reset()
    with (
        ranks_of("alone", platform) as parallel,
        gpu.dropping(),
        attention_of_shapes(),
        even_experts(),
        torch.compiler.set_stance("default"),
    ):
        step_of_shapes(learner_of(specs[case], parallel, platform, "bf16"))
    assert metrics.generated_kernel_count > 0
    assert dict(counters["graph_break"]) == {}
