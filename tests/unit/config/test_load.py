"""Reading a configuration: what is refused, what is overridden, what survives a round trip."""

import json
from pathlib import Path

import pytest

from megatron_rl.config import (
    RunConfig,
    SftOptimizerConfig,
    json_schema,
    load_config,
    read_resolved,
    resolve,
)
from megatron_rl.errors import ConfigError

ROOT = Path(__file__).parents[3]
# Definitions of ablations are no runs: tests/unit/examples/test_ablations.py resolves them.
EXAMPLES = sorted(
    path for path in (ROOT / "examples").rglob("*.toml") if path.parent.name != "ablations"
)
MINIMAL = """
run_dir = "runs/test"
num_steps = 3
[model]
path = "model"
[data]
train = "train.jsonl"
"""


def load(tmp_path: Path, extra: str = "", *overrides: str) -> RunConfig:
    path = tmp_path / "run.toml"
    path.write_text(MINIMAL + extra)
    return load_config(path, overrides)


def refusal(tmp_path: Path, extra: str = "", *overrides: str) -> str:
    """Return the message of the ConfigError, without the file's name."""
    with pytest.raises(ConfigError) as error:
        load(tmp_path, extra, *overrides)
    return str(error.value).removeprefix(f"{tmp_path}/run.toml: ")


def test_four_settings_are_enough(tmp_path):
    config = load(tmp_path)
    assert config.num_steps == 3
    assert config.sft is None


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("[lerner]\n", "unknown key lerner; did you mean learner?"),
        (
            "[rollout]\ngroup_sze = 4\n",
            "unknown key rollout.group_sze; did you mean rollout.group_size?",
        ),
        (
            "[learner.optimizer]\nwarmup = 4\n",
            "unknown key learner.optimizer.warmup; did you mean learner.optimizer.warmup_steps?",
        ),
        (
            "[sft]\ndata = 'a'\n[sft.optimizer]\nbeta_1 = 0.5\n",  # inside an optional section
            "unknown key sft.optimizer.beta_1; did you mean sft.optimizer.beta1?",
        ),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_valid_one(tmp_path, extra, message):
    assert refusal(tmp_path, extra) == message


def test_an_unknown_key_like_no_other_is_answered_with_all_valid_ones(tmp_path):
    assert refusal(tmp_path, "[judge]\nzzz = 1\n").startswith(
        "unknown key judge.zzz; valid keys of judge: num_workers, deadline_s, max_retries"
    )
    assert refusal(tmp_path, "[zzz]\n").startswith(
        "unknown key zzz; valid keys of the file: run_dir, num_steps, "
    )


@pytest.mark.parametrize(
    ("extra", "start"),
    [
        ("[learner.optimizer]\nlr = '1e-6'\n", "learner.optimizer.lr = '1e-6': "),
        ("[rollout]\nn_batch = 8.0\n", "rollout.n_batch = 8.0: "),
        ("[rollout]\nn_batch = true\n", "rollout.n_batch = True: "),
        ("[rollout]\nn_batch = 0\n", "rollout.n_batch = 0: "),
        ("[rollout]\nmode = 'asinc'\n", "rollout.mode = 'asinc': "),
        ("[reward]\nformat = nan\n", "reward.format = nan: "),
        ("[learner]\noptimizer = 1\n", "learner.optimizer = 1: "),
        ("[telemetry]\ntensorboard = 1\n", "telemetry.tensorboard = 1: "),
    ],
)
def test_an_ill_typed_value_is_named_with_its_key(tmp_path, extra, start):
    assert refusal(tmp_path, extra).startswith(start)


def test_a_setting_of_several_types_is_named_without_them(tmp_path):
    message = refusal(tmp_path, "", "data.system_prompt=3")
    assert [line.partition(": ")[0] for line in message.splitlines()] == [
        "data.system_prompt = 3",  # neither a path
        "data.system_prompt = 3",  # nor one of the words
    ]


def test_every_problem_is_reported_at_once(tmp_path):
    message = refusal(tmp_path, "[sft]\ndat = 'x'\n[judge]\nnum_workers = -1\n")
    assert len(message.splitlines()) == 3  # sft.data missing, sft.dat unknown, num_workers too low
    assert "missing key sft.data" in message


