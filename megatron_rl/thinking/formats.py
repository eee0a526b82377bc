"""Think formats: pairs of tags, the channels of harmony, or none at all.

==========================  =====================================================================
``<think>..</think>``       Qwen3, QwQ, DeepSeek-R1 and their kin; the format of arXiv:2506.10910
``[THINK]..[/THINK]``       Magistral from 2507 on, where the tags are special tokens
``<|START_THINKING|>``..    Command A Reasoning
the triangles of Kimi       U+25C1 ``think`` U+25B7
harmony                     gpt-oss: channels of messages instead of tags
==========================  =====================================================================
"""

from dataclasses import dataclass
from typing import Literal

from megatron_rl.thinking import harmony


@dataclass(frozen=True, kw_only=True, slots=True)
class Tags:
    """The two tags around the thoughts; neither is a part of the other."""

    open: str
    close: str

    def __str__(self) -> str:
        """Return them as people write them."""
        return f"{self.open}...{self.close}"


ThinkFormat = Tags | Literal["none", "harmony"]
"""How thoughts are marked. With "none" a response is all answer, whatever the prompt ends with."""

THINK = Tags(open="<think>", close="</think>")
"""Tags of files of demonstrations, whatever those of the model are."""
KNOWN_TAGS = (
    THINK,
    Tags(open="[THINK]", close="[/THINK]"),
    Tags(open="\u25c1think\u25b7", close="\u25c1/think\u25b7"),
    Tags(open="<|START_THINKING|>", close="<|END_THINKING|>"),
)
"""Tags that are recognised where a chat template writes or reads them."""


def marks_of(think_format: ThinkFormat) -> tuple[str, ...]:
    """Return the texts that mark thoughts, none of which is a part of another."""
    if isinstance(think_format, Tags):
        return (think_format.open, think_format.close)
    return harmony.MARKS if think_format == "harmony" else ()
