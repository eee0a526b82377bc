"""What cannot work is refused in one clear message, before a folder or a process is made."""

import json
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from megatron_rl import cli

SERVE_PYTHON = Path(__file__).parents[3] / ".venv-serve" / "bin" / "python"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A run that could be started, but for its random weights."""
    model = tmp_path / "model"
    Qwen3Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        eos_token_id=1,
    ).save_pretrained(model)
    core = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "one": 2}, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<eos>",
        chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}",
    )
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.save_pretrained(model)
    write_problems(tmp_path, [problem("a", "one and one"), problem("b", "one")])
    path = tmp_path / "run.toml"
    path.write_text(f"""
run_dir = "{tmp_path / "run"}"
num_steps = 2
model = {{path = "{model}", init = "random", dtype = "float32"}}
data = {{train = "{tmp_path / "train.jsonl"}", system_prompt = "none"}}
[generators]
python = "{sys.executable}"
sampling = {{max_new_tokens = 100}}
[rollout]
group_size = 4
n_batch = 16
""")
    return path


def problem(name: str, text: str) -> str:
    return json.dumps({"id": name, "problem": text, "answer": "2"})


def write_problems(folder: Path, lines: list[str]) -> None:
    (folder / "train.jsonl").write_text("".join(line + "\n" for line in lines))


def refusal(config: Path, capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    """Return the message with which ``train`` refuses to start."""
    words = [word for override in overrides for word in ("--set", override)]
    assert cli.main(["train", str(config), *words]) == 2
    assert not (config.parent / "run").exists()
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("megatron-rl: error: ") and "Traceback" not in err
    return err.removeprefix("megatron-rl: error: ").rstrip("\n")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rollout.group_sze=4", "unknown key rollout.group_sze; did you mean rollout.group_size?"),
        (
            "rollout.n_batch=18",
            "rollout.n_batch (18) must be a multiple of rollout.group_size (4); nearest: 16",
        ),
        (
            "generators.context_length=4096",
            "generators.context_length (4096) must be <= max_position_embeddings of the model "
            "(128); remove the key to use the model's own limit, or scale the model with "
            "model.rope_scaling",
        ),
        (
            'model.rope_scaling={type = "linear", factor = 2.0}',
            "model.rope_scaling.type",
        ),
        (
            'model.rope_scaling={type = "yarn", factor = 2.0, '
            "original_max_position_embeddings = 256}",
            "model.rope_scaling.original_max_position_embeddings (256) must be <= "
            "max_position_embeddings of the model (128); remove the key to use the model's own",
        ),
        (
            'reward.thinking="harmony"',
            'reward.thinking ("harmony") must be marks that the tokenizer of model.path can write: '
            "the vocabulary has no token <|start|>",
        ),
        (
            "data.template_kwargs.enable_thinking=false",
            "data.template_kwargs.enable_thinking (False): the chat template of model.path reads "
            "no variable of this name; correct the name, or remove the key",
        ),
        (
            'generators.python="/absent/python"',
            "generators.python (/absent/python) is not an executable; make the serving environment "
            "(make env) or name its interpreter",
        ),
    ],
)
def test_a_setting_that_cannot_work_is_named_with_its_remedy(config, capsys, override, message):
    assert message in refusal(config, capsys, override)


def test_a_context_beyond_the_scaled_positions(config, capsys):
    scaling = 'model.rope_scaling={type = "yarn", factor = 4}'
    assert refusal(config, capsys, scaling, "generators.context_length=513").startswith(
        "generators.context_length (513) must be <= the positions of the model as "
        "model.rope_scaling.factor (4) scales it (512); remove the key to use them all, or set a "
        "larger factor"
    )


def test_a_layout_that_does_not_fit_the_model(config, capsys):
    layout = ("learner.parallel.tp=4", "learner.num_processes=4")
    assert "learner.parallel.tp" in refusal(config, capsys, *layout)


def write_weights(folder: Path, *, tied: bool) -> dict[str, torch.Tensor]:
    """Write the model's weights, tied by its configuration or not, and return them."""
    path = folder / "model" / "config.json"
    facts = json.loads(path.read_text()) | {"tie_word_embeddings": tied}
    path.write_text(json.dumps(facts))
    model = Qwen3ForCausalLM(Qwen3Config(**facts))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model" / "model.safetensors")
    return weights


def test_weights_of_another_shape_than_the_configuration_says(config, capsys):
    weights = write_weights(config.parent, tied=False)
    weights["model.norm.weight"] = torch.ones(31)
    save_file(weights, config.parent / "model" / "model.safetensors")
    message = refusal(config, capsys, 'model.init="pretrained"')
    assert message.endswith(
        "model: tensor model.norm.weight is (31,) in the files, but (32,) by config.json"
    )


