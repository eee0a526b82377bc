"""Copies of views are recorded so that the same copies of real tensors do what the loader does."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recorded_models import Model, numbered, recorded, replay

from megatron_rl.conversion.resharding.server_map import (
    ServerMap,
    UnmappableError,
    rectangles,
)
from megatron_rl.serving_plugin.shard_receiver.recording import record


def default_weight_loader(param: torch.Tensor, loaded_weight: torch.Tensor) -> None:
    """SGLang's, word for word."""
    if param.numel() == 1 and loaded_weight.numel() == 1:
        param.data.fill_(loaded_weight.item())
    else:
        assert param.size() == loaded_weight.size(), (
            f"Attempted to load weight ({loaded_weight.size()}) into parameter ({param.size()})"
        )
        param.data.copy_(loaded_weight)


def of_vocabulary(model, _name, tensor):
    """SGLang's rank 1 of 2, of 5 rows of which 4 are on rank 0."""
    tensor = tensor.narrow(0, 4, 1)
    model.w[: tensor.shape[0]].data.copy_(tensor)
    model.w[tensor.shape[0] :].data.fill_(0)


def as_bytes_of_its_own(model, _name, tensor):
    assert tensor.is_contiguous() and not tensor.is_floating_point() and tensor.element_size() == 1
    model.w.data.copy_(tensor.to(model.w.device, non_blocking=True))


def twice(model, _name, tensor):
    for parameter in (model.v, model.w):
        parameter.data.copy_(tensor)


