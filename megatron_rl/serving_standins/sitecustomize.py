"""Stand-ins for the CUDA-only packages that sglang imports, for machines without CUDA.

Python runs this file by itself in any process that has its folder on PYTHONPATH; only CPU servers
do. Nothing of sglang is changed, and installed packages are used as they are: the finder is asked
last, and never for a part of a package that exists. A stand-in answers every import and attribute
with another stand-in and works as any decorator; it computes nothing.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import types

PACKAGES = frozenset({"triton", "torchvision", "sgl_kernel"})


class _ClassStandIn(type):
    """A class whose attributes are strings: enough for enumerations read at import time."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return f"{cls.__name__}.{name}"


class _ModuleStandIn(types.ModuleType):
    """A package in which every name exists: capitalised ones are classes, others are modules."""

    # Newer than any version sglang asks for, so that no fallback for an old one is chosen.
    __version__ = "9.9.9"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        qualified = f"{self.__name__}.{name}"
        if name[0].isupper():
            value: object = _ClassStandIn(
                name,
                (),
                {"__module__": self.__name__, "__init__": lambda self, *args, **kwargs: None},
            )
        else:
            value = sys.modules.get(qualified) or _ModuleStandIn(qualified)
        setattr(self, name, value)
        return value

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Act as a decorator, bare (``@triton.jit``) or with arguments."""
        if len(args) == 1 and callable(args[0]) and not kwargs:
            return args[0]
        return lambda function: function


class _StandInFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, name: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        package = name.partition(".")[0]
        if package not in PACKAGES:
            return None
        if package != name and not isinstance(sys.modules[package], _ModuleStandIn):
            return None  # the package is installed: its missing part stays missing
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _ModuleStandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Do nothing: a stand-in has no code."""


def _run_next_sitecustomize() -> None:
    """Run the next sitecustomize on the path: Python itself runs only the first that it finds."""
    here = os.path.dirname(os.path.abspath(__file__))
    elsewhere = [folder for folder in sys.path if os.path.abspath(folder) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", elsewhere)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


sys.meta_path.append(_StandInFinder())
_run_next_sitecustomize()