def test_an_output_layer_that_is_missing_where_nothing_says_that_it_is_tied(config, capsys):
    weights = write_weights(config.parent, tied=False)
    del weights["lm_head.weight"]
    save_file(weights, config.parent / "model" / "model.safetensors")
    path = config.parent / "model" / "config.json"
    facts = json.loads(path.read_text())
    del facts["tie_word_embeddings"]
    path.write_text(json.dumps(facts))
    message = refusal(config, capsys, 'model.init="pretrained"')
    assert "tensor lm_head.weight (64, 32) of config.json is missing from the files" in message
    assert message.endswith("set tie_word_embeddings = true if the embedding serves as that")


def test_an_output_layer_of_its_own_in_a_model_that_says_it_is_tied(config, capsys):
    weights = write_weights(config.parent, tied=True)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + 1
    save_file(weights, config.parent / "model" / "model.safetensors")
    message = refusal(config, capsys, 'model.init="pretrained"')
    assert "lm_head.weight is not the embedding" in message
    assert "tie_word_embeddings" in message


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="for a machine without a GPU")
def test_a_precision_that_needs_a_gpu(config, capsys):
    message = refusal(config, capsys, 'learner.precision="fp8"')
    assert message == (
        'learner.precision ("fp8") with learner.fp8.recipe ("tensorwise") needs an NVIDIA GPU, and '
        "there is none here; and Transformer Engine, which is not installed; "
        'set learner.precision = "bf16"'
    )


@pytest.mark.system  # imports Megatron: seconds
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("recompute_granulraity=1", "did you mean learner.megatron.recompute_granularity?"),
        # Megatron alone knows that this needs a method.
        ('recompute_granularity="full"', "learner.megatron: TransformerConfig refuses: "),
    ],
)
def test_a_field_or_value_that_megatron_does_not_have(config, capsys, override, message):
    assert message in refusal(config, capsys, f"learner.megatron.{override}")


def test_quantised_servers_of_a_machine_without_a_gpu(config, capsys, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    folder = config.parent / "model"
    sizes = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 128}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    text = json.loads((folder / "config.json").read_text()) | sizes | heads
    (folder / "config.json").write_text(json.dumps(text))
    overrides = ['generators.quantization="block_fp8"', 'model.dtype="bfloat16"']
    message = refusal(config, capsys, *overrides)
    assert message == (
        'generators.quantization ("block_fp8") needs GPUs of compute capability 8.9 or 9.0 for the '
        "servers: on a CPU SGLang packs FP8 weights for AMX, in place; set "
        'generators.quantization = "none"'
    )
    assert "cannot be used with a learner" in refusal(
        config, capsys, 'generators.sglang.quantization="fp8"'
    )


def test_float32_weights_for_servers_on_a_gpu(config, capsys):
    message = refusal(config, capsys, 'generators.sglang.device="cuda"')
    assert message == (
        'model.dtype ("float32") must be "bfloat16" or "float16" for generators on a GPU: '
        'SGLang has no RMSNorm of float32 there; set model.dtype = "bfloat16", and '
        'learner.precision = "fp32" if the learner is to compute in float32, or serve on the CPU '
        'with generators.sglang.device = "cpu"'
    )


def test_experts_that_do_not_fit_the_ranks(config, capsys):
    path = config.parent / "model" / "config.json"
    facts = json.loads(path.read_text()) | {
        "model_type": "qwen3_moe",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }
    del facts["layer_types"], facts["max_window_layers"]
    path.write_text(json.dumps(facts))
    message = refusal(config, capsys, "learner.parallel.ep=2")
    assert message == "ep * etp (2 * 1) must divide the 1 ranks of a pipeline stage"


@pytest.mark.system  # imports SGLang: seconds
@pytest.mark.skipif(not SERVE_PYTHON.exists(), reason="no serving environment in .venv-serve")
def test_a_flag_that_sglang_does_not_have(config, capsys):
    overrides = (f'generators.python="{SERVE_PYTHON}"', "generators.sglang.max-total-token=64")
    message = refusal(config, capsys, *overrides)
    assert "generators.sglang.max-total-token" in message
    assert "did you mean" in message and "max-total-tokens" in message.replace("_", "-")


def test_a_server_that_spans_nodes(config, capsys):
    spans = ("generators.tp=4", "generators.nodes_per_server=2")
    assert refusal(config, capsys, *spans) == (
        "generators.nodes_per_server (2) needs a Slurm job of as many nodes, and this is one "
        "machine; submit the run as a job, or set it to 1"
    )


def test_weights_that_are_not_there(config, capsys):
    message = refusal(config, capsys, 'model.init="pretrained"')
    assert message.startswith(f"{config.parent / 'model'}: no safetensors weights")
    assert "model.init" in message