def zeros(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


LOADERS = {
    "whole": (lambda m, _, t: default_weight_loader(m.w, t), {"w": zeros(4, 6)}, numbered(4, 6)),
    "one dimension": (lambda m, _, t: default_weight_loader(m.w, t), {"w": zeros(6)}, numbered(6)),
    "narrow": (
        lambda m, _, t: m.w.data.narrow(0, 2, 2).copy_(t.narrow(1, 3, 3)),
        {"w": zeros(4, 3)},
        numbered(2, 6),
    ),
    "chunk": (lambda m, _, t: m.w.data.copy_(t.chunk(3)[1]), {"w": zeros(2, 4)}, numbered(6, 4)),
    "split with sizes": (
        lambda m, _, t: m.w.data.copy_(t.split_with_sizes([1, 2, 3])[1]),
        {"w": zeros(2, 4)},
        numbered(6, 4),
    ),
    "index": (lambda m, _, t: m.w.data[2].copy_(t[1]), {"w": zeros(3, 4)}, numbered(2, 4)),
    "step": (lambda m, _, t: m.w.data[0::2].copy_(t[1::2]), {"w": zeros(4, 4)}, numbered(4, 4)),
    "transpose": (lambda m, _, t: m.w.data.copy_(t.t()), {"w": zeros(3, 5)}, numbered(5, 3)),
    "transposed parameter": (
        lambda m, _, t: m.w.data[1].T.copy_(t),
        {"w": zeros(2, 3, 5)},
        numbered(5, 3),
    ),
    "transposed and contiguous": (
        lambda m, _, t: m.w.data.copy_(t.t().contiguous()),
        {"w": zeros(3, 5)},
        numbered(5, 3),
    ),
    "more dimensions": (
        lambda m, _, t: m.w.data.view(2, 3, 4).copy_(t.view(3, 2, 4).transpose(0, 1)),
        {"w": zeros(6, 4)},
        numbered(6, 4),
    ),
    "unflattened, permuted, of one part": (
        lambda m, _, t: m.w.data.copy_(t.unflatten(0, (2, 3)).permute(2, 0, 1)[:, 1]),
        {"w": zeros(4, 3)},
        numbered(6, 4),
    ),
    "assignment": (lambda m, _, t: m.w.data.__setitem__(1, t), {"w": zeros(2, 3)}, numbered(3)),
    "assignment of a slice": (
        lambda m, _, t: m.w.data.__setitem__((slice(None), slice(1, 3)), t),
        {"w": zeros(2, 3)},
        numbered(2, 2),
    ),
    "assignment without leading ones": (
        lambda m, _, t: m.w.data.__setitem__(1, t),
        {"w": zeros(2, 3)},
        numbered(1, 3),
    ),
    "scalar into an element": (
        lambda m, _, t: m.w.data.__setitem__(2, t),
        {"w": zeros(4)},
        numbered(1).view(()),
    ),
    "scalar given a shape": (
        lambda m, _, t: m.w.data.copy_(t.reshape(1)),
        {"w": zeros(1)},
        numbered(1).view(()),
    ),
    "copy that casts": (
        lambda m, _, t: default_weight_loader(m.w, t),
        {"w": zeros(3, 5, dtype=torch.bfloat16)},
        numbered(3, 5) / 7,
    ),
    "copy that widens": (
        lambda m, _, t: default_weight_loader(m.w, t),
        {"w": zeros(3, 5)},
        numbered(3, 5, dtype=torch.bfloat16),
    ),
    "whole numbers": (
        as_bytes_of_its_own,
        {"w": zeros(3, 5, dtype=torch.uint8)},
        numbered(3, 5, dtype=torch.uint8),
    ),
    "move first": (
        lambda m, _, t: m.w.data.copy_(t.cpu().detach().to("cpu").to(m.w).to(torch.float32)),
        {"w": zeros(3, 5)},
        numbered(3, 5),
    ),
    "padding": (of_vocabulary, {"w": zeros(4, 3)}, numbered(5, 3)),
    "two parameters": (twice, {"v": zeros(2, 3), "w": zeros(2, 3)}, numbered(2, 3)),
    "rows one by one": (
        lambda m, _, t: [m.w.data[i].copy_(row) for i, row in enumerate(t)],
        {"w": zeros(3, 2)},
        numbered(3, 2),
    ),
    "attributes and prints": (
        lambda m, _, t: f"{t} {t.dim()} {t.dtype}" and m.w.data[: len(t)].copy_(t),
        {"w": zeros(3, 2)},
        numbered(3, 2),
    ),
}


def test_a_tensor_that_the_loader_clears_is_padding_that_nobody_sends():
    """SGLang's gpt-oss does so to a bias that the first rank adds, on the others."""
    model = Model(lambda m, _, t: m.w.data.copy_(t.zero_()), w=numbered(2, 3))
    recording = record(model, [("x", "float32", [2, 3])])
    assert (recording.copies, recording.unmapped) == ([], {})
    assert torch.equal(model.w, zeros(2, 3))


@pytest.mark.parametrize("case", LOADERS)
def test_replayed_copies_do_what_the_loader_does(case):
    load, parameters, tensor = LOADERS[case]
    model = Model(load, **{name: zero.clone() for name, zero in parameters.items()})
    recording = recorded(model, x=tensor)
    assert recording.unmapped == {}
    assert len(recording.copies) >= 1
    replay(model, recording, x=tensor)
    expected = Model(load, **{name: zero.clone() for name, zero in parameters.items()})
    expected.load_weights([("x", tensor)])
    assert any(bool(p.any()) for p in expected.parameters())
    for name in parameters:
        assert torch.equal(getattr(model, name), getattr(expected, name)), name


def test_a_tensor_of_another_rank_is_neither_mapped_nor_unmapped():
    def of_this_rank(model, name, tensor):
        if tensor.device.type == "cpu" or name == "other":
            return
        model.w.data.copy_(tensor)

    model = Model(of_this_rank, w=numbered(2, 3))
    recording = recorded(model, other=numbered(2, 3), mine=numbered(2, 3))
    assert [copy.tensor for copy in recording.copies] == ["mine"]
    assert recording.unmapped == {}


def test_an_empty_part_is_nothing_to_copy():
    model = Model(lambda m, _, t: m.w.data[:0].copy_(t.narrow(0, 2, 0)), w=numbered(2, 3))
    recording = recorded(model, x=numbered(2, 3))
    assert recording.copies == [] and recording.unmapped == {}


def test_buffers_are_recorded_like_parameters():
    model = Model(lambda m, _, t: m.scale.copy_(t), w=numbered(2))
    model.register_buffer("scale", numbered(4))
    recording = recorded(model, x=numbered(4))
    assert [copy.parameter for copy in recording.copies] == ["scale"]


def test_parameters_in_one_memory_are_told_apart():
    memory = numbered(20)

    def load(model, name, tensor):
        getattr(model, name).data.copy_(tensor)

    model = Model(load, a=memory[2:8].view(2, 3), b=memory[8:20].view(3, 4))
    recording = recorded(model, a=numbered(2, 3), b=numbered(3, 4))
    assert [(c.parameter, c.to_offset) for c in recording.copies] == [("a", 0), ("b", 0)]


def test_copies_in_several_threads_are_all_recorded():
    barrier = threading.Barrier(4)

    def in_threads(model, weights):
        def copy(name, tensor):
            barrier.wait(timeout=30)
            for row in range(8):
                getattr(model, name).data[row].copy_(tensor[row])

        with ThreadPoolExecutor(4) as pool:
            for future in [pool.submit(copy, *weight) for weight in weights]:
                future.result()

    names = ["a", "b", "c", "d"]
    model = Model(in_threads, at_once=True, **{name: zeros(8, 4) for name in names})
    tensors = {name: numbered(8, 4) * (1 + index) for index, name in enumerate(names)}
    recording = recorded(model, **tensors)
    assert recording.unmapped == {} and len(recording.copies) == 32
    replay(model, recording, **tensors)
    assert all(torch.equal(getattr(model, name), tensors[name]) for name in names)


def test_recording_under_inference_mode_is_the_same():
    model = Model(LOADERS["transpose"][0], w=zeros(3, 5))
    with torch.inference_mode():
        recording = record(model, [("x", "float32", [5, 3])])
    assert recording == recorded(model, x=numbered(5, 3))


@st.composite
def steps(draw, shape):
    """Draw views one after another, as functions, of a tensor of this shape."""
    chain, sample = [], torch.zeros(shape, device="meta")
    for kind in draw(st.lists(st.sampled_from(["narrow", "transpose", "index", "split", "step"]))):
        if not sample.dim():
            break
        dim = draw(st.integers(0, sample.dim() - 1))
        size = sample.shape[dim]
        if kind == "narrow":
            start = draw(st.integers(0, size - 1))
            arguments = (dim, start, draw(st.integers(1, size - start)))
            step = ("narrow", arguments)
        elif kind == "transpose":
            step = ("transpose", (dim, draw(st.integers(0, sample.dim() - 1))))
        elif kind == "index":
            step = ("select", (dim, draw(st.integers(0, size - 1))))
        elif kind == "split" and size % 2 == 0:
            step = ("unflatten", (dim, (2, size // 2)))
        elif kind == "step" and size > 1 and dim == 0:
            step = ("__getitem__", (slice(draw(st.integers(0, 1)), None, 2),))
        else:
            continue
        chain.append(step)
        sample = getattr(sample, step[0])(*step[1])
    return chain


def view(tensor, chain):
    for name, arguments in chain:
        tensor = getattr(tensor, name)(*arguments)
    return tensor


@given(st.data())
def test_any_view_into_any_place_is_recorded_and_cut_into_rectangles(data):
    shape = data.draw(st.sampled_from([(12,), (4, 6), (6, 4), (8, 8), (3, 5)]))
    chain = data.draw(steps(shape))
    part = view(numbered(*shape), chain)
    # A parameter that is larger than the part in every dimension, and its dimensions in any order.
    sizes = [size + data.draw(st.integers(0, 2)) for size in part.shape]
    starts = [
        data.draw(st.integers(0, whole - size))
        for whole, size in zip(sizes, part.shape, strict=True)
    ]
    order = data.draw(st.permutations(range(len(sizes))))
    back = [order.index(dim) for dim in range(len(sizes))]

    def load(model, _name, tensor):
        target = model.w.data.permute(back) if back else model.w.data[0]
        for dim, (start, size) in enumerate(zip(starts, part.shape, strict=True)):
            target = target.narrow(dim, start, size)
        target.copy_(view(tensor, chain))

    expected, replayed, cut = (
        Model(load, w=zeros(*(sizes[dim] for dim in order)) if order else zeros(1))
        for _ in range(3)
    )
    expected.load_weights([("x", numbered(*shape))])
    recording = recorded(replayed, x=numbered(*shape))
    assert recording.unmapped == {}
    replay(replayed, recording, x=numbered(*shape))
    assert torch.equal(replayed.w, expected.w)
    try:
        draw_rectangles(cut.w.data, recording, numbered(*shape))
    except UnmappableError:
        return
    assert torch.equal(cut.w, expected.w)


def draw_rectangles(parameter, recording, tensor):
    """Copy what the learner's half makes of a recording: parts of rows."""
    num_cols = tensor.shape[1] if tensor.dim() == 2 else 1
    (copy,) = ServerMap.from_json(json.dumps(recording.copies)).copies
    for part in rectangles(copy, num_cols=num_cols):
        rows = slice(part.row, part.row + part.rows)
        source = tensor.view(-1, num_cols)[rows, part.col : part.col + part.cols]
        target = parameter.as_strided(
            (part.rows, part.cols), (part.to_row_stride, part.to_col_stride), part.to_offset
        )
        target.copy_(source)
