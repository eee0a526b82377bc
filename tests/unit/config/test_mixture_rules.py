"""Sources of a mixture: how they are given, what is refused, and what a single path still is."""

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_rl.config import load_config, resolve
from megatron_rl.errors import ConfigError

MIXTURE = """
run_dir = "run"
num_steps = 1
[model]
path = "model"
[data]
system_prompt = "none"
[[data.train]]
path = "math/dapo.v1.parquet"
weight = 3
rows = ":100"
group_size = 32
[data.train.columns]
preset = "verl"
[[data.train]]
path = "code.jsonl.gz"
kind = "code"
system_prompt = "code.txt"
[[data.train]]
path = "code.jsonl.gz"
name = "rest"
"""


def config_of(train: Any, **data: Any):
    return resolve(
        {
            "run_dir": "run",
            "num_steps": 1,
            "model": {"path": "model"},
            "data": {"train": train, **data},
        }
    )


def refusal(train: Any, **data: Any) -> str:
    with pytest.raises(ConfigError) as error:
        config_of(train, **data)
    return str(error.value)


def test_a_mixture_is_read_and_survives_the_run_folder(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(MIXTURE)
    config = load_config(path, ["data.train.1.weight=0.5", "rollout.n_batch=64"])
    first, second, third = config.data.sources
    assert [source.label for source in config.data.sources] == ["dapo.v1", "code", "rest"]
    assert (first.weight, second.weight, third.weight) == (3.0, 0.5, 1.0)
    assert first.path == Path("math/dapo.v1.parquet").absolute()
    assert second.system_prompt == Path("code.txt").absolute()
    assert resolve(json.loads(config.model_dump_json())) == config


def test_a_path_is_its_only_source():
    config = config_of("data/gsm.jsonl", rows=":5", columns={"preset": "verl"})
    assert not config.data.is_mixture
    (source,) = config.data.sources
    assert (source.path, source.rows) == (Path("data/gsm.jsonl").absolute(), ":5")
    assert source.columns == config.data.columns
    assert config_of([{"path": "data/gsm.jsonl"}]).data.is_mixture


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([], "data.train ([]) must name problems; give a path, or a [[data.train]] for each"),
        (3, "data.train = 3: Input is not a valid path"),
        (["a.jsonl"], "data.train.0 = 'a.jsonl': Input should be a valid dictionary"),
        ([{"weight": 1}], "missing key data.train.0.path"),
        (
            [{"path": "a.jsonl", "weigth": 1}],
            "unknown key data.train.0.weigth; did you mean data.train.0.weight?",
        ),
        ([{"path": "a.jsonl", "weight": 0}], "data.train.0.weight = 0: Input should be greater"),
        ([{"path": "a.jsonl", "weight": -1.5}], "data.train.0.weight = -1.5: Input should be"),
        (
            [{"path": "a.jsonl"}, {"path": "x/a.parquet"}],
            'data.train.1.name ("a") must differ from that of data.train.0',
        ),
        ([{"path": "my data.jsonl"}], 'data.train.0.name ("my data", from its path) must consist'),
        ([{"path": "a", "name": "a/b"}], "data.train.0.name = 'a/b': "),
        (
            [{"path": "a.jsonl", "group_size": 7}],
            "data.train.0.group_size (7) must divide the completions of an optimiser step (2048)",
        ),
        (
            [{"path": "a.jsonl", "columns": {"answer": ""}}],
            'data.train.0.columns.answer ("") must name a column',
        ),
        (
            [{"path": "a.jsonl", "columns": {"anser": "x"}}],
            "unknown key data.train.0.columns.anser; did you mean data.train.0.columns.answer?",
        ),
    ],
)
def test_what_a_mixture_may_not_be_is_named(train: Any, message: str):
    assert refusal(train).startswith(message)


def test_rows_belong_to_the_sources():
    for key, value in {"rows": ":5", "reserve": "b.jsonl"}.items():
        message = refusal([{"path": "a.jsonl"}], lifecycle={}, **{key: value})
        assert message.startswith(f"data.{key} is for a data.train that is one path; give {key} to")


def test_a_group_has_to_fit_in_flight():
    message = refusal([{"path": "a.jsonl", "group_size": 4096}], system_prompt="none")
    assert message.startswith("data.train.0.group_size (4096) must divide")
    with pytest.raises(ConfigError, match=r"rollout.n_async \(16\) must be >= data.train.0.group"):
        resolve(
            {
                "run_dir": "run",
                "num_steps": 1,
                "model": {"path": "model"},
                "data": {"train": [{"path": "a.jsonl", "group_size": 32}]},
                "rollout": {"n_async": 16},
            }
        )


def test_a_group_size_that_no_source_uses_binds_nothing():
    def rollout_of(*sizes: int | None) -> None:
        train = [{"path": f"{i}.jsonl", "group_size": size} for i, size in enumerate(sizes)]
        resolve(
            {
                "run_dir": "run",
                "num_steps": 1,
                "model": {"path": "model"},
                "data": {"train": train},
                "rollout": {"n_batch": 24, "n_async": 12},
            }
        )

    rollout_of(8, 12)
    with pytest.raises(
        ConfigError, match=r"rollout.n_batch \(24\) must be a multiple of rollout.g"
    ):
        rollout_of(8, None)


@pytest.mark.parametrize("override", ["data.train.5.weight=1", "data.train.x.weight=1"])
def test_an_override_of_a_source_that_is_not_there_is_refused(tmp_path, override):
    path = tmp_path / "run.toml"
    path.write_text(MIXTURE)
    with pytest.raises(ConfigError, match=f"--set {override}: "):
        load_config(path, [override])
    with pytest.raises(ConfigError, match="expected a key of entry 0"):
        load_config(path, ["data.train.0=1"])
