"""Patch of SGLang's CPU build for comparisons: block-FP8 layers as on a Hopper GPU, but for GEMMs.

SGLang loads block-FP8 weights on a CPU only to pack them for AMX, with kernels that a machine may
not have. With this they are kept as its Triton path for GPUs keeps them: loaders, parameters and
updates are SGLang's own. Products are those of the weights that SGLang's own function makes of
values and scales, in 16 bits as its AMX kernels compute them. Python runs this file by itself in a
server that has its folder on PYTHONPATH, after the stand-ins.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import types

FP8 = "sglang.srt.layers.quantization.fp8"


def keep_weights_and_multiply_them_dequantised(fp8: types.ModuleType) -> None:
    """Choose what is chosen on a GPU; put torch in the place of two Triton kernels."""
    import torch
    from sglang.srt.layers.quantization.fp8_utils import block_quant_dequant

    assert fp8._is_cpu and not fp8._is_cpu_amx_available, "this machine has the kernels"
    fp8._is_cpu = False

    def linear(
        input: torch.Tensor,
        weight: torch.Tensor,
        block_size: list[int],
        weight_scale: torch.Tensor,
        input_scale: None = None,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        assert input_scale is None
        plain = block_quant_dequant(weight, weight_scale, block_size, input.dtype)
        return torch.nn.functional.linear(input, plain, bias)

    fp8.dispatch_w8a8_block_fp8_linear = lambda *args, **kwargs: linear

    def apply(self, layer, dispatch_output):
        # Late: these import the module that is being patched.
        from sglang.srt.layers.moe.fused_moe_native import moe_forward_native
        from sglang.srt.layers.moe.token_dispatcher import StandardCombineInput

        x = dispatch_output.hidden_states
        plain = types.SimpleNamespace(
            **{
                name: block_quant_dequant(
                    getattr(layer, name),
                    getattr(layer, f"{name}_scale_inv"),
                    self.weight_block_size,
                    x.dtype,
                )
                for name in ("w13_weight", "w2_weight")
            },
            num_experts=layer.num_experts,
        )
        output = moe_forward_native(plain, x, dispatch_output.topk_output, self.moe_runner_config)
        return StandardCombineInput(hidden_states=output)

    fp8.Fp8MoEMethod.apply = apply


class _AfterImport(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != FP8:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None, f"{FP8} is gone"
        execute = spec.loader.exec_module

        def execute_and_patch(module: types.ModuleType) -> None:
            execute(module)
            keep_weights_and_multiply_them_dequantised(module)

        spec.loader.exec_module = execute_and_patch  # type: ignore[method-assign]
        return spec


def _run_next_sitecustomize() -> None:
    """Run the one that follows on the path: Python runs the first, and the stand-ins this one."""
    here = os.path.dirname(os.path.abspath(__file__))
    folders = [os.path.abspath(folder) for folder in sys.path]
    later = folders[folders.index(here) + 1 :]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", later)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


sys.meta_path.insert(0, _AfterImport())
_run_next_sitecustomize()
