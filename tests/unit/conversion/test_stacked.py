"""Tensors of all experts of a layer are taken apart, and put together again, one at a time."""

import torch
from family_configs import GPT_OSS

from megatron_rl.conversion.families import model_spec, weight_rules
from megatron_rl.conversion.families.shapes import tensor_shapes
from megatron_rl.conversion.layouts import to_huggingface, to_megatron
from megatron_rl.conversion.stacked import PartReader, Stacks

SPEC = model_spec(GPT_OSS)
TENSORS = {
    name: torch.randn(shape, generator=torch.Generator().manual_seed(index))
    for index, (name, shape) in enumerate(tensor_shapes(SPEC))
}


def test_a_tensor_is_read_once_for_all_of_its_experts():
    read: list[str] = []

    def read_and_note(name):
        read.append(name)
        return TENSORS[name]

    tensors_of = PartReader(read_and_note)
    for rule in weight_rules(SPEC):
        tensors = tensors_of(rule)
        if rule.is_stacked:
            assert torch.equal(tensors[0], TENSORS[rule.huggingface[0]][rule.expert])
    assert read == list(TENSORS)
    assert sum(".experts." in name for name in read) == 2 * 4  # layers, weights and biases


def test_parameters_become_the_tensors_that_they_were_made_of():
    tensors_of, stacks, found = PartReader(TENSORS.__getitem__), Stacks(SPEC.num_experts), {}
    sizes = {
        "num_groups": SPEC.num_groups,
        "head_dim": SPEC.head_dim,
        "interleaved_dim": SPEC.interleaved_dim,
    }
    for rule in weight_rules(SPEC):
        whole = to_megatron(rule.layout, tensors_of(rule), tp_size=1, **sizes)
        if rule.expert is not None and rule.megatron.endswith("linear_fc1.weight"):
            assert whole.shape == (2 * SPEC.expert_ffn_size, SPEC.hidden_size)
        tensors = to_huggingface(rule.layout, whole, vocab_size=SPEC.vocab_size, **sizes)
        found |= stacks.completed(rule, tensors)
    assert list(found) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert torch.equal(found[name], tensor), name
