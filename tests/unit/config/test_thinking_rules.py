"""Settings of the think format, and what of them cannot work."""

from pathlib import Path

import pytest

from megatron_rl.config import RunConfig, load_config, load_judging
from megatron_rl.config.load import resolve
from megatron_rl.errors import ConfigError

RUN = {
    "run_dir": "run",
    "num_steps": 1,
    "model": {"path": "model"},
    "data": {"train": "train.jsonl"},
}


def judging(folder: Path, thinking: str) -> object:
    path = folder / "run.toml"
    path.write_text(f"[reward]\nthinking = {thinking}\n")
    return load_judging(path).reward.thinking


def test_the_format_is_recognised_named_or_none(tmp_path):
    assert judging(tmp_path, '"auto"') == "auto"
    assert judging(tmp_path, '"none"') == "none"
    assert judging(tmp_path, '"harmony"') == "harmony"
    assert judging(tmp_path, '["[THINK]", "[/THINK]"]') == ("[THINK]", "[/THINK]")
    assert resolve(RUN).reward.thinking == "auto"


@pytest.mark.parametrize(
    ("thinking", "complaint"),
    [
        ('"tags"', "Input should be 'auto', 'none' or 'harmony'"),
        ('["<think>"]', "Tuple should have at least 2 items after validation, not 1"),
        ('["a", "b", "c"]', "Tuple should have at most 2 items after validation, not 3"),
        (
            '["<t>", ""]',
            'reward.thinking (["<t>", ""]) must name two tags without blanks around them, got ""',
        ),
        ('["<t> ", "</t>"]', "must name two tags without blanks around them"),
        ('["<t>", "<t>"]', "must name two tags of which neither is in the other; change one"),
        ('["<t>", "<t>/"]', "must name two tags of which neither is in the other; change one"),
    ],
)
def test_tags_that_cannot_work_are_refused(tmp_path, thinking, complaint):
    with pytest.raises(ConfigError) as error:
        judging(tmp_path, thinking)
    assert "reward.thinking" in str(error.value) and complaint in str(error.value)


def template_kwargs(**kwargs: object) -> RunConfig:
    return resolve({**RUN, "data": {**RUN["data"], "template_kwargs": kwargs}})


def test_variables_of_the_template_are_any_but_those_of_the_package():
    config = template_kwargs(enable_thinking=False, tools=[{"name": "f"}])
    assert config.data.template_kwargs == {"enable_thinking": False, "tools": [{"name": "f"}]}
    with pytest.raises(ConfigError, match=r"data\.template_kwargs\.tokenize \(False\) must not be"):
        template_kwargs(tokenize=False)


def test_the_settings_survive_the_file_of_a_run(tmp_path):
    path = tmp_path / "config.json"
    config = resolve({**RUN, "reward": {"thinking": ["<t>", "</t>"]}})
    path.write_text(config.model_dump_json())
    assert load_config(path).reward.thinking == ("<t>", "</t>")
