"""Files written through: what the safetensors package reads, cut where the limit says."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from megatron_rl.hf_folder import WeightReader
from megatron_rl.hf_shards import plan_shards, write_index, write_shard

SHAPES = {"a": (2, 3), "b": (4,), "c": (5,)}  # float32: 24, 16 and 20 bytes
WEIGHTS = {name: torch.randn(shape) for name, shape in SHAPES.items()}


def float32(name):
    return torch.float32


def plan(max_shard_bytes):
    return plan_shards(SHAPES, type_of=float32, max_shard_bytes=max_shard_bytes)


@pytest.mark.parametrize(
    ("max_shard_bytes", "expected"),
    [(1, ["a", "b", "c"]), (40, ["ab", "c"]), (39, ["a", "bc"]), (60, ["abc"])],
)
def test_a_file_ends_where_the_next_tensor_would_exceed_the_limit(max_shard_bytes, expected):
    assert ["".join(names) for names in plan(max_shard_bytes).values()] == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("max_shard_bytes", [1, 40, 1000])
def test_the_safetensors_package_reads_what_is_written(max_shard_bytes, dtype, tmp_path):
    shards = plan_shards(SHAPES, type_of=lambda _: dtype, max_shard_bytes=max_shard_bytes)

    def read(name):
        return WEIGHTS[name].to(dtype)

    for file, names in shards.items():
        write_shard(tmp_path / file, names, SHAPES, read, type_of=lambda _: dtype)
        loaded = load_file(tmp_path / file)
        assert list(loaded) == sorted(names)
        assert all(torch.equal(loaded[name], read(name)) for name in names)
        with safe_open(tmp_path / file, framework="pt") as opened:
            assert opened.metadata() == {"format": "pt"}
    write_index(tmp_path, shards, SHAPES, type_of=lambda _: dtype)
    reader = WeightReader(tmp_path)
    assert reader.names == set(SHAPES)
    assert all(torch.equal(reader(name), read(name)) for name in SHAPES)


def test_the_index_names_the_file_of_every_tensor(tmp_path):
    write_index(tmp_path, plan(40), SHAPES, type_of=float32)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    first, second = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    assert index["weight_map"] == {"a": first, "b": first, "c": second}
    assert index["metadata"]["total_size"] == 60


def test_tensors_are_read_one_at_a_time_in_order(tmp_path):
    order = []

    def read(name):
        order.append((name, (tmp_path / "x.safetensors").exists()))
        return WEIGHTS[name]

    write_shard(tmp_path / "x.safetensors", ["c", "a"], SHAPES, read, type_of=float32)
    assert order == [("c", False), ("a", False)]  # the file appears whole


def test_one_tensor_may_be_of_another_type(tmp_path):
    types = {"a": torch.bfloat16, "b": torch.float32, "c": torch.bfloat16}
    shards = plan_shards(SHAPES, type_of=types.__getitem__, max_shard_bytes=28)
    assert list(shards.values()) == [["a", "b"], ["c"]]  # 12 + 16 bytes, then 10
    for file, names in shards.items():
        write_shard(
            tmp_path / file,
            names,
            SHAPES,
            lambda name: WEIGHTS[name].to(types[name]),
            type_of=types.__getitem__,
        )
    write_index(tmp_path, shards, SHAPES, type_of=types.__getitem__)
    reader = WeightReader(tmp_path)
    assert {name: reader(name).dtype for name in SHAPES} == types
    assert torch.equal(reader("b"), WEIGHTS["b"])
