"""Patch of SGLang's CPU build for tests: data-parallel attention generates with ``torch_native``.

SGLang pads the batches of the replicas to one size and asks the attention for the length of a
sequence that is padding. Its attention for CPUs without AMX does not say; the other says 1. Python
runs this file by itself in a server that has its folder on PYTHONPATH, after the stand-ins; what
the weight checker needs on CPUs is run along.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import runpy
import sys
import types
from pathlib import Path

BACKEND = "sglang.srt.layers.attention.torch_native_backend"


def say_the_length_of_padding(module: types.ModuleType) -> None:
    """Give the attention what the attention with AMX has."""
    attention = module.TorchNativeAttnBackend
    name = "get_cpu_graph_seq_len_fill_value"
    assert not hasattr(attention, name), "this SGLang says it: drop the patch"
    setattr(attention, name, lambda self: 1)


class _AfterImport(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != BACKEND:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None, f"{BACKEND} is gone"
        execute = spec.loader.exec_module

        def execute_and_patch(module: types.ModuleType) -> None:
            execute(module)
            say_the_length_of_padding(module)

        spec.loader.exec_module = execute_and_patch  # type: ignore[method-assign]
        return spec


TESTS = Path(__file__).parents[2]
sys.meta_path.insert(0, _AfterImport())
runpy.run_path(str(TESTS / "system" / "weight_checker_on_cpu" / "sitecustomize.py"))
