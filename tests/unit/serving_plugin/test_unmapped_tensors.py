"""A loader that does more than copy: what it did it with is named, and no parameter is changed."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from recorded_models import Model, numbered, recorded
from test_recorded_copies import default_weight_loader

from megatron_rl.serving_plugin.shard_receiver.recording import record


def through_a_buffer(model, _name, tensor):
    buffer = torch.empty(2, 3)
    buffer.copy_(tensor)
    model.w.data.copy_(buffer)


def through_a_buffer_without_memory(model, _name, tensor):
    buffer = torch.empty_like(tensor)
    buffer.copy_(tensor)
    model.w.data.copy_(buffer)


def scaled_in_place(model, _name, tensor):
    tensor.mul_(2)
    model.w.data.copy_(tensor)


def view_scaled_in_place(model, _name, tensor):
    tensor[1].data.add_(1)
    model.w.data.copy_(tensor)


def overwritten_in_part(model, _name, tensor):
    tensor[0] = 1.0
    model.w.data.copy_(tensor)


def copied_then_cleared(model, _name, tensor):
    model.w.data.copy_(tensor)
    model.w.data.copy_(tensor.zero_())


def copied_and_then_scaled(model, _name, tensor):
    model.w.data.copy_(tensor)
    model.w.data.mul_(tensor)


def replaced(model, _name, tensor):
    model.w = torch.nn.Parameter(tensor, requires_grad=False)


def replaced_in_the_table(model, _name, tensor):
    del model.w
    model.register_parameter("w", torch.nn.Parameter(tensor * 2, requires_grad=False))


def replaced_by_other_memory(model, _name, tensor):
    model.w = torch.nn.Parameter(torch.empty(2, 3), requires_grad=False)
    model.w.data.copy_(tensor)


def moved_to_other_memory_after_a_copy(model, _name, tensor):
    model.w.data.copy_(tensor)
    model.w.data = model.w.data.clone()


def given_another_shape(model, _name, tensor):
    model.w.data = model.w.data.view(3, 2)
    model.w.data.copy_(tensor.view(3, 2))


def swallowed(model, _name, tensor):
    try:
        model.w.data.fill_(tensor[0, 0].item())
    except RuntimeError:
        model.w.data.copy_(tensor)


def kept_in_an_attribute(model, _name, tensor):
    model.w.data.copy_(tensor)
    model.last = tensor


def kept_in_a_list(model, _name, tensor):
    model.w.data.copy_(tensor)
    model.load.kept = [tensor[0]]


BYTES = torch.uint8
COMPUTES = "computes with it"
PROGRAMS = {
    "cat": (lambda m, _, t: m.w.data.copy_(torch.cat([t[:1], t[1:]])), COMPUTES),
    "stack": (lambda m, _, t: m.w.data.copy_(torch.stack([t[0], t[1]])), COMPUTES),
    "another type": (lambda m, _, t: m.w.data.copy_(t.half()), COMPUTES),
    "type of another": (lambda m, _, t: m.w.data.copy_(t.to(torch.zeros(1).half())), "NotImpl"),
    "type by keyword": (lambda m, _, t: m.w.data.copy_(t.to(dtype=torch.half)), COMPUTES),
    "arithmetic": (lambda m, _, t: m.w.data.copy_(t * 2 + 1), COMPUTES),
    "clone": (lambda m, _, t: m.w.data.copy_(t.clone()), COMPUTES),
    "addition to the parameter": (lambda m, _, t: m.w.data.add_(t), COMPUTES),
    "scatter": (
        lambda m, _, t: m.w.data.scatter_(0, torch.zeros(2, 3, dtype=torch.long), t),
        COMPUTES,
    ),
    "masked scatter": (lambda m, _, t: m.w.data.masked_scatter_(m.w > 2, t), COMPUTES),
    "fill with an element": (lambda m, _, t: m.w.data.fill_(t[0, 0]), COMPUTES),
    "copy then addition": (lambda m, _, t: (m.w.data.copy_(t), m.w.data.add_(t)), COMPUTES),
    "in place": (scaled_in_place, COMPUTES),
    "in place, of a view": (view_scaled_in_place, COMPUTES),
    "in place, of a part": (overwritten_in_part, COMPUTES),
    "in part cleared": (lambda m, _, t: (t[0].zero_(), m.w.data.copy_(t)), COMPUTES),
    "copied, then cleared": (copied_then_cleared, "several to one place"),
    "scaled by it": (copied_and_then_scaled, COMPUTES),
    "item": (lambda m, _, t: m.w.data.fill_(t[0, 0].item()), "RuntimeError"),
    "list": (lambda m, _, t: m.w.data.copy_(torch.tensor(t.tolist())), "NotImplementedError"),
    "numpy": (lambda m, _, t: m.w.data.copy_(torch.from_numpy(t.numpy())), "TypeError"),
    "a look at the values": (
        lambda m, _, t: m.w.data.copy_(t) if bool((t > 0).all()) else None,
        "computes with it, by",
    ),
    "equality": (lambda m, _, t: torch.equal(t, m.w) or m.w.data.copy_(t), "NotImplementedError"),
    "foreach": (lambda m, _, t: torch._foreach_copy_([m.w.data], [t]), "NotImplementedError"),
    "index copy": (lambda m, _, t: m.w.data.index_copy_(0, torch.tensor([0, 1]), t), "Error"),
    "where": (lambda m, _, t: m.w.data.copy_(torch.where(m.w > 2, t, m.w)), "Error"),
    "advanced index": (
        lambda m, _, t: m.w.data.__setitem__(torch.tensor([1, 0]), t),
        "to where no parameter is",
    ),
    "buffer": (through_a_buffer, "to where no parameter is"),
    "buffer without memory": (through_a_buffer_without_memory, COMPUTES),
    "bytes of it": (
        lambda m, _, t: m.w.data.view(BYTES).copy_(t.view(BYTES)),
        "takes it for torch.uint8",
    ),
    "bytes of the parameter": (
        lambda m, _, t: m.w.data.view(torch.int32).copy_(t),
        "takes its parameter for torch.int32",
    ),
    "spread": (lambda m, _, t: m.w.data.copy_(t[0]), "spreads it"),
    "spread by a view": (lambda m, _, t: m.w.data.copy_(t[:1].expand(2, 3)), "spreads it"),
    "wrong shape": (lambda m, _, t: m.w.data.copy_(t.t()), "RuntimeError"),
    "too large": (lambda m, _, t: m.w.data[0].copy_(t), "RuntimeError"),
    "data of the parameter": (lambda m, _, t: setattr(m.w, "data", t), "RuntimeError"),
    "parameter replaced": (replaced, "replaces a parameter by it"),
    "parameter registered anew": (replaced_in_the_table, "replaces a parameter by it"),
    "other memory": (replaced_by_other_memory, "to where no parameter is"),
    "other memory after a copy": (moved_to_other_memory_after_a_copy, "changes its parameter"),
    "another shape": (given_another_shape, "changes its parameter"),
    "swallowed error": (swallowed, "RuntimeError"),
    "kept": (kept_in_an_attribute, "keeps it"),
    "kept in a list": (kept_in_a_list, "keeps it"),
    "assertion": (lambda m, _, t: default_weight_loader(m.w[0], t), "AssertionError"),
}


@pytest.mark.parametrize("case", PROGRAMS)
def test_what_cannot_be_copied_is_named_with_its_reason(case):
    load, reason = PROGRAMS[case]
    model = Model(load, w=numbered(2, 3) / 3)
    recording = recorded(model, x=numbered(2, 3))
    assert recording.copies == []
    assert list(recording.unmapped) == ["x"]
    assert reason in recording.unmapped["x"]


def test_a_parameter_of_one_element_is_filled_with_a_number():
    model = Model(lambda m, _, t: default_weight_loader(m.w, t), w=numbered(1))
    assert "item" in recorded(model, x=numbered(1)).unmapped["x"]


def test_a_tensor_joined_from_two_names_both():
    def load(model, weights):
        found = dict(weights)
        model.w.data.copy_(torch.cat([found["a"], found["b"]]))
        model.v.data.copy_(found["c"])

    model = Model(load, at_once=True, w=numbered(4, 3), v=numbered(2))
    recording = recorded(model, a=numbered(3, 3), b=numbered(1, 3), c=numbered(2))
    assert sorted(recording.unmapped) == ["a", "b"]
    assert [copy.tensor for copy in recording.copies] == ["c"]


def fused(model, weights):
    """Do as SGLang's DeepSeek: q_a and kv_a wait for each other, then their join is copied."""
    waiting = {}
    for name, tensor in weights:
        if name.startswith(("q_a", "kv_a")):
            waiting[name] = tensor
            index = name[-1]
            if f"q_a{index}" in waiting and f"kv_a{index}" in waiting:
                joined = torch.cat([waiting.pop(f"q_a{index}"), waiting.pop(f"kv_a{index}")])
                getattr(model, f"w{index}").data.copy_(joined)
        elif name.startswith("scalar"):
            default_weight_loader(getattr(model, name), tensor)
        elif not name.startswith("other"):
            getattr(model, name).data.copy_(tensor)


