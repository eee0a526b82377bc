"""Custom weight loader of SGLang's: a server rank receives its own shards, and nothing else.

Loaded by the server's interpreter, which does not have megatron_rl: it imports torch only, and no
part of sglang, so that no release of it is depended on. A server takes it by its own flag,
``--custom-weight-loader shard_receiver.receive``.
"""

from .loader import receive

__all__ = ["receive"]
