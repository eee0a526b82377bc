"""Every model that the project picks, built of Transformer Engine's layers as on a GPU."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from megatron_rl.learner.device.platform import CudaPlatform
from tests.cuda_build.surroundings import (
    LAYOUTS,
    PRECISIONS,
    learner_of,
    parameters_of,
    ranks_of,
    refusal,
)
from tests.tiny_models import CASES


@dataclass(frozen=True, kw_only=True)
class TorchLayers(CudaPlatform):
    """The layers of machines without Transformer Engine."""

    def block_spec(self, config: Any, *, vp_stage: int | None) -> Any:
        from megatron_rl.learner.device.torch_layers import torch_block_spec

        return torch_block_spec(config, vp_stage=vp_stage)

    def fused_fields(
        self, *, dtype: torch.dtype, is_mixture: bool, has_latents: bool
    ) -> dict[str, Any]:
        return {}


@pytest.fixture(scope="module", params=LAYOUTS)
def parallel(request, platform):
    with ranks_of(request.param, platform) as parallel:
        yield parallel


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", CASES)
def test_layers_have_the_parameters_of_torchs(
    case, precision, parallel, gpu, platform, specs, device
):
    reason = refusal(specs[case], parallel.layout, precision, device)
    if reason is not None:
        pytest.skip(f"refused: {reason}")
    with gpu.dropping():
        learner = learner_of(specs[case], parallel, platform, precision)
        plain = learner_of(
            specs[case],
            parallel,
            TorchLayers(local_rank=0),
            "fp16" if precision == "fp16" else "bf16",
        )
    assert parameters_of(learner) == parameters_of(plain)