FUSED = {
    "norm": numbered(3),
    "q_a0": numbered(2, 3),
    "other_rank": numbered(2, 3),
    "kv_a0": numbered(1, 3),
    "kv_a1": numbered(1, 3),
    "q_a1": numbered(2, 3),
}


def fused_model(**more):
    return Model(
        fused, at_once=True, w0=numbered(3, 3), w1=numbered(3, 3), norm=numbered(3), **more
    )


def test_a_pair_that_is_kept_and_joined_is_not_left_out():
    recording = recorded(fused_model(), **FUSED)
    assert sorted(recording.unmapped) == ["kv_a0", "kv_a1", "q_a0", "q_a1"]
    assert [copy.tensor for copy in recording.copies] == ["norm"]


@pytest.mark.parametrize("where", range(len(FUSED) + 1))
@pytest.mark.parametrize("stops", ["scalar", "missing"])
def test_nor_is_it_where_another_tensor_stops_the_loader(stops, where):
    names = list(FUSED)
    names.insert(where, stops)
    tensors = {name: FUSED[name] if name in FUSED else numbered(1) for name in names}
    recording = recorded(fused_model(scalar=numbered(1)), **tensors)
    assert sorted(recording.unmapped) == sorted(["kv_a0", "kv_a1", "q_a0", "q_a1", stops])
    assert [copy.tensor for copy in recording.copies] == ["norm"]


