"""Megatron compiles its activation of gate and up where there is a GPU: torch can trace it whole.

The platform for CPUs runs it as it stands, so no other test traces it.
"""

import pytest
import torch
from megatron.core.fusions import fused_bias_geglu, fused_bias_swiglu

WIDTH = 8


def rows(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.bfloat16)


def arguments(name: str, num_tokens: int) -> list[torch.Tensor]:
    """Return what an activation of packed rows, or of an expert's tokens, gets."""
    is_expert = name.startswith("weighted")
    batch = () if is_expert else (1,)
    gate_and_up = rows(num_tokens, *batch, 2 * WIDTH)
    gradient = [rows(num_tokens, *batch, WIDTH)] if name.endswith("_back") else []
    return [*gradient, gate_and_up, *([torch.rand(num_tokens, 1)] if is_expert else [])]


@pytest.mark.parametrize(
    "name",
    [
        *("swiglu", "swiglu_back", "weighted_swiglu", "weighted_swiglu_back"),
        *("geglu", "geglu_back"),
    ],
)
def test_rows_of_any_length_share_a_graph(name):
    """One graph of the first length, and one of all others."""
    graphs = []

    def keep(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    activation = getattr(fused_bias_geglu if "geglu" in name else fused_bias_swiglu, name)
    bare = getattr(activation, "_torchdynamo_orig_callable", activation)
    with torch.compiler.set_stance("default"):
        compiled = torch.compile(bare, backend=keep, fullgraph=True)
        outputs = {n: compiled(*arguments(name, n)) for n in (16, 24, 40, 56, 1000)}
    assert len(graphs) == 2
    for num_tokens, output in outputs.items():
        first = output if isinstance(output, torch.Tensor) else output[0]
        assert len(first) == num_tokens
