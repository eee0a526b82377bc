"""Fields of an order, read and checked: whoever may give orders may be mistaken."""

import datetime
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch.distributed as dist

from .regions import RefusedError

_MOST_CHARS = 200
_DAY_S = 86_400.0
_PATIENCE = datetime.timedelta(seconds=10)


def text(order: Mapping[str, Any], key: str, *, is_optional: bool = False) -> str:
    """Return a short text; an empty one where it may be missing, and is."""
    value = order.get(key, "" if is_optional else None)
    if type(value) is not str or not (is_optional or value) or len(value) > _MOST_CHARS:
        raise RefusedError(f"{key} is no short text: {value!r:.100}")
    return value


def flag(order: Mapping[str, Any], key: str) -> bool:
    """Return what is true or false."""
    value = order.get(key)
    if type(value) is not bool:
        raise RefusedError(f"{key} is neither true nor false: {value!r:.100}")
    return value


def whole_number(order: Mapping[str, Any], key: str, *, least: int, most: int) -> int:
    """Return a whole number of a range."""
    value = order.get(key)
    if type(value) is not int or not least <= value <= most:
        raise RefusedError(f"{key} is no whole number from {least} to {most}: {value!r:.100}")
    return value


def seconds(order: Mapping[str, Any], key: str) -> float:
    """Return a time to wait, of a day at most."""
    value: Any = order.get(key)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value <= _DAY_S:  # which no NaN is
        raise RefusedError(f"{key} is no number of seconds: {value!r:.100}")
    return float(value)


def own_digest(order: Mapping[str, Any], *, rank: int, world_size: int) -> str:
    """Return the digest of what is meant for this rank, of one for each."""
    digests = order.get("messages")
    if not isinstance(digests, list) or len(digests) != world_size:
        raise RefusedError(f"messages are no list of {world_size} digests: {digests!r:.100}")
    return text({"digest of messages": digests[rank]}, "digest of messages")


def read_address(value: Any) -> tuple[str, int]:
    """Return host and port of a store."""
    if not isinstance(value, list) or len(value) != 2:
        raise RefusedError(f"store is not [host, port]: {value!r:.100}")
    address = {"host": value[0], "port": value[1]}
    return text(address, "host"), whole_number(address, "port", least=1, most=65_535)


def read_content(digest: str, store: dist.Store) -> Any:
    """Return the JSON whose digest an order names; anyone may write to the store."""
    key = f"content/{digest}"
    try:
        # What the learner has put there before its order may come after it.
        store.wait([key], _PATIENCE)
    except dist.DistStoreError as error:
        raise RefusedError("the store does not have the text that the order names") from error
    found: bytes = store.get(key)
    if hashlib.sha256(found).hexdigest() != digest:
        raise RefusedError("the store has another text than the order names")
    try:
        return json.loads(found)
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"the text that the order names is no JSON: {error}") from error