def test_nor_is_half_of_it_where_the_other_half_stops_the_loader():
    def load(model, weights):
        waiting = {}
        for name, tensor in weights:
            if name == "scale":
                tensor = tensor.item()
            waiting[name] = tensor
            if waiting.keys() == {"weight", "scale"}:
                model.w.data.copy_(waiting["weight"] * waiting["scale"])

    model = Model(load, at_once=True, w=numbered(2, 3))
    recording = recorded(model, weight=numbered(2, 3), scale=numbered(1), last=numbered(1))
    assert recording.copies == []
    assert {"weight", "scale"} <= recording.unmapped.keys()
    assert "keeps it for others" in recording.unmapped["weight"]


@pytest.mark.parametrize("takes", [iter, list], ids=["one by one", "all before the first"])
def test_only_the_tensor_that_stops_the_loader_is_unmapped(takes):
    def load(model, weights):
        for name, tensor in takes(weights):
            getattr(model, name).data.copy_(tensor)

    names = [f"p{i}" for i in range(20)]
    model = Model(load, at_once=True, **{name: numbered(3) for name in names})
    tensors = {name: numbered(3) for name in [*names[:7], "absent", "nor_this", *names[7:]]}
    recording = recorded(model, **tensors)
    assert sorted(recording.unmapped) == ["absent", "nor_this"]
    assert all("AttributeError" in reason for reason in recording.unmapped.values())
    assert [copy.tensor for copy in recording.copies] == names


