"""Plans of resharding: which learner rank sends which part of which parameter to which server rank.

Pure, and without torch. A Hugging Face tensor is the common ground: ``held`` says which rectangles
of it the learner's parts hold and ``server_map`` which its loaders copy on the server; ``plan``
intersects the two, and ``messages`` packs the pieces.
"""

from megatron_rl.conversion.resharding.blocks import Box
from megatron_rl.conversion.resharding.messages import (
    DType,
    Message,
    messages_as_json,
    pack_messages,
    passed_on,
)
from megatron_rl.conversion.resharding.plan import Piece, Planner
from megatron_rl.conversion.resharding.server_map import Copy, ServerMap
from megatron_rl.conversion.resharding.sources import LearnerMap, Place

__all__ = [
    "Box",
    "Copy",
    "DType",
    "LearnerMap",
    "Message",
    "Piece",
    "Place",
    "Planner",
    "ServerMap",
    "messages_as_json",
    "pack_messages",
    "passed_on",
]
