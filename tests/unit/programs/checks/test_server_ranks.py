"""Attention by replicas is cut over fewer ranks than the server has: SGLang checks it itself."""

import pytest

from megatron_rl.config import GeneratorsConfig
from megatron_rl.conversion.families import model_spec
from megatron_rl.errors import ConfigError
from megatron_rl.programs.checks.server_ranks import check_server_ranks
from tests.unit.conversion.family_configs import QWEN3

SPEC = model_spec(QWEN3)  # 4 heads


def test_heads_are_cut_over_all_ranks_unless_attention_is_by_replicas():
    replicas = {"dp-size": 4, "enable-dp-attention": True}
    check_server_ranks(GeneratorsConfig(tp=8, sglang=replicas), SPEC)
    for flags in ({}, {"enable-dp-attention": False}):
        with pytest.raises(ConfigError, match=r"generators.tp \(8\).*attention heads \(4\)"):
            check_server_ranks(GeneratorsConfig(tp=8, sglang=flags), SPEC)
