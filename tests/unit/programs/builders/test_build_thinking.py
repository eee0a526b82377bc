"""The think format of a run: recognised, refused where it cannot work, and used for prompts."""

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_rl.config import RunConfig
from megatron_rl.config.load import resolve
from megatron_rl.errors import ConfigError
from megatron_rl.programs.builders.demonstrations import load_demonstrations
from megatron_rl.programs.builders.stop_tokens import turn_end_of, warn_of_unstopped_turns
from megatron_rl.programs.builders.thinking import (
    format_without_model,
    open_thinking,
    prompt_maker,
)
from megatron_rl.thinking import KNOWN_TAGS, THINK
from tests.think_tokenizers import SHAPES, ids_of, think_tokenizer
from tests.tiny_models import write_model


def config_of(folder: Path, *, reward: Any = None, data: Any = None) -> RunConfig:
    """Return a run whose model folder has the files that say where servers stop."""
    model = folder / "model"
    if not model.exists():
        write_model("qwen3", model, vocab_size=2000)
        (model / "generation_config.json").unlink()  # tests say themselves where servers stop
    return resolve(
        {
            "run_dir": str(folder / "run"),
            "num_steps": 1,
            "model": {"path": str(folder / "model")},
            "data": {"train": "train.jsonl", **({} if data is None else data)},
            "reward": {} if reward is None else reward,
            "sft": {"data": str(folder / "sft.jsonl"), "num_epochs": 1, "batch_size": 1},
        }
    )


def prompt(folder: Path, shape: str, problem: str = "1+1?", **sections: Any) -> str:
    tokenizer, config = think_tokenizer(shape), config_of(folder, **sections)
    make = prompt_maker(config, tokenizer, open_thinking(config, tokenizer))
    return tokenizer.decode(make(problem))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_prompt_asks_for_the_tags_that_are_left_to_write(tmp_path, shape):
    text = prompt(tmp_path, shape)
    tokenizer = think_tokenizer(shape)
    thinking = open_thinking(config_of(tmp_path), tokenizer)
    if thinking.think_format == "harmony":
        assert "In the channel analysis" in text and "think>" not in text
        return
    asks = f"Open your response with {thinking.think_format.open}" in text
    assert asks is (thinking.prompt_thought == "unopened")
    assert f"Close this part with {thinking.think_format.close}." in text


def test_a_prompt_that_closes_the_thought_asks_for_no_thoughts(tmp_path):
    text = prompt(tmp_path, "qwen3", data={"template_kwargs": {"enable_thinking": False}})
    assert text.endswith("<think>\n\n</think>\n\n")
    assert "Solve it." in text and "two parts" not in text


def test_a_switch_in_the_problem_changes_its_system_prompt_alone(tmp_path):
    tokenizer, config = think_tokenizer("qwen3"), config_of(tmp_path)
    tokenizer.chat_template += (
        "{% if messages[-1].content.endswith('/no_think') %}<think></think>{% endif %}"
    )
    thinking = open_thinking(config, tokenizer)
    make = prompt_maker(config, tokenizer, thinking)
    usual, switched = (tokenizer.decode(make(text)) for text in ("1+1?", "1+1? /no_think"))
    assert "two parts" in usual and "two parts" not in switched
    assert switched.endswith("<think></think>")
    _, response = thinking.reader(make("1+1? /no_think"), ids_of(tokenizer, "2"))
    assert (response.fault, response.answer) == (None, "2")


def test_a_system_prompt_of_a_file_is_left_alone(tmp_path):
    (tmp_path / "own.txt").write_text("Keep {open} and <think>.")
    text = prompt(tmp_path, "r1-new", data={"system_prompt": str(tmp_path / "own.txt")})
    assert "Keep {open} and <think>.<" in text


@pytest.mark.parametrize(
    ("shape", "thinking", "complaint"),
    [
        (
            "r1-new",
            ["[THINK]", "[/THINK]"],
            'reward.thinking (["[THINK]", "[/THINK]"]) must name the tags with which prompts end, '
            "and that of a problem ends with one of <think>...</think>; set it to "
            '["<think>", "</think>"] or "auto"',
        ),
        ("plain", "harmony", 'reward.thinking ("harmony") must be marks that the tokenizer'),
        ("magistral", ["[INST]<s>", "x"], "cannot write [INST]<s>"),
    ],
)
def test_a_format_that_cannot_work_is_refused(tmp_path, shape, thinking, complaint):
    config = config_of(tmp_path, reward={"thinking": thinking})
    with pytest.raises(ConfigError) as error:
        open_thinking(config, think_tokenizer(shape))
    assert complaint in str(error.value)


