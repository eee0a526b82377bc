"""Block FP8: which tensors servers hold in 8 bits, and how these are made of those in 16.

A matrix is cut into blocks of 128 x 128 elements from its first row and column on. Each block has
one scale in float32; what remains is float8. Checkpoints of DeepSeek-V3 and of Qwen have this form.
``tensors`` is without torch; ``blocks`` computes.
"""
