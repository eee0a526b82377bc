"""Demonstrations written in the think format in force, whatever tags their file has."""

from megatron_rl.thinking.formats import THINK, Tags, ThinkFormat
from megatron_rl.thinking.harmony import write_harmony
from megatron_rl.thinking.text_reader import read_text
from megatron_rl.types import PromptThought, Response


def write_demonstration(
    text: str, think_format: ThinkFormat, prompt_thought: PromptThought, *, prompt_end: str
) -> str:
    """Return the response that the policy is to imitate after a prompt.

    What the prompt has written already is left out: the opening tag and the blanks after it, or, if
    the thought is closed, the thoughts. A text in neither ``<think>`` tags nor those in force
    stays as it is, and so does every text where "none" are in force.

    Args:
        text: demonstration in ``<think>`` tags, or in the format in force.
        think_format: the format in force.
        prompt_thought: state in which the prompt leaves the thought.
        prompt_end: text with which the prompt ends.
    """
    response = None if think_format == "none" else _read(text, think_format)
    if response is None:
        return text
    assert response.thoughts is not None, "read as if the prompt left the thought unopened"
    thoughts, answer = response.thoughts, response.answer
    blanks = prompt_end[len(prompt_end.rstrip()) :]
    if prompt_thought == "opened":
        thoughts = thoughts.removeprefix(blanks)
    if prompt_thought == "closed":
        answer = answer.removeprefix(blanks)
    if think_format == "harmony":
        return write_harmony(thoughts, answer, prompt_thought, end=prompt_end)
    if prompt_thought == "closed":
        return answer
    assert isinstance(think_format, Tags), think_format
    opening = "" if prompt_thought == "opened" else think_format.open
    return f"{opening}{thoughts}{think_format.close}{answer}"


def _read(text: str, think_format: ThinkFormat) -> Response | None:
    readings = (read_text(text, candidate, "unopened") for candidate in (THINK, think_format))
    return next((response for response in readings if response.fault is None), None)
