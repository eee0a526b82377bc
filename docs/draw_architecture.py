"""Draw docs/architecture.svg: the programs, what crosses between them, and the floors.

    python docs/draw_architecture.py > docs/architecture.svg

Only the standard library is needed.
"""

import sys
from collections.abc import Iterator

from svg import arrow, box, chip, document, spread, text

WIDTH, HEIGHT = 960, 842
LEFT, RIGHT = 24, 936
GENERATION_END, LEARNER_START = 560, 716

FLOORS = {
    "4  command line": ["cli"],
    "3  programs": ["programs"],
    "2  effects": [
        *("code_judging", "generation", "rollout", "judge", "batch_files", "learner"),
        *("weight_sync", "evaluate", "report", "slurm"),
    ],
    "1.5": ["sandbox"],
    "1  pure logic": [
        *("data", "thinking", "verifiers", "algorithm", "batch", "conversion", "parallelism"),
        *("placement", "stage_endings"),
    ],
    "0  plain data": [
        *("errors", "types", "protocols", "config", "math_answers", "run_dir", "registry"),
        *(
            "telemetry",
            "transfers",
            "stage_record",
            "hf_folder",
            "hf_shards",
            "model_spec",
            "sequences",
            "process_lifetime",
        ),
    ],
}
"""Units of the package by floor, from the top."""
_LETTER = 7.3
"""Width of a character of size 12 in a type whose characters are all as wide."""
_COLUMNS, _COLUMN = 7, 108
"""Units beside each other, and the room of one."""


def main() -> int:
    """Print the picture."""
    parts = [*_launcher(), *_rollout(), *_servers(), *_learner(), *_crossings(), *_run_folder()]
    sys.stdout.write(
        document(
            WIDTH,
            HEIGHT,
            title="Architecture of megatron_rl: programs, what crosses between them, floors",
            parts=[*parts, *_floors()],
        )
    )
    return 0


def _launcher() -> Iterator[str]:
    yield box((LEFT, 20), RIGHT - LEFT, 52, style="card")
    yield text((LEFT + 16, 42), "train", size=15, style="ink bold mono")
    yield text((LEFT + 70, 42), "on one machine,", style="muted")
    yield text((LEFT + 190, 42), "job", size=15, style="ink bold mono")
    yield text((LEFT + 226, 42), "on the nodes of a Slurm job", style="muted")
    words = "start the programs below, watch them, restart dead servers, end or resume as a whole"
    yield text((LEFT + 16, 61), words, size=12, style="muted")


def _rollout() -> Iterator[str]:
    top = 92
    yield _program((LEFT, top), GENERATION_END - LEFT, 140, "rollout", "one process, on CPU cores")
    yield from _chips(["problems", "prompts", "router"], top + 54, LEFT + 12, GENERATION_END - 12)
    words = ["verifiers", "rewards", "groups", "advantages"]
    yield from _chips(words, top + 100, LEFT + 12, GENERATION_END - 12)


def _servers() -> Iterator[str]:
    top = 330
    words = "stock SGLang, in an environment of its own"
    yield _program((LEFT, top), GENERATION_END - LEFT, 94, "serve", words)
    servers = ["server 0", "server 1", "server 2", "..."]
    yield from _chips(servers, top + 54, LEFT + 12, GENERATION_END - 12)


def _learner() -> Iterator[str]:
    top = 92
    yield _program((LEARNER_START, top), RIGHT - LEARNER_START, 178, "learn", "Megatron-Core")
    for row, words in enumerate(["packed rows", "loss, gradients", "optimiser"]):
        width = RIGHT - LEARNER_START - 24
        yield chip((LEARNER_START + 12, top + 54 + row * 42), width, words, style="part")


def _crossings() -> Iterator[str]:
    yield arrow([(150, 234), (150, 326)], style="asks")
    yield text((162, 276), "prompt token ids", style="ink")
    yield text((162, 294), "over HTTP", size=12, style="muted")
    yield arrow([(330, 328), (330, 236)], style="asks")
    yield text((342, 276), "token ids, log-probs and the", style="ink")
    yield text((342, 294), "policy version of each token", style="ink")

    middle = (GENERATION_END + LEARNER_START) / 2
    yield arrow([(GENERATION_END + 2, 205), (LEARNER_START - 4, 205)], style="batch")
    yield text((middle, 192), "batches", style="batch-ink bold middle")
    yield text((middle, 226), "files, renamed", size=12, style="muted middle")
    yield text((middle, 242), "into place", size=12, style="muted middle")

    turn = (LEARNER_START + RIGHT) / 2
    path = [(turn, 272), (turn, 377), (GENERATION_END + 4, 377)]
    yield arrow(path, style="weights")
    yield text((GENERATION_END + 22, 366), "weights, in flight", style="weights-ink bold")
    words = "whole tensors under Hugging Face names, through a"
    yield text((GENERATION_END + 22, 400), words, size=12, style="muted")
    words = "process group, while sequences are generated"
    yield text((GENERATION_END + 22, 417), words, size=12, style="muted")


def _run_folder() -> Iterator[str]:
    top = 446
    yield box((LEFT, top), RIGHT - LEFT, 90, style="folder")
    yield text((LEFT + 16, top + 26), "run folder", size=15, style="ink bold")
    words = "files that one program writes and others read; on a file system that every node sees"
    yield text((LEFT + 112, top + 26), words, size=12, style="muted")
    names = [
        *("config.json", "servers/", "policy.json", "batches/", "checkpoints/"),
        *("metrics.jsonl", "logs/", "hf/", "report.html"),
    ]
    x, gap = LEFT + 16.0, 7.0
    letters = sum(map(len, names))
    room = RIGHT - LEFT - 32 - gap * (len(names) - 1)
    padding = (room - _LETTER * letters) / len(names)
    for name in names:
        width = _LETTER * len(name) + padding
        yield chip((x, top + 46), width, name, style="file", font="mono")
        x += width + gap


def _floors() -> Iterator[str]:
    top = 556
    yield box((LEFT, top), RIGHT - LEFT, HEIGHT - top - 20, style="card")
    yield text((LEFT + 16, top + 26), "floors of the package", size=15, style="ink bold")
    words = "imports point down; units of one floor are strangers and meet in the programs"
    yield text((LEFT + 214, top + 26), words, size=12, style="muted")
    y = top + 54
    for floor, units in FLOORS.items():
        yield text((LEFT + 16, y), floor, style="accent bold")
        for i, unit in enumerate(units):
            row, column = divmod(i, _COLUMNS)
            at = (LEFT + 152 + column * _COLUMN, y + 20 * row)
            yield text(at, unit, size=12, style="ink mono")
        y += 27 + 20 * ((len(units) - 1) // _COLUMNS)


def _program(at: tuple[float, float], width: float, height: float, name: str, what: str) -> str:
    x, y = at
    return (
        box(at, width, height, style="program")
        + text((x + 14, y + 26), name, size=15, style="ink bold mono")
        + text((x + 28 + 9.1 * len(name), y + 26), what, size=12, style="muted")
    )


def _chips(words: list[str], y: float, start: float, end: float) -> Iterator[str]:
    places, width = spread(start, end, len(words), gap=16)
    for x, word in zip(places, words, strict=True):
        yield chip((x, y), width, word, style="part")


if __name__ == "__main__":
    sys.exit(main())
