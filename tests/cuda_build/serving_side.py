"""What the CUDA build of SGLang says of command lines and requests; run by its own interpreter.

    serving_side.py < QUESTIONS > ANSWERS

QUESTIONS is JSON: ``argvs`` by name, without interpreter and module, and ``requests``, a list of
[method, route, payload]. The absent GPU is loaded first. The last line of ANSWERS is JSON: the
parsed arguments that matter by name, and for each request what is wrong with it, null for nothing.
"""

import dataclasses
import inspect
import json
import sys
import typing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.cuda_build import absent_gpu

KEPT = (
    "device",
    "dtype",
    "tp_size",
    "context_length",
    "weight_version",
    "load_format",
    "disable_overlap_schedule",
    "attention_backend",
    "sampling_backend",
    "mem_fraction_static",
    "max_running_requests",
    "max_total_tokens",
)


def main() -> None:
    absent_gpu.load()
    questions = json.load(sys.stdin)
    import torch
    from sglang import __version__

    answer = {
        "versions": {"sglang": __version__, "torch": torch.__version__, "cuda": torch.version.cuda},
        "arguments": {name: _parsed(argv) for name, argv in questions["argvs"].items()},
        "faults": [_fault(*request) for request in questions["requests"]],
    }
    print("\n" + json.dumps(answer))


def _parsed(argv: list[str]) -> dict[str, Any]:
    from sglang.srt.server_args import prepare_server_args

    arguments = prepare_server_args(argv)
    arguments.resolve_once()
    resolved = arguments.resolved_dict()
    return {name: resolved[name] for name in KEPT}


def _fault(method: str, route: str, payload: dict[str, Any] | None) -> str | None:
    """Return why the server would not take the request as it is meant."""
    from sglang.srt.entrypoints.http_server import app
    from sglang.srt.sampling.sampling_params import SamplingParams

    path, _, query = route.partition("?")
    routes = [
        r for r in app.routes if getattr(r, "path", None) == path and method in (r.methods or ())
    ]
    if not routes:
        return "no such route"
    parameters = inspect.signature(routes[0].endpoint).parameters
    unknown = {part.partition("=")[0] for part in query.split("&") if part} - set(parameters)
    if unknown:
        return f"no such query: {unknown}"
    bodies = [
        hint
        for name, hint in typing.get_type_hints(routes[0].endpoint).items()
        if name == "obj" and payload is not None
    ]
    if not bodies:
        return None if not payload else f"takes no body, is sent {sorted(payload)}"
    fault = _fault_of_body(bodies[0], payload)
    if fault is None and payload is not None and "sampling_params" in payload:
        return _fault_of_body(SamplingParams, payload["sampling_params"])
    return fault


def _fault_of_body(kind: Any, payload: dict[str, Any]) -> str | None:
    kind = next((part for part in typing.get_args(kind) if part is not type(None)), kind)
    if dataclasses.is_dataclass(kind):
        names = {field.name for field in dataclasses.fields(kind)}
    elif hasattr(kind, "__struct_fields__"):
        names = set(kind.__struct_fields__)
    else:
        names = set(inspect.signature(kind).parameters)
    if unknown := set(payload) - names:
        return f"{kind.__name__} has no fields {sorted(unknown)}"
    try:
        kind(**payload)
    except (TypeError, ValueError) as error:
        return f"{kind.__name__}: {error}"
    return None


if __name__ == "__main__":
    main()
