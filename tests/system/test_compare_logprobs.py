"""tools/compare_logprobs.py on tiny models: the server and the learner agree on every token."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_model import write_tiny_model
from tiny_run import HANGS_AFTER_S
from transformers import MistralConfig, MistralForCausalLM

REPOSITORY = Path(__file__).parents[2]
PYTHON = REPOSITORY / ".venv-serve" / "bin" / "python"
TOLERANCE = 1e-4

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not PYTHON.exists(), reason="no serving environment in .venv-serve"),
]


def write_tiny_mistral(folder: Path, *, max_positions: int = 512) -> Path:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,  # heads * head_dim is not hidden_size, as in Mistral Nemo and Small
        max_position_embeddings=max_positions,
        sliding_window=None,
        initializer_range=0.1,
    )
    write_tiny_model(folder, seed=0)  # for the tokenizer
    MistralForCausalLM(config).save_pretrained(folder)
    return folder


def write_short_mistral(folder: Path) -> Path:
    """Write a model of 64 positions, a quarter of the tool's context."""
    return write_tiny_mistral(folder, max_positions=64)


@pytest.mark.parametrize(
    ("write_model", "options"),
    [
        pytest.param(
            lambda folder: write_tiny_model(folder, seed=0),
            ["--temperature", "1.0"],
            marks=pytest.mark.slow,  # the runs of test_train.py compare theirs at every step
        ),
        # Reported log-probs are those after the division by the temperature, as the learner's are,
        # and of a sampler that chooses among few tokens.
        (write_tiny_mistral, ["--temperature", "0.7", "--top-p", "0.8"]),
        pytest.param(
            write_tiny_mistral,
            ["--temperature", "1.3", "--top-k", "7", "--min-p", "0.1"],
            marks=pytest.mark.slow,
        ),
        (
            write_short_mistral,
            [
                "--rope-scaling",
                '{"type": "yarn", "factor": 4.0, "mscale": 2.0, "mscale_all_dim": 0.5}',
            ],
        ),
        pytest.param(
            write_short_mistral,
            ["--rope-scaling", '{"type": "llama3", "factor": 4.0}'],
            marks=pytest.mark.slow,
        ),
    ],
    ids=[
        "qwen3 at temperature 1",
        "mistral, top_p",
        "mistral, top_k and min_p",
        "mistral beyond its positions, yarn",
        "mistral beyond its positions, llama3",
    ],
)
def test_every_reported_logprob_is_the_learners_before_during_and_after_an_update(
    write_model, options, tmp_path
):
    model = write_model(tmp_path / "model")
    tool = subprocess.run(
        [
            *(sys.executable, REPOSITORY / "tools" / "compare_logprobs.py", model, *options),
            *("--run-dir", tmp_path / "run", "--tolerance", str(TOLERANCE)),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER_S,
    )
    assert tool.returncode == 0, tool.stdout + tool.stderr
    agreeing = re.findall(r"^(\w.*?)  +\d+ +\d+ +(\S+) +\S+  agrees$", tool.stdout, re.MULTILINE)
    assert [title for title, _ in agreeing] == [
        "as the server loaded the weights",
        "before the update",
        "in flight, tokens of the old weights",
        "after the update, the same prompts",
    ]
    assert all(float(largest) <= TOLERANCE for _, largest in agreeing)
    # The update changed what the comparison sees, or it would show nothing.
    (moved,) = re.findall(r"moved the first samples +\d+ +\d+ +\S+ +(\S+)", tool.stdout)
    assert float(moved) > 100 * TOLERANCE
