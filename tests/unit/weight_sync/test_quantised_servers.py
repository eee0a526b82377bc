"""A server whose memory is of another type than what it would be sent is left out, by name."""

import logging
from pathlib import Path

import pytest

from megatron_rl.conversion.block_fp8.tensors import scale_name
from megatron_rl.conversion.resharding import DType
from megatron_rl.registry import read_policy_state
from megatron_rl.run_dir import RunDir
from tests.unit.weight_sync.shard_fleet import Nursery, Source, open_publisher

pytestmark = [pytest.mark.lengthy, pytest.mark.distributed]
WEIGHT = "model.layers.1.self_attn.o_proj.weight"


def publish(nursery: Nursery, folder: Path, source: Source) -> set[str]:
    """Publish to one server; return which have the weights."""
    run_dir = RunDir(folder)
    server = nursery.start(run_dir, "a")
    server.register()
    publisher = open_publisher(run_dir, source, verify="admission", timeout_s=20.0)
    try:
        publisher.publish(version=0)
    finally:
        publisher.close()
        server.kill()
    state = read_policy_state(run_dir)
    assert state is not None
    return set(state.servers)


def test_a_server_of_the_learners_types_is_given_the_weights(nursery, tmp_path):
    assert publish(nursery, tmp_path, Source()) == {"a"}


def test_weights_are_not_cast_from_fp8_without_their_scales(nursery, tmp_path, caplog):
    source = Source()
    source.dtypes[WEIGHT] = DType(name="float8_e4m3fn", itemsize=1)
    with caplog.at_level(logging.ERROR):
        assert publish(nursery, tmp_path, source) == set()
    assert f"server a holds {WEIGHT} in float32, and is sent float8_e4m3fn" in caplog.text
    assert "another generators.quantization than this learner; start it again" in caplog.text


def test_a_server_that_ignores_scales_is_left_out(nursery, tmp_path, caplog):
    """As SGLang's loaders of Llama do; here nobody has told the loader of the scales at all."""
    source = Source()
    source.quantised = frozenset([WEIGHT])
    with caplog.at_level(logging.ERROR):
        assert publish(nursery, tmp_path, source) == set()
    assert f"server a ignores {scale_name(WEIGHT)} (1 tensors)" in caplog.text
