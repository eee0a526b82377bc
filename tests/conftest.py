"""Set what must be set before torch and transformers are imported, and how examples are drawn."""

import os

from hypothesis import HealthCheck, settings

# A machine with few cores collapses when every process spins one thread per core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

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
