"""The demo's data: reproducible, disjoint, solvable, short, and readable by its own tokenizer."""

import importlib
import json
import random
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.lengthy

DEMO = Path(__file__).parents[3] / "examples" / "demo"


@pytest.fixture(scope="module")
def demo():
    """Import the demo's scripts the way Python does when one of them is run."""
    sys.path.insert(0, str(DEMO))
    yield {name: importlib.import_module(name) for name in ("make_data", "word_problems")}
    sys.path.remove(str(DEMO))


@pytest.fixture(scope="module")
def out_dir(demo, tmp_path_factory):
    out_dir = tmp_path_factory.mktemp("demo")
    assert demo["make_data"].main([str(out_dir), "--seed", "3"]) == 0
    return out_dir


@pytest.fixture(scope="module")
def tokenizer(out_dir):
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(out_dir / "model")


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def numbers(text):
    """All whole numbers of a question, in order: its operands."""
    return tuple(int(word.strip(".,?")) for word in text.split() if word.strip(".,?").isdigit())


def test_the_same_seed_gives_the_same_bytes(demo, out_dir, tmp_path):
    demo["make_data"].main([str(tmp_path), "--seed", "3"])
    files = [path.relative_to(out_dir) for path in out_dir.rglob("*") if path.is_file()]
    assert {"train.jsonl", "sft.jsonl", "evaluation.jsonl"} <= {str(path) for path in files}
    for path in files:
        assert (tmp_path / path).read_bytes() == (out_dir / path).read_bytes(), path


def test_another_seed_gives_other_problems(demo):
    draw = demo["make_data"].draw_problems
    drawn = [draw(random.Random(seed), 20, avoid=frozenset()) for seed in (3, 4)]
    assert drawn[0] != drawn[1]


def test_no_operands_of_the_evaluation_occur_in_training(out_dir):
    held_out = {numbers(line["problem"]) for line in read(out_dir / "evaluation.jsonl")}
    trained = {numbers(line["problem"]) for line in read(out_dir / "train.jsonl")}
    taught = {numbers(line["prompt"]) for line in read(out_dir / "sft.jsonl")}
    assert not held_out & (trained | taught)


def test_the_answer_of_every_problem_is_the_sum_of_its_numbers(out_dir):
    for name in ("train.jsonl", "evaluation.jsonl"):
        for line in read(out_dir / name):
            assert int(line["answer"]) == sum(numbers(line["problem"]))


def test_careful_work_carries_into_the_next_column(demo):
    words = demo["word_problems"]
    problem = words.WordProblem(text="", things="coins", x=47, y=85)
    # 7 + 5 = 12, so 4 + 8 + 1 = 13: 132
    assert words.careful_response(problem) == (
        "<think>47+85, column by column. Ones 7+5+0=12. Tens 4+8+1=13. So 132.</think>"
        "\\boxed{132} coins."
    )


def test_careful_work_is_right_and_hasty_work_seldom(demo):
    words, rng = demo["word_problems"], random.Random(0)
    num_lucky = 0
    for _ in range(1000):
        problem = words.draw_problem(rng, avoid=frozenset())
        boxed = f"\\boxed{{{problem.answer}}}"
        assert boxed in words.careful_response(problem)
        num_lucky += boxed in words.hasty_response(problem, rng)
    assert num_lucky < 100  # one guess in 2 * LARGEST_MISTAKE + 1 is right


def test_the_tokenizer_gives_back_every_text(tokenizer, out_dir):
    texts = [line["response"] for line in read(out_dir / "sft.jsonl")[:200]]
    for text in [*texts, "  two  spaces,\na line \u00e9 \u6f22 1234 \\boxed{x}"]:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_markers_are_one_token_and_digits_stand_alone(tokenizer):
    for text in ("<think>", "</think>", "\\boxed{", "7"):
        assert len(tokenizer.encode(text, add_special_tokens=False)) == 1
    assert len(tokenizer.encode("1234", add_special_tokens=False)) == 4


def test_every_id_of_the_model_is_known_to_the_tokenizer(tokenizer, out_dir):
    config = json.loads((out_dir / "model" / "config.json").read_text())
    assert len(tokenizer) == config["vocab_size"] == 512
    assert None not in tokenizer.convert_ids_to_tokens(range(512))


def test_prompts_and_responses_fit_the_stated_lengths(tokenizer, out_dir):
    config = json.loads((out_dir / "model" / "config.json").read_text())
    for line in read(out_dir / "sft.jsonl"):
        chat = [{"role": "user", "content": line["prompt"]}]
        prompt = tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        response = tokenizer.encode(line["response"], add_special_tokens=False)
        assert len(prompt) <= 40
        assert len(response) < 128  # the end-of-sequence token included
        assert len(prompt) + len(response) < config["max_position_embeddings"]


def test_the_chat_template_marks_each_role_and_ends_the_answer(tokenizer):
    chat = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "<system>S<user>U<assistant>"
    chat.append({"role": "assistant", "content": "A"})
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    assert text == "<system>S<user>U<assistant>A<eos>"
