"""Stacked tensors, which hold all experts of a layer: taken apart and put together.

An expert's parameter is made of its part of such a tensor, and the tensor of the parts of all
experts, wherever they are. Weight rules of one tensor follow each other, so that one is held at a
time.
"""

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from megatron_rl.conversion.families import WeightRule


class PartReader:
    """Reader of what parameters are made of; it keeps a stacked tensor for all experts."""

    def __init__(self, read: Callable[[str], Tensor]) -> None:
        self._read = read
        self._name: str | None = None
        self._stacked: Tensor | None = None

    def __call__(self, rule: WeightRule) -> list[Tensor]:
        """Return the rule's tensors; of a stacked one, the part of the rule's expert."""
        if not rule.is_stacked:
            return [self._read(name) for name in rule.huggingface]
        (name,) = rule.huggingface
        if name != self._name:
            self._name = self._stacked = None  # before the next one is read
            self._stacked, self._name = self._read(name), name
        assert self._stacked is not None
        return [self._stacked[rule.expert]]


class Stacks:
    """Stacked tensors being put together from the parts that rules yield in order."""

    def __init__(self, num_experts: int) -> None:
        self._num_experts = num_experts
        self._stack: Tensor | None = None

    def completed(
        self, rule: WeightRule, tensors: Sequence[Tensor]
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield (Hugging Face name, whole tensor) of what is complete with a rule's tensors."""
        if not rule.is_stacked:
            yield from zip(rule.huggingface, tensors, strict=True)
            return
        (name,), (part,), expert = rule.huggingface, tensors, rule.expert
        if expert == 0:
            self._stack = part.new_empty(self._num_experts, *part.shape)
        assert self._stack is not None and expert is not None, rule
        self._stack[expert] = part
        if expert == self._num_experts - 1:
            whole, self._stack = self._stack, None
            yield name, whole
