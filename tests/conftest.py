"""Set what must be set before torch and transformers are imported."""

import os

# A machine with few cores collapses when every process spins one thread per core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
