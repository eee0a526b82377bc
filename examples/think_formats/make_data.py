"""Write three tiny models that mark their thoughts differently: ``make_data.py OUT_DIR``.

OUT_DIR receives problems, demonstrations, and a folder for each model (untrained: no weights)::

    train.jsonl, evaluation.jsonl   {"id", "problem", "answer"}: a digit, and the digit after it
    sft.jsonl                       {"prompt", "response"}: right every second time
    own_tags/                       the policy writes <think> and </think>
    opened_by_prompt/               the chat template ends prompts with <think>
    special_tokens/                 [THINK] and [/THINK] are special tokens, which decoding drops
"""

import argparse
import json
import random
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config

NUM_PAIRS = 400
RIGHT_SHARE = 0.5
VOCAB_SIZE = 320
_SPECIAL = ("<pad>", "<eos>", "<end>", "<user>", "<assistant>")
# A turn ends with a token that is not the tokenizer's eos_token: generation_config.json names both.
_TURNS = (
    "{% for m in messages %}{{ '<' + m.role + '>' + m.content }}"
    "{% if m.role == 'assistant' %}{{ '<end>' }}{% endif %}{% endfor %}"
)
_ASKS = "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
_OPENS = "{% if add_generation_prompt %}{{ '<assistant><think>\n' }}{% endif %}"
MODELS = {
    "own_tags": {"template": _TURNS + _ASKS, "tags": ("<think>", "</think>"), "special": False},
    "opened_by_prompt": {
        "template": _TURNS + _OPENS,
        "tags": ("<think>", "</think>"),
        "special": False,
    },
    "special_tokens": {
        "template": "{# thoughts: [THINK]...[/THINK] #}" + _TURNS + _ASKS,
        "tags": ("[THINK]", "[/THINK]"),
        "special": True,
    },
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out_dir", type=Path, help="folder to write; made when missing")
    args = parser.parse_args(argv)
    write_all(args.out_dir)
    return 0


def write_all(out_dir: Path) -> None:
    """Write problems, demonstrations and the three models."""
    out_dir.mkdir(parents=True, exist_ok=True)
    problems = [{"id": str(i), "problem": str(i), "answer": str((i + 1) % 10)} for i in range(10)]
    write_lines(out_dir / "train.jsonl", problems)
    write_lines(out_dir / "evaluation.jsonl", problems)
    write_lines(out_dir / "sft.jsonl", teach(random.Random(0)))
    for name in MODELS:
        write_model(out_dir / name, name)


def teach(rng: random.Random) -> list[dict[str, str]]:
    """Answer digits, in <think> tags whatever those of the model are."""
    pairs = []
    for i in range(NUM_PAIRS):
        digit = i % 10
        answer = (digit + 1) % 10 if rng.random() < RIGHT_SHARE else rng.randrange(10)
        response = f"<think>\n{digit}, so {answer}.</think>\\boxed{{{answer}}}"
        pairs.append({"prompt": str(digit), "response": response})
    return pairs


def write_lines(path: Path, lines: Iterable[dict[str, str]]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_model(folder: Path, name: str) -> None:
    """Write configuration and tokenizer of one model."""
    tokenizer = make_tokenizer(name)
    tokenizer.save_pretrained(folder)
    eos, pad, end = tokenizer.convert_tokens_to_ids(["<eos>", "<pad>", "<end>"])
    Qwen3Config(
        architectures=["Qwen3ForCausalLM"],
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=128,
        dtype="float32",
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=pad,
    ).save_pretrained(folder)
    GenerationConfig(eos_token_id=[end, eos], pad_token_id=pad).save_pretrained(folder)


def make_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer with the tags and the chat template of a model."""
    model = MODELS[name]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(_SPECIAL))
    core.add_tokens(
        [AddedToken(tag, special=model["special"], normalized=False) for tag in model["tags"]]
    )
    # A model samples any of its ids, so each of them has to be decodable.
    core.add_special_tokens([f"<unused{i}>" for i in range(VOCAB_SIZE - core.get_vocab_size())])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        chat_template=model["template"],
        clean_up_tokenization_spaces=False,
    )


if __name__ == "__main__":
    sys.exit(main())