def test_a_tensor_that_is_half_copied_when_it_stops_the_loader_is_not_mapped():
    def load(model, _name, tensor):
        model.w.data[0].copy_(tensor[0])
        assert tensor.shape[1] == 4
        model.w.data[1].copy_(tensor[1])

    recording = recorded(Model(load, w=numbered(2, 3)), x=numbered(2, 3))
    assert recording.copies == [] and list(recording.unmapped) == ["x"]


def test_a_loader_that_needs_what_cannot_be_loaded_has_nothing_mapped():
    def load(model, weights):
        names = []
        for name, tensor in weights:
            assert name != "bad"
            names.append(name)
            getattr(model, name).data.copy_(tensor)
        assert names == ["a", "bad", "b"]

    model = Model(load, at_once=True, a=numbered(3), b=numbered(3))
    recording = recorded(model, a=numbered(3), bad=numbered(3), b=numbered(3))
    assert recording.copies == [] and sorted(recording.unmapped) == ["a", "b", "bad"]


def test_a_loader_that_many_tensors_stop_is_given_up():
    calls = []

    def load(model, weights):
        calls.append(1)
        for name, _ in weights:
            raise KeyError(name)

    tensors = {f"t{i}": numbered(1) for i in range(200)}
    recording = recorded(Model(load, at_once=True, w=numbered(1)), **tensors)
    assert recording.copies == [] and recording.unmapped.keys() == tensors.keys()
    assert len(calls) < 100


def test_what_stops_one_of_several_threads_is_unmapped():
    def in_threads(model, weights):
        def copy(name, tensor):
            barrier.wait(timeout=30)
            default_weight_loader(getattr(model, name), tensor)

        weights = list(weights)
        barrier = threading.Barrier(len(weights))
        with ThreadPoolExecutor(4) as pool:
            for future in [pool.submit(copy, *weight) for weight in weights]:
                future.result()

    model = Model(in_threads, at_once=True, a=numbered(3), b=numbered(1), c=numbered(2, 3))
    recording = recorded(model, a=numbered(3), b=numbered(1), c=numbered(2, 3))
    assert list(recording.unmapped) == ["b"]
    assert sorted(copy.tensor for copy in recording.copies) == ["a", "c"]


def test_two_tensors_for_one_place_are_not_mapped():
    model = Model(lambda m, _, t: m.w.data.copy_(t), w=numbered(3), v=numbered(3))
    recording = recorded(model, a=numbered(3), b=numbered(3))
    assert recording.copies == []
    assert sorted(recording.unmapped) == ["a", "b"]
    assert "several to one place" in recording.unmapped["a"]


def test_a_parameter_that_is_added_to_is_not_mapped_from_another_tensor():
    def load(model, name, tensor):
        target = model.w.data
        target.add_(tensor) if name == "delta" else target.copy_(tensor)

    recording = recorded(Model(load, w=numbered(3)), base=numbered(3), delta=numbered(3))
    assert recording.copies == [] and sorted(recording.unmapped) == ["base", "delta"]


def test_shared_parameters_and_attributes_are_put_back():
    def load(model, _name, tensor):
        model.head.w = torch.nn.Parameter(tensor, requires_grad=False)
        model.derived = tensor * 2

    model = Model(load, w=numbered(2))
    model.head = torch.nn.Module()
    model.head.w = model.w
    derived = model.derived = numbered(5)
    assert list(recorded(model, x=numbered(2)).unmapped) == ["x"]
    assert model.head.w is model.w and model.derived is derived


def test_empty_parameters_and_those_without_memory_are_nobodys_home():
    def load(model, _name, tensor):
        torch.empty_like(tensor).copy_(tensor)

    model = Model(load, w=torch.empty(0), v=torch.empty(3, device="meta"))
    recording = record(model, [("x", "float32", [3])])
    assert recording.copies == [] and list(recording.unmapped) == ["x"]