def test_an_unknown_variable_of_the_template_is_refused(tmp_path):
    config = config_of(tmp_path, data={"template_kwargs": {"enable_thinkin": True}})
    with pytest.raises(ConfigError, match="reads no variable of this name"):
        open_thinking(config, think_tokenizer("qwen3"))


def test_none_takes_every_prompt(tmp_path):
    config = config_of(tmp_path, reward={"thinking": "none"})
    thinking = open_thinking(config, think_tokenizer("r1-new"))
    assert str(thinking) == (
        "think format: none, the whole response is the answer (reward.thinking)"
    )


def test_programs_say_the_format_and_what_showed_it(tmp_path):
    lines = {
        shape: str(open_thinking(config_of(tmp_path), think_tokenizer(shape)))
        for shape in ("plain", "magistral", "r1-new", "gpt-oss")
    }
    assert lines == {
        "plain": "think format: <think>...</think> (neither prompts nor chat template show "
        "another)",
        "magistral": "think format: [THINK]...[/THINK] (the chat template mentions the tags, "
        "which are tokens of the vocabulary)",
        "r1-new": "think format: <think>...</think> (prompts end with it); the prompt opens the "
        "thought",
        "gpt-oss": "think format: harmony (the chat template writes its marks)",
    }


def test_without_a_model_auto_means_think_tags(tmp_path):
    assert format_without_model(config_of(tmp_path).reward) == THINK
    named = config_of(tmp_path, reward={"thinking": ["[THINK]", "[/THINK]"]})
    assert format_without_model(named.reward) == KNOWN_TAGS[1]


def write_pairs(folder: Path, *responses: str) -> None:
    lines = (json.dumps({"prompt": "1+1?", "response": text}) + "\n" for text in responses)
    (folder / "sft.jsonl").write_text("".join(lines))


@pytest.mark.parametrize(
    ("shape", "end"),
    [
        ("plain", "=<think>a</think>b<eos>"),
        ("qwen3-thinking-2507", "assistant\n<think>\na</think>b<|im_end|>"),
        ("magistral", "[/INST][THINK]a[/THINK]b</s>"),
    ],
)
def test_demonstrations_have_the_tags_in_force_and_end_where_servers_stop(tmp_path, shape, end):
    tokenizer, config = think_tokenizer(shape), config_of(tmp_path)
    write_pairs(tmp_path, "<think>a</think>b")
    stops = [tokenizer.get_vocab()[t] for t in ("<|im_end|>", "</s>") if t in tokenizer.get_vocab()]
    path = tmp_path / "model" / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": stops}))
    (demonstration,) = load_demonstrations(config, config.sft, tokenizer)
    assert tokenizer.decode(demonstration.token_ids).endswith(end)


def test_a_turn_end_at_which_no_server_stops_is_said_and_not_taught(tmp_path, caplog):
    tokenizer, config = think_tokenizer("qwen3"), config_of(tmp_path)
    eos, end = tokenizer.convert_tokens_to_ids(["<eos>", "<|im_end|>"])
    (tmp_path / "model" / "config.json").write_text(json.dumps({"eos_token_id": eos}))
    assert turn_end_of(config, tokenizer) == eos
    warn_of_unstopped_turns(config, tokenizer)
    assert f"ends a turn with <|im_end|> ({end}), at which servers do not stop" in caplog.text
    assert f"they stop at <eos> ({eos})" in caplog.text
    caplog.clear()
    path = tmp_path / "model" / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": [eos, end]}))
    assert turn_end_of(config, tokenizer) == end
    warn_of_unstopped_turns(config, tokenizer)
    assert caplog.text == ""


def test_demonstrations_that_would_earn_nothing_are_counted(tmp_path, caplog):
    tokenizer, config = think_tokenizer("magistral"), config_of(tmp_path)
    write_pairs(tmp_path, "<think>a</think>b", "no thoughts", "[THINK]a[/THINK]b", "[THINK]a")
    load_demonstrations(config, config.sft, tokenizer)
    assert (
        "2 of 4 demonstrations do not have the think format in force; the first is pair 2, which "
        "does not start with [THINK]"
    ) in caplog.text
