"""A server rank's model whose loaders cut and fuse as SGLang's do, for tests of resharding."""

from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_rl.conversion.families import WeightRule, weight_rules
from megatron_rl.conversion.families.shapes import tensor_shapes
from megatron_rl.model_spec import ModelSpec

VOCAB_MULTIPLE = 64


@dataclass(frozen=True, kw_only=True)
class ServerLayout:
    """One rank of a server."""

    tp: int
    rank: int
    ep: int = 1
    transposes_experts: bool = False
    swaps_gate_and_up: bool = False


class ServerModel(torch.nn.Module):
    """Parameters of one rank, zero at first, and ``load_weights`` of Hugging Face tensors."""

    def __init__(self, spec: ModelSpec, layout: ServerLayout) -> None:
        super().__init__()
        self.spec, self.layout = spec, layout
        self.shapes = dict(tensor_shapes(spec))
        self.rules: dict[str, tuple[WeightRule, int]] = {}
        self.places: dict[str, Tensor] = {}
        for rule in weight_rules(spec):
            self._make(rule)

    def load_weights(self, weights) -> None:
        for name, tensor in weights:
            rule, index = self.rules[name]
            self._load(rule, index, tensor)

    def _make(self, rule: WeightRule) -> None:
        for index, name in enumerate(rule.huggingface):
            self.rules[name] = (rule, index)
        shapes = [self.shapes[name] for name in rule.huggingface]
        if rule.expert is not None:
            self._make_experts(rule, shapes)
            return
        whole = shapes[0]
        if rule.layout == "qkv":
            rows = sum(self._head_rows(shape[0], index) for index, shape in enumerate(shapes))
            local = (rows, *whole[1:])
        elif rule.layout == "gate_up":
            local = (2 * whole[0] // self.layout.tp, *whole[1:])
        elif rule.layout == "fused_gate_up":
            local = (whole[0] // self.layout.tp, *whole[1:])
        elif rule.layout == "row" and len(whole) == 2:
            local = (whole[0], whole[1] // self.layout.tp)
        elif rule.layout == "column":
            local = (whole[0] // self.layout.tp, *whole[1:])
        elif rule.layout == "vocab":
            local = (self._vocab_rows(whole[0]), whole[1])
        else:
            local = whole
        self._register(rule.megatron, torch.zeros(local))

    def _make_experts(self, rule: WeightRule, shapes) -> None:
        name = self._experts_of(rule)
        if name in dict(self.named_parameters()):
            return
        if rule.is_stacked:
            self._register(
                name, torch.zeros_like(self._part_of_stack(rule, torch.zeros(shapes[0])))
            )
        else:
            rows, cols = shapes[0]
            tp = self.layout.tp // self.layout.ep
            local = (2 * rows // tp, cols) if rule.layout == "gate_up" else (rows, cols // tp)
            if self.layout.transposes_experts:
                local = local[::-1]
            count = self.spec.num_experts // self.layout.ep
            self._register(name, torch.zeros(count, *local))

    def _part_of_stack(self, rule: WeightRule, tensor: Tensor) -> Tensor:
        """Return this rank's part of the experts of a layer, as SGLang's gpt-oss takes it."""
        count = self.spec.num_experts // self.layout.ep
        tp, rank = self.layout.tp // self.layout.ep, self.layout.rank // self.layout.ep
        if rule.layout == "row" and rank:  # a bias, which the first rank adds
            tensor = tensor.zero_()
        part = tensor.narrow(0, self.layout.rank % self.layout.ep * count, count)
        if rule.layout == "row":
            return part
        if tensor.dim() == 3:
            part = part.transpose(-2, -1)
        dim = 2 if rule.layout == "row_of_inputs" else 1
        part = part.chunk(tp, dim=dim)[rank]
        is_turned = self.layout.transposes_experts and tensor.dim() == 3
        return part.transpose(-2, -1) if is_turned else part

    def _register(self, name: str, tensor: Tensor) -> None:
        self.register_parameter(name.replace(".", "_"), torch.nn.Parameter(tensor, False))

    def _experts_of(self, rule: WeightRule) -> str:
        return rule.megatron.replace(f"local_experts.{rule.expert}.", "").replace(".", "_")

    def _head_rows(self, rows: int, index: int) -> int:
        """Rows of q, or of k and v, of which each rank has a whole head at least."""
        if index == 0:
            return rows // self.layout.tp
        return max(rows // self.layout.tp, self.spec.head_dim)

    def _vocab_rows(self, rows: int) -> int:
        padded = -(-rows // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
        while padded % self.layout.tp:
            padded += VOCAB_MULTIPLE
        return padded // self.layout.tp

    def _load(self, rule: WeightRule, index: int, tensor: Tensor) -> None:
        rank, tp = self.layout.rank, self.layout.tp
        if rule.expert is not None:
            self._load_expert(rule, index, tensor)
            return
        parameter = getattr(self, rule.megatron.replace(".", "_")).data
        if rule.layout == "qkv":
            heights = [
                self._head_rows(self.shapes[n][0], i) for i, n in enumerate(rule.huggingface)
            ]
            size = heights[index]
            # Where there are more ranks than heads, several hold the same one.
            shared = tp // (tensor.shape[0] // size) if index else 1
            source = tensor.narrow(0, rank // shared * size, size)
            parameter.narrow(0, sum(heights[:index]), size).copy_(source)
        elif rule.layout == "gate_up":
            size = tensor.shape[0] // tp
            parameter.narrow(0, index * size, size).copy_(tensor.narrow(0, rank * size, size))
        elif rule.layout == "fused_gate_up":
            size = tensor.shape[0] // 2 // tp
            for half in (0, 1):
                source = tensor.narrow(0, half * size * tp + rank * size, size)
                parameter.narrow(0, half * size, size).copy_(source)
        elif rule.layout == "row" and tensor.dim() == 2:
            size = tensor.shape[1] // tp
            parameter.copy_(tensor[:, rank * size : (rank + 1) * size])
        elif rule.layout == "column":
            parameter.copy_(tensor.chunk(tp)[rank])
        elif rule.layout == "vocab":
            height = self._vocab_rows(tensor.shape[0])
            start = min(rank * height, tensor.shape[0])
            size = min(height, tensor.shape[0] - start)
            parameter[:size].copy_(tensor.narrow(0, start, size))
            parameter[size:].fill_(0)
        else:
            parameter.copy_(tensor)

    def _load_expert(self, rule: WeightRule, index: int, tensor: Tensor) -> None:
        assert rule.expert is not None
        if rule.is_stacked:
            getattr(self, self._experts_of(rule)).data.copy_(self._part_of_stack(rule, tensor))
            return
        per_rank = self.spec.num_experts // self.layout.ep
        if rule.expert // per_rank != self.layout.rank % self.layout.ep:
            return
        parameter = getattr(self, self._experts_of(rule)).data[rule.expert % per_rank]
        if self.layout.transposes_experts:
            parameter = parameter.T
        tp, rank = self.layout.tp // self.layout.ep, self.layout.rank // self.layout.ep
        if rule.layout == "gate_up":
            size = tensor.shape[0] // tp
            half = 1 - index if self.layout.swaps_gate_and_up else index
            target = parameter.narrow(0, half * size, size)
            target.copy_(tensor.narrow(0, rank * size, size))
        else:
            size = tensor.shape[1] // tp
            parameter.copy_(tensor.narrow(1, rank * size, size))
