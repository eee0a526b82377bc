"""Tokenizers with chat templates of the shapes of released models; a byte is a token.

Each has the added tokens of its model, special or not as there, and the parts of its template that
decide how a prompt ends and a turn ends. Token texts are shortened to ASCII where only their place
matters.
"""

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

KIMI = ("\u25c1think\u25b7", "\u25c1/think\u25b7")
_IM = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
_DEEPSEEK = ("<|begin|>", "<|User|>", "<|Assistant|>", "<|eos|>")
_HARMONY = (
    *("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>"),
    *("<|return|>", "<|call|>", "<|endoftext|>"),
)
# Qwen3 also takes the thoughts out of earlier turns, which is where it names </think>.
_QWEN_TURNS = (
    "{% for m in messages %}{% set content = m.content %}"
    "{% if m.role == 'assistant' and '</think>' in content %}"
    "{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}{% endfor %}"
)
_DEEPSEEK_TURNS = (
    "{{ '<|begin|>' }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'user' %}{{ '<|User|>' + m.content }}"
    "{% else %}{{ '<|Assistant|>' + m.content.split('</think>')[-1] + '<|eos|>' }}{% endif %}"
    "{% endfor %}"
)
_MISTRAL_TURNS = (
    "{{ '<s>' }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ '[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]' }}"
    "{% elif m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}"
    "{% else %}{{ m.content + '</s>' }}{% endif %}{% endfor %}"
)
_HARMONY_TURNS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|return|>' }}"
    "{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)


def _asks(text: str) -> str:
    return "{% if add_generation_prompt %}{{ '" + text + "' }}{% endif %}"


_QWEN_HYBRID = (
    _QWEN_TURNS
    + _asks("<|im_start|>assistant\n")
    + "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}"
)
_THINK, _SPECIAL_THINK = ("<think>", "</think>"), ("[THINK]", "[/THINK]")
_SHAPES: dict[str, dict[str, Any]] = {
    "plain": {"template": "{% for m in messages %}{{ m.content }}{% endfor %}" + _asks("=")},
    "qwen3": {"template": _QWEN_HYBRID, "special": _IM, "added": _THINK},
    "qwen3-thinking-2507": {
        "template": _QWEN_TURNS + _asks("<|im_start|>assistant\n<think>\n"),
        "special": _IM,
        "added": _THINK,
    },
    "r1-old": {
        "template": _DEEPSEEK_TURNS + _asks("<|Assistant|>"),
        "special": _DEEPSEEK,
        "added": _THINK,
    },
    "r1-new": {
        "template": _DEEPSEEK_TURNS + _asks("<|Assistant|><think>\n"),
        "special": _DEEPSEEK,
        "added": _THINK,
    },
    # A tokenizer without the tags, as of a model that was distilled into another family.
    "r1-in-text": {
        "template": _DEEPSEEK_TURNS + _asks("<|Assistant|><think>\n"),
        "special": _DEEPSEEK,
    },
    "magistral": {
        "template": "{# thoughts are in [THINK]...[/THINK] #}" + _MISTRAL_TURNS,
        "special": (
            *("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
            *_SPECIAL_THINK,
        ),
    },
    "gpt-oss": {"template": _HARMONY_TURNS, "special": _HARMONY},
    # Its tags are text here, and the prompt writes one of them: no template of a release.
    "kimi": {
        "template": _QWEN_TURNS + _asks("<|im_start|>assistant\n" + KIMI[0]),
        "special": _IM,
    },
}
SHAPES = tuple(_SHAPES)


def think_tokenizer(shape: str) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a shape, with its chat template."""
    parts = _SHAPES[shape]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    special = ("<eos>", *(parts["special"] if "special" in parts else ()))
    core.add_special_tokens([AddedToken(text, normalized=False) for text in special])
    added = parts["added"] if "added" in parts else ()
    core.add_tokens([AddedToken(text, normalized=False) for text in added])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<eos>",
        chat_template=parts["template"],
        clean_up_tokenization_spaces=False,
    )


def prompt_of(tokenizer: Any, *, problem: str = "1+1?", system: str = "", **kwargs: Any) -> Any:
    """Return the token ids of a prompt."""
    chat = [{"role": "system", "content": system}] if system else []
    return tuple(
        tokenizer.apply_chat_template(
            [*chat, {"role": "user", "content": problem}],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=False,
            **kwargs,
        )
    )


def ids_of(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Return the token ids of a completion."""
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def spelled(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Return the token ids of a text, byte by byte, so that no part of it is an added token."""
    return tuple(i for c in text for i in tokenizer.encode(c, add_special_tokens=False))
