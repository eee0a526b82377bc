"""What SGLang's own models of one tensor-parallel rank do with weights; run by its interpreter.

    recorded_sglang.py RANK TP PORT < QUESTIONS > ANSWERS

QUESTIONS is a JSON list of models: ``folder``, ``override`` (--json-model-override-args) and
``tensors``, [name, type, shape] each. The last line of ANSWERS is a JSON list of what was recorded
of each, as ``copies`` and ``unmapped``, with type and shape of every parameter as ``parameters``.
"""

import argparse
import inspect
import json
import sys
from typing import Any

FLAGS = [
    *("--device", "cpu", "--attention-backend", "torch_native", "--dtype", "bfloat16"),
    *("--load-format", "dummy", "--disable-cuda-graph", "--disable-overlap-schedule"),
]


def main(rank: int, tp: int, port: int) -> None:
    """Build each model as a server's rank does, and record its loader."""
    answers = [
        _answer(question, rank, tp, port, is_first=index == 0)
        for index, question in enumerate(json.load(sys.stdin))
    ]
    print("\n" + json.dumps(answers))


def _answer(
    question: dict[str, Any], rank: int, tp: int, port: int, *, is_first: bool
) -> dict[str, Any]:
    from shard_receiver.recording import record

    model = _model(question["folder"], question["override"], rank, tp, port, is_first=is_first)
    recording = record(model, question["tensors"])
    parameters = {
        name: [str(parameter.dtype).removeprefix("torch."), list(parameter.shape)]
        for name, parameter in model.named_parameters()
    }
    return {
        "copies": recording.copies,
        "unmapped": recording.unmapped,
        "parameters": parameters,
    }


def _model(
    folder: str, override: dict[str, Any], rank: int, tp: int, port: int, *, is_first: bool
) -> Any:
    from sglang.srt import runtime_context
    from sglang.srt.configs.device_config import DeviceConfig
    from sglang.srt.configs.load_config import LoadConfig
    from sglang.srt.configs.model_config import ModelConfig
    from sglang.srt.distributed import bootstrap
    from sglang.srt.model_loader.loader import get_model_loader
    from sglang.srt.server_args import prepare_server_args

    arguments = prepare_server_args(
        [
            *("--model-path", folder, "--tp", str(tp), *FLAGS),
            *("--json-model-override-args", json.dumps(override)),
        ]
    )
    fields = inspect.signature(runtime_context.SpawnRanks).parameters
    given = {"world_rank": rank, "gpu_id": rank}
    ranks = runtime_context.SpawnRanks(**{k: v for k, v in given.items() if k in fields})
    runtime_context.publish(arguments, role="scheduler", ranks=ranks)
    config = ModelConfig.from_server_args(arguments)
    if is_first:
        bootstrap._init_parallel_groups(
            backend="gloo",
            dist_init_method=f"tcp://127.0.0.1:{port}",
            server_args=arguments,
            gpu_id=rank,
        )
    bootstrap.init_layer_runtime(model_config=config)
    load = LoadConfig(load_format="dummy")
    return get_model_loader(load_config=load, model_config=config).load_model(
        model_config=config, device_config=DeviceConfig("cpu")
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("rank", "tp", "port"):
        parser.add_argument(name, type=int)
    main(**vars(parser.parse_args()))
