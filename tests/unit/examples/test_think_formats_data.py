"""The data of the example: three models that differ in their marks alone."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from megatron_rl.config import load_config
from megatron_rl.programs.builders.demonstrations import load_demonstrations
from megatron_rl.programs.builders.prompts import (
    load_run_prompts,
    load_tokenizer,
    training_sources,
)
from megatron_rl.programs.builders.thinking import open_thinking

pytestmark = pytest.mark.lengthy

EXAMPLE = Path(__file__).parents[3] / "examples" / "think_formats"
BEGINNINGS = {
    "own_tags": ("<user>0<assistant>", "<think>\n0, so "),
    "opened_by_prompt": ("<user>0<assistant><think>\n", "0, so "),
    "special_tokens": ("<user>0<assistant>", "[THINK]\n0, so "),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    spec = importlib.util.spec_from_file_location("make_data_of_formats", EXAMPLE / "make_data.py")
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    out_dir = tmp_path_factory.mktemp("formats")
    assert module.main([str(out_dir)]) == 0
    return out_dir


@pytest.mark.parametrize("name", BEGINNINGS)
def test_one_file_of_demonstrations_teaches_every_model_its_own_marks(folder, name, caplog):
    settings = {
        "model.path": folder / name,
        "data.train": folder / "train.jsonl",
        "sft.data": folder / "sft.jsonl",
    }
    config = load_config(EXAMPLE / "run.toml", [f'{k}="{v}"' for k, v in settings.items()])
    assert config.sft is not None
    tokenizer = load_tokenizer(config.model.path)
    prompts = load_run_prompts(config, training_sources(config.data)[0], tokenizer)
    first, *_ = demonstrations = load_demonstrations(config, config.sft, tokenizer)
    prompt, response = (
        tokenizer.decode(ids)
        for ids in (first.token_ids[: first.prompt_length], first.token_ids[first.prompt_length :])
    )
    assert tokenizer.decode(prompts.prompts[0]) == prompt == BEGINNINGS[name][0]
    assert response.startswith(BEGINNINGS[name][1]) and response.endswith("}<end>")
    reader = open_thinking(config, tokenizer).reader
    for demonstration in demonstrations:
        ids, length = demonstration.token_ids, demonstration.prompt_length
        assert reader(ids[:length], ids[length:])[1].fault is None
        assert len(ids) - length <= config.generators.sampling.max_new_tokens
    assert "demonstrations do not have" not in caplog.text
