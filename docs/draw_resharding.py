"""Draw docs/resharding.svg: one tensor, from the learner ranks that hold it to the server ranks.

    python docs/draw_resharding.py > docs/resharding.svg

Only the standard library is needed.
"""

import sys
from collections.abc import Iterator

from svg import arrow, box, document, text

WIDTH, HEIGHT = 960, 496
LEARNER, PLAN, SERVER = 24, 352, 664
ROW = 21
"""Height of one head's rows."""
TOP = 118


def main() -> int:
    """Print the picture."""
    sys.stdout.write(
        document(
            WIDTH,
            HEIGHT,
            title="Resharding: rows of query, key and value from learner ranks to server ranks",
            parts=[*_learner(), *_plan(), *_servers(), *_arrows(), *_steps()],
        )
    )
    return 0


def _stack(x: float, y: float, names: list[str]) -> Iterator[str]:
    for index, name in enumerate(names):
        style = {"q": "part", "k": "program", "v": "file"}[name[0]]
        yield box((x, y + index * ROW), 120, ROW - 3, style=style, radius=4)
        yield text((x + 60, y + index * ROW + 13), name, size=11, style="ink middle mono")


def _card(x: float, y: float, width: float, height: float, title: str) -> Iterator[str]:
    yield box((x, y), width, height, style="card")
    yield text((x + 14, y + 22), title, style="ink bold")


def _learner() -> Iterator[str]:
    yield text((LEARNER, 40), "learner, tp 2", size=15, style="ink bold")
    yield text((LEARNER, 60), "linear_qkv: group by group", style="muted")
    for rank, first in enumerate((0, 2)):
        y = TOP - 34 + rank * 158
        yield from _card(LEARNER, y, 250, 148, f"rank {rank}")
        names = [f"q{first}", f"q{first + 1}", f"k{rank}", f"v{rank}"]
        yield from _stack(LEARNER + 14, y + 40, names)
        yield text((LEARNER + 150, y + 54), "its group of", size=11, style="muted")
        yield text((LEARNER + 150, y + 70), "two queries,", size=11, style="muted")
        yield text((LEARNER + 150, y + 86), "a key, a value", size=11, style="muted")


def _plan() -> Iterator[str]:
    yield text((PLAN, 40), "plan", size=15, style="ink bold")
    yield text((PLAN, 60), "rectangles of Hugging Face tensors", style="muted")
    y = TOP - 34
    yield from _card(PLAN, y, 220, 306, "held, by the table of rules")
    for index, line in enumerate(
        (
            "q_proj  rows of q0 q1: rank 0",
            "q_proj  rows of q2 q3: rank 1",
            "k_proj  rows of k0: rank 0",
            "k_proj  rows of k1: rank 1",
        )
    ):
        yield text((PLAN + 14, y + 46 + index * 17), line, size=11, style="muted")
    yield text((PLAN + 14, y + 138), "copied, as recorded", style="ink bold")
    for index, line in enumerate(
        (
            "q_proj  into qkv_proj, row 0",
            "k_proj  after the queries",
            "v_proj  after the keys",
        )
    ):
        yield text((PLAN + 14, y + 162 + index * 17), line, size=11, style="muted")
    yield text((PLAN + 14, y + 236), "messages: the overlap", style="ink bold")
    yield text((PLAN + 14, y + 258), "pieces that lie together travel", size=11, style="muted")
    yield text((PLAN + 14, y + 275), "alone, the others share a buffer", size=11, style="muted")


def _servers() -> Iterator[str]:
    yield text((SERVER, 40), "a stock SGLang server, tp 1", size=15, style="ink bold")
    yield text((SERVER, 60), "qkv_proj: queries, keys, values", style="muted")
    y = TOP - 34
    yield from _card(SERVER, y, 272, 306, "rank 0")
    yield from _stack(SERVER + 14, y + 40, ["q0", "q1", "q2", "q3", "k0", "k1", "v0", "v1"])
    for index, line in enumerate(("received where", "it belongs, in", "the parameter's", "memory")):
        yield text((SERVER + 150, y + 54 + 16 * index), line, size=11, style="muted")


def _arrows() -> Iterator[str]:
    for rank in (0, 1):
        y = TOP + 62 + rank * 158
        yield arrow([(LEARNER + 252, y), (PLAN - 4, y)], style="weights")
        yield arrow([(PLAN + 222, y), (SERVER - 4, y)], style="weights")


def _steps() -> Iterator[str]:
    y = TOP + 298
    yield box((LEARNER, y), WIDTH - 2 * LEARNER, 60, style="card")
    yield text((LEARNER + 14, y + 24), "admission, once a start", style="ink bold")
    steps = (
        "record, whole tensors, fingerprint, poison, shards, fingerprint: equal, or whole tensors"
    )
    yield text((LEARNER + 200, y + 24), steps, size=12, style="muted")
    yield text((LEARNER + 14, y + 46), "every publication", style="ink bold")
    steps = (
        "pause, label incomplete, digest of the messages compared, shards, label VERSION, continue"
    )
    yield text((LEARNER + 200, y + 46), steps, size=12, style="muted")


if __name__ == "__main__":
    sys.exit(main())
