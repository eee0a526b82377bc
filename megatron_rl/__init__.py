"""Reinforcement learning of large language models: Megatron-Core learns, SGLang generates."""

__version__ = "0.1.0"
