"""Set what must be set before torch and transformers are imported, how examples are drawn, and the
order of files: with two workers, a long one that starts last keeps one of them waiting.
"""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A machine with few cores collapses when every process spins one thread per core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A store of torch's asks for the name of whoever connects, and waits five seconds for each question
# that a resolver loses: longer than some tests may take.
os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")

# The same examples everywhere, and no verdict that depends on how busy the machine is.
# HYPOTHESIS_PROFILE=default draws new ones.
settings.register_profile(
    "suite",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

_UNIT = Path(__file__).parent / "unit"
_LONGEST_FIRST = (
    "test_gpu_check.py",
    "test_weight_sync.py",
    "test_train.py",
    "test_failures.py",
    "test_train_interrupted.py",
    "test_steps.py",
    "test_conversion.py",
    "test_invariance.py",
    "test_job.py",
    "test_checkpoint_layouts.py",
    "test_serve.py",
    "test_think_formats.py",
    "test_verify.py",
    "test_checkpoint.py",
)
"""Of the files whose tests stay together."""
_LENGTHY_S = 300
"""What hangs, of unit tests that start programs or take long; the Makefile limits the others."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order files; a file's own tests stay in their order."""
    ranks = {name: rank for rank, name in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))
    for item in items:
        is_unit = item.path.is_relative_to(_UNIT)
        if is_unit and any(item.get_closest_marker(name) for name in ("lengthy", "system")):
            item.add_marker(pytest.mark.timeout(_LENGTHY_S))
