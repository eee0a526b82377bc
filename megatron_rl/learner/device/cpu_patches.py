"""Patches that let megatron-core run without CUDA; each is named and checks its target.

Nothing of megatron-core or torch is changed on disk. The patches matter only in a process without
CUDA; :func:`bind_names_of_transformer_engine`, :func:`leave_latent_projections_whole` and
:func:`give_megatron_a_torch_adam` also serve GPUs without Transformer Engine and apex.
"""

import contextlib
import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from megatron_rl.learner.device.cpu_adam import FusedAdamOnTorch

# Modules that spell device="cuda" or pin_memory=True in calls of torch's factories.
_MODULES_WITH_CUDA_LITERALS = (
    "pipeline_parallel.schedules",
    "optimizer.optimizer",
    "optimizer.clip_grads",
    "optimizer.grad_scaler",
    "utils",
    "transformer.utils",
    "transformer.moe.moe_utils",
    "models.common.embeddings.rope_utils",
    "tensor_parallel.data",
    "dist_checkpointing.exchange_utils",
    "dist_checkpointing.strategies.state_dict_saver",
)
_FACTORIES = ("zeros", "ones", "empty", "tensor", "full", "arange", "empty_like", "zeros_like")


def apply_all() -> None:
    """Apply every patch; harmless when repeated, refused when CUDA is there."""
    assert not torch.cuda.is_available(), "the patches are for processes without CUDA"
    turn_off_fusing_jit()
    give_torch_cuda_a_cpu_face()
    send_cuda_factories_to_cpu()
    spell_tensor_types_as_cuda()
    use_the_cpu_generator_for_parallel_rng()
    bind_names_of_transformer_engine()
    honour_numpy_in_the_token_dispatcher()
    pad_uneven_parts_for_gloo()
    give_megatron_a_torch_adam()
    leave_latent_projections_whole()


def turn_off_fusing_jit() -> None:
    """Run Megatron's small fused functions eagerly: compiling them costs more than it gains."""
    import megatron.core.jit as jit

    _require(jit, "disable_jit_fuser")
    _require(torch.compiler, "set_stance")
    jit.disable_jit_fuser()
    # Those of modules that are imported already were decorated as something to compile.
    torch.compiler.set_stance("force_eager")


def give_torch_cuda_a_cpu_face() -> None:
    """Answer device, stream, event and generator questions of torch.cuda for the host."""
    host = torch.device("cpu")
    faces: dict[str, Any] = {
        "current_device": lambda: host,
        "synchronize": lambda *_, **__: None,
        "set_device": lambda *_: None,
        "get_rng_state": lambda *_, **__: torch.get_rng_state(),
        "set_rng_state": lambda state, *_, **__: torch.set_rng_state(state),
        "manual_seed": torch.manual_seed,
        "current_stream": lambda *_: _NullStream(),
        "default_stream": lambda *_: _NullStream(),
        "stream": lambda *_: contextlib.nullcontext(),
        "Stream": _NullStream,
        "Event": _NullEvent,
    }
    for name, face in faces.items():
        _require(torch.cuda, name)
        setattr(torch.cuda, name, face)


def send_cuda_factories_to_cpu() -> None:
    """Show Megatron's modules a view of torch whose factories ignore "cuda" and pinning.

    A view per module rather than a TorchFunctionMode: a mode is thread-local and would miss the
    threads that write checkpoints.
    """
    view = _TorchOnHost()
    for name in _MODULES_WITH_CUDA_LITERALS:
        module = importlib.import_module(f"megatron.core.{name}")
        _require(module, "torch")
        module.torch = view  # type: ignore[attr-defined]


def spell_tensor_types_as_cuda() -> None:
    """Make Tensor.cuda() the identity and Tensor.type() say "torch.cuda.X".

    Megatron's optimisers compare type strings to tell parameter dtypes apart.
    """
    if getattr(torch.Tensor.type, "_spells_cuda", False):
        return
    original = torch.Tensor.type

    @functools.wraps(original)
    def spelled(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        if args or kwargs or result.startswith("torch.cuda."):
            return result
        return result.replace("torch.", "torch.cuda.", 1)

    spelled._spells_cuda = True  # type: ignore[attr-defined]
    torch.Tensor.type = spelled  # type: ignore[method-assign]
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]


def use_the_cpu_generator_for_parallel_rng() -> None:
    """Let Megatron's RNG tracker fork the host's generator."""
    import megatron.core.tensor_parallel.random as random

    def get_state(device: Any = None, clone: bool = False, graph_safe: bool = False) -> Any:
        state = torch.get_rng_state()
        return state.clone() if clone else state

    def set_state(new_state: Any, device: Any = -1, graph_safe: bool = False) -> None:
        torch.set_rng_state(new_state)

    _require(random, "_get_cuda_rng_state")
    _require(random, "_set_cuda_rng_state")
    random._get_cuda_rng_state = get_state
    random._set_cuda_rng_state = set_state