def test_a_model_that_is_not_there(config, capsys):
    message = refusal(config, capsys, f'model.path="{config.parent / "absent"}"')
    assert message.startswith(f"{config.parent / 'absent'}")


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_parameters": None, "rope_scaling": [{"type": "yarn"}]}, "rope_scaling ([{"),
        ({"rope_parameters": None, "rope_theta": None}, "rope_theta (null) must be a number > 0"),
        ({"rope_interleaved": True}, "rope_interleaved = true"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantised weights cannot be trained"),
    ],
)
def test_a_model_configuration_that_cannot_be_right(config, capsys, change, message):
    edit_json(config.parent / "model/config.json", **change)
    assert message in refusal(config, capsys)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.safetensors"])
def test_weights_that_are_not_read_are_not_met_with_advice_to_start_from_scratch(
    config, capsys, name
):
    (config.parent / "model" / name).touch()
    message = refusal(config, capsys, 'model.init="pretrained"')
    assert name in message and "save_pretrained" in message and "random" not in message


def test_a_server_size_that_does_not_divide_the_heads(config, capsys):
    on_gpu = (
        'generators.sglang.device="cuda"',
        'model.dtype="bfloat16"',
        'learner.precision="fp32"',
    )
    assert refusal(config, capsys, "generators.tp=3", *on_gpu) == (
        "generators.tp (3) cannot cut this model in SGLang: it must divide the attention heads (4);"
        " it must divide the key/value heads (2) or be a multiple of them; it must divide the ffn "
        "size (64); it must divide the padded vocabulary (64); nearest legal: tp=2, tp=4"
    )


def test_a_template_that_refuses_a_system_message(config, capsys):
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}x"
    (config.parent / "model/chat_template.jinja").write_text(template)
    message = refusal(config, capsys, 'data.system_prompt="default"')
    assert ": no system; " in message and 'set data.system_prompt = "none"' in message


def test_a_template_that_leaves_the_system_message_out_is_warned_of(config, capsys, caplog):
    (config.parent / "model/chat_template.jinja").write_text("{{ messages[-1].content }}")
    config.write_text(config.read_text().replace('"none"', '"default"'))
    write_problems(config.parent, [problem("a", "one"), problem("b", "one " * 60)])
    with caplog.at_level("WARNING"):
        cli.main(["train", str(config)])  # and refused for its second problem
    (warning,) = caplog.messages
    assert warning.startswith('data.system_prompt ("default") is left out by the chat template')


def test_tokens_that_the_model_lacks(config, capsys):
    edit_json(config.parent / "model/config.json", vocab_size=2)
    message = refusal(config, capsys)
    assert "train.jsonl: the prompt of problem \"a\" has token id 2 ('one')" in message
    edit_json(config.parent / "model/config.json", vocab_size=64)
    pair = {"prompt": "a", "response": "one"}
    (config.parent / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    write_problems(config.parent, [problem("a", "unknown")])
    edit_json(config.parent / "model/config.json", vocab_size=2)
    message = refusal(config, capsys, f'sft.data="{config.parent / "pairs.jsonl"}"')
    assert "pairs.jsonl: pair 1 has token id 2 ('one'), and must have ids < vocab_size" in message


def test_half_a_character(config, capsys):
    write_problems(config.parent, [problem("a", "one"), problem("b", "one \ud83d")])
    message = refusal(config, capsys)
    assert message.startswith(f'{config.parent / "train.jsonl"}:2: field "problem" has half of a ')


def missing(folder: Path) -> None:
    (folder / "train.jsonl").unlink()


def empty(folder: Path) -> None:
    write_problems(folder, [])


def malformed(folder: Path) -> None:
    write_problems(folder, [problem("a", "one"), '{"id": "b", '])


def too_long(folder: Path) -> None:
    write_problems(folder, [problem("a", "one"), problem("b", "one " * 60)])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (missing, "train.jsonl: cannot be read: No such file or directory"),
        (empty, "train.jsonl: empty; expected one JSON object per line"),
        (malformed, "train.jsonl:2: not JSON: "),
        (too_long, 'problem "b" has a prompt of 60 tokens, the limit is 26: '),  # 128 - 100
    ],
)
def test_problems_that_cannot_be_used(
    config: Path, capsys: Any, spoil: Callable[[Path], None], message: str
):
    spoil(config.parent)
    assert message in refusal(config, capsys)


def test_a_port_that_is_taken(config, capsys):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert f"{port} is already in use" in refusal(config, capsys, f"generators.port={port}")


def test_a_megatron_checkpoint_is_refused_as_a_model_with_the_command_that_converts_it(
    config, tmp_path, capsys
):
    step = tmp_path / "model" / "step_000000"
    step.mkdir()
    (step / ".metadata").write_text("")
    for folder in (tmp_path / "model", step):
        message = refusal(config, capsys, f"model.path={folder}")
        assert f"{folder}: is a Megatron checkpoint" in message
        assert f"tools/convert_megatron_to_hf.py {folder} NEW_FOLDER" in message
