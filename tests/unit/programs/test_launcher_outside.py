"""The launcher of a job whose programs run in images: its own environment has no torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, Qwen3Config

pytestmark = pytest.mark.lengthy

# A package that is None in sys.modules is neither found nor imported.
BARE = """
import sys
sys.modules |= dict.fromkeys(("torch", "megatron", "transformer_engine", "tensorboard"))
"""


def run_without_torch(code: str, *arguments: str) -> str:
    """Run code where torch and what needs it are missing; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", BARE + code, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A run in images, whose learner computes in FP8 and hands settings to Megatron."""
    model = tmp_path / "model"
    sizes = {"hidden_size": 128, "intermediate_size": 128, "vocab_size": 128}
    Qwen3Config(
        **sizes, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4, head_dim=32
    ).save_pretrained(model)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<eos>": 0, "one": 1}, unk_token="<eos>")),
        eos_token="<eos>",
        chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}",
    )
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.save_pretrained(model)
    problem = {"id": "a", "problem": "one", "answer": "2"}
    (tmp_path / "train.jsonl").write_text(json.dumps(problem) + "\n")
    path = tmp_path / "run.toml"
    path.write_text(f"""
run_dir = "{tmp_path / "run"}"
num_steps = 2
model = {{path = "{model}", init = "random"}}
data = {{train = "{tmp_path / "train.jsonl"}"}}
generators = {{sampling = {{max_new_tokens = 100}}, sglang = {{log-level = "info"}}}}
learner = {{precision = "fp8", megatron = {{recompute_granularity = "full"}}}}
launch = {{container = {{runtime = "pyxis", learner_image = "/images/learn.sqsh"}}}}
""")
    return path


@pytest.mark.parametrize("program", ["job", "submit"])
def test_the_launcher_imports_without_torch(program):
    run_without_torch(f"import megatron_rl.programs.{program}")


def test_a_run_in_images_is_validated_where_their_packages_are_missing(config):
    run_without_torch(
        "import pathlib\n"
        "from megatron_rl.config import load_config\n"
        "from megatron_rl.programs.checks.validate_run import validate_run\n"
        "validate_run(load_config(pathlib.Path(sys.argv[1]), []), is_outside=True)\n",
        str(config),
    )


def test_names_shapes_and_types_of_weights_are_read_without_torch(tmp_path):
    weights = {"a": torch.zeros(2, 3, dtype=torch.bfloat16), "b": torch.ones(4)}
    save_file(weights, tmp_path / "model.safetensors")
    printed = run_without_torch(
        "import pathlib\n"
        "from megatron_rl.hf_folder import WeightReader\n"
        "print(sorted(WeightReader(pathlib.Path(sys.argv[1])).shapes_and_dtypes().items()))",
        str(tmp_path),
    )
    assert printed == "[('a', ((2, 3), 'BF16')), ('b', ((4,), 'F32'))]\n"
