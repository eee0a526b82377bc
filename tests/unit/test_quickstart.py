"""What README.md and docs/quickstart.md tell a newcomer to write is accepted."""

import re
from pathlib import Path

from megatron_rl.cli import main
from megatron_rl.config import load_config
from megatron_rl.data.responses import load_responses
from tests.unit.data.problem_reading import load_problems

ROOT = Path(__file__).parents[2]
QUICKSTART = (ROOT / "docs/quickstart.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_every_table_of_the_quickstart_goes_with_the_run_of_the_readme(tmp_path: Path):
    (run,) = blocks((ROOT / "README.md").read_text(), "toml")
    tables = blocks(QUICKSTART, "toml")
    assert len(tables) >= 4
    for table in ["", *tables]:
        (tmp_path / "run.toml").write_text(run + table)
        load_config(tmp_path / "run.toml")


def test_its_problems_and_its_response_are_read(tmp_path: Path):
    problems, responses = blocks(QUICKSTART, "json")
    (tmp_path / "problems.jsonl").write_text(problems)
    (tmp_path / "responses.jsonl").write_text(responses)
    kinds = {"math", "code"}
    assert {p.kind for p in load_problems(tmp_path / "problems.jsonl", kinds=kinds)} == kinds
    (response,) = load_responses(tmp_path / "responses.jsonl", kinds=kinds)
    assert response.problem.answer == "144"


def test_the_plan_of_one_node_uses_all_of_its_gpus(tmp_path: Path, capsys):
    (run,) = blocks((ROOT / "README.md").read_text(), "toml")
    (node,) = [table for table in blocks(QUICKSTART, "toml") if "num_processes" in table]
    (tmp_path / "run.toml").write_text(run + node)
    model = f"model.path={ROOT / 'tests/released/Llama-3.1-8B'}"
    words = ["--nodes", "1", "--gpus-per-node", "8", "--set", model]
    assert main(["plan", str(tmp_path / "run.toml"), *words]) == 0
    assert "GPUs in use: 8 of 8" in capsys.readouterr().out