def test_a_missing_key_is_named(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("run_dir = 'r'\nnum_steps = 1\n[data]\n")
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert str(error.value) == f"{path}: missing key model\nmissing key data.train"


@pytest.mark.parametrize("name", ["run.toml", "config.json"])
def test_a_file_that_cannot_be_parsed_is_named(tmp_path, name):
    path = tmp_path / name
    kind = {"run.toml": "TOML", "config.json": "JSON"}[name]
    path.write_text("num_steps = = 3")
    with pytest.raises(ConfigError, match=f"{path}: not valid {kind}: "):
        load_config(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=f"{path}: not valid {kind}: "):
        load_config(path)


def test_a_json_file_that_is_no_table_is_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("[1]")
    with pytest.raises(ConfigError, match="holds a list, not a table of settings"):
        read_resolved(path)


@pytest.mark.parametrize("name", ["absent.toml", "absent.json"])
def test_a_file_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(ConfigError, match=f"{name}: cannot be read: No such file"):
        load_config(tmp_path / name)


def test_overrides_win_over_the_file(tmp_path):
    config = load(
        tmp_path,
        "[rollout]\nn_batch = 64\n",
        "num_steps=7",
        "rollout.n_batch=128",
        "learner.optimizer.lr=5e-5",  # three deep, in a table the file does not have
        "telemetry.tensorboard=false",
        "model.dtype=float32",  # a bare word is a string
        'model.init="random"',
        "model.path = other/model",  # blanks around the sign
        "generators.sglang.extra=[1, 2]",
        'learner.megatron={ num_layers = 2, activation = "silu" }',
    )
    assert config.num_steps == 7
    assert config.rollout.n_batch == 128
    assert config.learner.optimizer.lr == 5e-5
    assert config.telemetry.tensorboard is False
    assert config.model.dtype == "float32"
    assert config.model.init == "random"
    assert config.model.path.parts[-2:] == ("other", "model")
    assert config.generators.sglang == {"extra": [1, 2]}
    assert config.learner.megatron == {"num_layers": 2, "activation": "silu"}


def test_null_takes_a_setting_or_a_section_out_of_the_file(tmp_path):
    extra = "[generators]\ncontext_length = 64\n[sft]\ndata = 'sft.jsonl'\n"
    config = load(tmp_path, extra, "generators.context_length=null", "sft=null")
    assert config.generators.context_length is None
    assert config.sft is None
    assert load(tmp_path, "", "sft=null").sft is None


def test_null_of_an_unknown_key_is_refused_like_any_value(tmp_path):
    assert "did you mean rollout.group_size?" in refusal(tmp_path, "", "rollout.group_sze=null")


def test_a_later_override_wins(tmp_path):
    assert load(tmp_path, "", "num_steps=7", "num_steps=8").num_steps == 8


def test_only_the_first_equals_sign_separates(tmp_path):
    assert load(tmp_path, "", "generators.sglang.a=b=c").generators.sglang == {"a": "b=c"}


@pytest.mark.parametrize("override", ["num_steps", "=3", "rollout.=3", ".n_batch=3", ""])
def test_an_override_without_key_and_value_is_refused(tmp_path, override):
    assert refusal(tmp_path, "", override) == f"--set {override}: expected section.key=value"


def test_an_override_into_a_value_is_refused(tmp_path):
    assert refusal(tmp_path, "", "num_steps.n=3") == (
        "--set num_steps.n=3: num_steps is a value, not a section"
    )


def test_an_override_is_checked_like_the_file(tmp_path):
    assert refusal(tmp_path, "", "rollout.n_bach=3") == (
        "unknown key rollout.n_bach; did you mean rollout.n_batch?"
    )
    assert refusal(tmp_path, "", "rollout.n_batch=many").startswith("rollout.n_batch = 'many': ")


def test_paths_become_absolute_from_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load(tmp_path, "[sft]\ndata = 'pairs.jsonl'\n", "data.evaluation=~/held-out.jsonl")
    assert config.run_dir == tmp_path / "runs/test"
    assert config.data.train == tmp_path / "train.jsonl"
    assert config.data.evaluation == Path.home() / "held-out.jsonl"
    assert config.sft is not None and config.sft.data == tmp_path / "pairs.jsonl"
    assert config.generators.python == tmp_path / ".venv-serve/bin/python"


def test_a_linked_interpreter_is_not_followed(tmp_path):
    link = tmp_path / "python"
    link.symlink_to("/bin/sh")
    assert load(tmp_path, "", f"generators.python={link}").generators.python == link


def test_the_words_of_a_path_setting_stay_words(tmp_path):
    assert load(tmp_path).data.system_prompt == "default"
    assert load(tmp_path, "", "data.system_prompt=none").data.system_prompt == "none"
    prompt = load(tmp_path, "", "data.system_prompt=mine.txt").data.system_prompt
    assert prompt == Path.cwd() / "mine.txt"


def test_a_resolved_configuration_survives_json(tmp_path, monkeypatch):
    config = load(
        tmp_path,
        "[sft]\ndata = 'a'\n[sft.optimizer]\nlr = 1e-3\n[generators.sglang]\nflag = true\n",
        "data.system_prompt=mine.txt",
        "reward.length_cache=64",
    )
    path = tmp_path / "config.json"
    path.write_text(config.model_dump_json(indent=1))
    monkeypatch.chdir("/")  # whatever folder the run is resumed from
    assert read_resolved(path) == config
    assert resolve(json.loads(path.read_text())) == config


def test_a_resolved_configuration_takes_overrides(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(load(tmp_path).model_dump_json())
    assert load_config(path, ["num_steps=9"]).num_steps == 9


def test_the_cold_start_keeps_its_rate_when_another_key_is_set(tmp_path):
    config = load(tmp_path, "[sft]\ndata = 'a'\n[sft.optimizer]\nclip_grad = 0.5\n")
    assert config.sft is not None
    assert config.sft.optimizer.lr == SftOptimizerConfig().lr != config.learner.optimizer.lr


def test_a_section_is_frozen(tmp_path):
    with pytest.raises(ValueError, match="frozen"):
        load(tmp_path).num_steps = 4


def test_every_setting_is_described():
    schema = json_schema()
    tables = {"": schema, **schema["$defs"]}
    undescribed = [
        f"{table}.{key}"
        for table, content in tables.items()
        for key, field in content["properties"].items()
        if not (field.get("description") or _section_description(field, schema["$defs"]))
    ]
    assert undescribed == []


def _section_description(field: dict, tables: dict) -> str | None:
    """Return what the section that ``field`` refers to, possibly optionally, says of itself."""
    for option in (field, *field.get("anyOf", [])):
        if "$ref" in option:
            return tables[option["$ref"].removeprefix("#/$defs/")].get("description")
    return None


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_example_is_a_valid_configuration(path):
    load_config(path)