def bind_names_of_transformer_engine() -> None:
    """Bind names that 0.16.1 uses unconditionally but binds only with Transformer Engine.

    Steps aside, name by name, where they exist.
    """
    import megatron.core.tensor_parallel.random as random
    import megatron.core.transformer.moe.moe_utils as moe_utils

    if not hasattr(moe_utils, "te_general_gemm"):
        moe_utils.te_general_gemm = None
    if not hasattr(random, "FP8GlobalStateManager"):
        random.FP8GlobalStateManager = _NoFp8
        random.activation_recompute_forward = lambda **_: contextlib.nullcontext()
        random.fp8_autocast = lambda **_: contextlib.nullcontext()


def honour_numpy_in_the_token_dispatcher() -> None:
    """Convert expert split sizes to numpy although they are on the host already."""
    import megatron.core.transformer.moe.token_dispatcher as dispatcher

    def move(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
        return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor

    _require(dispatcher, "maybe_move_tensor_to_cpu")
    dispatcher.maybe_move_tensor_to_cpu = move


def pad_uneven_parts_for_gloo() -> None:
    """Gather and scatter parts of different sizes as equal ones, which is all that gloo knows.

    Ranks that share an expert hold different numbers of its tokens.
    """
    import megatron.core.tensor_parallel.mappings as mappings

    for name in ("_gather_along_first_dim", "_reduce_scatter_along_first_dim"):
        _require(mappings, name)
    even_gather, even_scatter = (
        mappings._gather_along_first_dim,
        mappings._reduce_scatter_along_first_dim,
    )
    if getattr(even_gather, "_pads", False):
        return

    def gather(part: torch.Tensor, group: Any, sizes: Any = None, *rest: Any) -> Any:
        if sizes is None or group.size() == 1:
            return even_gather(part, group, sizes, *rest)
        longest = max(1, *sizes)
        whole = even_gather(_padded(part, longest), group)
        parts = zip(whole.split(longest), sizes, strict=True)
        return torch.cat([padded[:size] for padded, size in parts])

    def scatter(whole: torch.Tensor, group: Any, sizes: Any = None, *rest: Any) -> Any:
        if sizes is None or group.size() == 1:
            return even_scatter(whole, group, sizes, *rest)
        longest = max(1, *sizes)
        padded = torch.cat([_padded(part, longest) for part in whole.split(sizes)])
        return even_scatter(padded, group)[: sizes[group.rank()]].contiguous()

    gather._pads = True  # type: ignore[attr-defined]
    mappings._gather_along_first_dim = gather
    mappings._reduce_scatter_along_first_dim = scatter


def give_megatron_a_torch_adam() -> None:
    """Let DistributedOptimizer take the code path and checkpoint layout of FusedAdam."""
    import megatron.core.optimizer as optimizer
    import megatron.core.optimizer.distrib_optimizer as distributed

    for module, name in (
        (optimizer, "Adam"),
        (optimizer, "USING_PYTORCH_OPTIMIZER"),
        (distributed, "Adam"),
        (distributed, "HAVE_APEX_OR_TE"),
        (distributed, "USING_APEX_OPTIMIZER"),
    ):
        _require(module, name)
    optimizer.Adam = distributed.Adam = FusedAdamOnTorch
    optimizer.USING_PYTORCH_OPTIMIZER = False
    distributed.HAVE_APEX_OR_TE = distributed.USING_APEX_OPTIMIZER = True


def leave_latent_projections_whole() -> None:
    """Let latent attention have a projection that is not cut, for which it knows TELinear alone.

    Steps aside where that is a class: without Transformer Engine, Megatron has a mock by the name.
    """
    import megatron.core.transformer.multi_latent_attention as latent

    from megatron_rl.learner.device.torch_layers import TorchDuplicatedLinear

    _require(latent, "TELinear")
    if not isinstance(latent.TELinear, type):
        latent.TELinear = TorchDuplicatedLinear


def _padded(part: torch.Tensor, length: int) -> torch.Tensor:
    return torch.cat([part, part.new_zeros(length - len(part), *part.shape[1:])])


class _NullEvent:
    def __init__(self, *_: Any, **__: Any) -> None: ...
    def record(self, *_: Any) -> None: ...
    def wait(self, *_: Any) -> None: ...
    def synchronize(self) -> None: ...
    def query(self) -> bool:
        return True

    def elapsed_time(self, _: Any) -> float:
        return 0.0


class _NullStream:
    device = torch.device("cpu")

    def __init__(self, *_: Any, **__: Any) -> None: ...
    def wait_stream(self, *_: Any) -> None: ...
    def wait_event(self, *_: Any) -> None: ...
    def synchronize(self) -> None: ...
    def query(self) -> bool:
        return True

    def record_event(self, event: Any = None) -> Any:
        return _NullEvent() if event is None else event


class _NoFp8:
    @staticmethod
    def is_fp8_enabled() -> bool:
        return False

    @staticmethod
    def get_fp8_recipe() -> None:
        return None


class _TorchOnHost:
    """torch, except that its factories create on the host and never pin."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(torch, name)
        return _on_host(value) if name in _FACTORIES else value


def _on_host(factory: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(factory)
    def create(*args: Any, **kwargs: Any) -> Any:
        if str(kwargs.get("device")).startswith("cuda"):
            kwargs["device"] = "cpu"
        kwargs.pop("pin_memory", None)
        return factory(*args, **kwargs)

    return create


def _require(module: ModuleType, name: str) -> None:
    assert hasattr(module, name), (
        f"{module.__name__}.{name} is gone: this megatron-core or torch needs another patch set"
    )
