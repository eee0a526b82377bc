"""Patch of SGLang's CPU build for comparisons: prompts of latent attention computed as tokens are.

SGLang computes attention over the tokens it generates on latents, and over a prompt on keys and
values. Its attention for CPUs (``torch_native``) takes both from the cache, which holds latents, so
a prompt ends the server. On latents it can do both. Python runs this file by itself in a server
that has its folder on PYTHONPATH, after the stand-ins.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types

HANDLERS = "sglang.srt.models.deepseek_common.attention_backend_handler"


def compute_prompts_on_latents(handlers: types.ModuleType) -> None:
    """Register for ``torch_native`` what SGLang chooses for a prompt of which a part is cached."""
    registry = handlers.AttentionBackendRegistry
    assert "torch_native" not in registry._handlers, "this SGLang has a handler: drop the patch"
    registry.register("torch_native", handlers._dispatch_mla_subtype)


class _AfterImport(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != HANDLERS:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None, f"{HANDLERS} is gone"
        execute = spec.loader.exec_module

        def execute_and_patch(module: types.ModuleType) -> None:
            execute(module)
            compute_prompts_on_latents(module)

        spec.loader.exec_module = execute_and_patch  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _AfterImport())
