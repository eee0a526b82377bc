"""Packed rows as attention and FP8 products need them, from sequences of any lengths."""

import pytest

from megatron_rl.learner.device.precision import has_engine_attention
from tests.cuda_build.attention_shapes import attention_of_shapes
from tests.cuda_build.passes import sequences_of, step_of_shapes
from tests.cuda_build.surroundings import learner_of, ranks_of, refusal

LENGTHS = [24, 41, 10, 101, 34, 65]
"""Without their last tokens no multiples of anything."""
UNITS = {"bf16": 1, "delayed": 16, "tensorwise": 16, "blockwise": 16, "mxfp8": 32}
"""Tokens of a rank's matrix products are multiples of this."""
BLOCK = 128
"""And, in the recipe by block, of this, where sequence parallelism gathers them."""


@pytest.mark.parametrize("layout", ["alone", "tp2", "tp2+sp", "cp2", "cp2xtp2+sp", "cp4"])
@pytest.mark.parametrize("precision", UNITS)
def test_every_rank_has_a_multiple_of_tokens(precision, layout, gpu, platform, specs, device):
    spec = specs["qwen3"]
    if not has_engine_attention(gpu.capability, head_dim=spec.head_dim, value_dim=spec.value_dim):
        pytest.skip("attention is torch's")
    with ranks_of(layout, platform) as parallel, gpu.dropping(), attention_of_shapes() as calls:
        reason = refusal(spec, parallel.layout, precision, device)
        if reason is not None:
            pytest.skip(f"refused: {reason}")
        step_of_shapes(learner_of(spec, parallel, platform, precision), sequences_of(LENGTHS))
    is_gathered = parallel.layout.sp
    unit = BLOCK if precision == "blockwise" and is_gathered else UNITS[precision]
    # Other rounds of the ring have half of a rank's queries or keys.
    whole = [call["tokens"] for call in calls if call["mask"] == "NVTE_PADDING_CAUSAL_MASK"]
    assert whole
    for tokens in whole:
        assert tokens % (unit * (parallel.layout.tp if is_gathered else 1)) == 0
        assert parallel.layout.cp == 1 or tokens % 2 == 0
