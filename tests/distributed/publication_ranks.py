"""What the ranks of system/test_published_weights.py do."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from tiny_policy import learner_at, make_batches, weights_of

from megatron_rl.conversion.block_fp8.blocks import quantised_weights
from megatron_rl.conversion.block_fp8.tensors import quantised_tensors
from megatron_rl.conversion.families import read_model_spec
from megatron_rl.hf_folder import write_hf_folder
from megatron_rl.learner.device.platform import CpuPlatform
from megatron_rl.run_dir import RunDir
from megatron_rl.sequences import Sequences
from megatron_rl.weight_sync.collective import CollectivePublisher
from megatron_rl.weight_sync.shards.opening import open_shards

BUCKET_BYTES = 20_000


def train_export_and_publish(argument: Any) -> int:
    """Take a step, export, and publish once ``proceed`` is there; return the servers reached.

    Args:
        argument: {"port", "layout": arguments of learner_at, "model": Hugging Face folder,
            "export": folder to write, "run_dir": where servers register, "proceed": file to
            wait for}.
    """
    model = Path(argument["model"])
    with learner_at(
        port=argument["port"],
        spec=read_model_spec(model),
        pretrained=model,
        weight_batch_bytes=BUCKET_BYTES,
        **argument["layout"],
    ) as learner:
        learner.update(make_batches(1)[0])
        weights = weights_of(learner)
        if dist.get_rank() == 0:
            export = Path(argument["export"])
            write_hf_folder(export, weights.items(), source=model, max_shard_bytes=BUCKET_BYTES)
        _wait_for(Path(argument["proceed"]))
        if dist.get_rank() != 0:
            for _ in learner.named_weights():
                pass
            return 0
        publisher = CollectivePublisher(
            RunDir(Path(argument["run_dir"])),
            backend="gloo",
            device=CpuPlatform(num_threads=1),
            timeout_s=60,
            bucket_bytes=BUCKET_BYTES,
            retry_after_s=30.0,
        )
        report = publisher.publish(learner.named_weights(), version=1)
        publisher.close()
        return report.num_servers


def publish_shards(argument: Any) -> list[dict[str, Any]]:
    """Export and publish by shards, then once more after each step; return what each took.

    Args:
        argument: {"port", "layout", "model", "run_dir" as above, "exports": a folder for each
            publication, "proceed": a file to wait for before each, "is_quantised": servers, and
            exports, have block FP8}.
    """
    model = Path(argument["model"])
    names = quantised_tensors(read_model_spec(model)) if argument["is_quantised"] else frozenset()
    reports = []
    with learner_at(
        port=argument["port"],
        spec=read_model_spec(model),
        pretrained=model,
        weight_batch_bytes=BUCKET_BYTES,
        **argument["layout"],
    ) as learner:
        publisher = open_shards(
            RunDir(Path(argument["run_dir"])),
            learner.shards(names),
            backend="gloo",
            device=CpuPlatform(num_threads=1),
            timeout_s=60,
            bucket_bytes=BUCKET_BYTES,
            retry_after_s=0.1,
            verify="always",
            passes_on=True,
        )
        for version, (export, proceed) in enumerate(
            zip(argument["exports"], argument["proceed"], strict=True)
        ):
            learner.update(make_batches(version + 1)[-1])
            weights = weights_of(learner)
            if dist.get_rank() == 0:
                write_hf_folder(
                    Path(export),
                    quantised_weights(weights.items(), names),
                    source=model,
                    max_shard_bytes=BUCKET_BYTES,
                )
            _wait_for(Path(proceed))
            report = publisher.publish(version=version)
            if report is not None:
                reports.append(dataclasses.asdict(report))
        publisher.close()
    return reports


def score(argument: Any) -> list[list[float]]:
    """Return the log-probs of all tokens but the first of each sequence.

    Args:
        argument: {"port", "model" as above, "sequences": token ids of each}.
    """
    model = Path(argument["model"])
    lengths = [len(ids) for ids in argument["sequences"]]
    num_tokens = sum(lengths)
    sequences = Sequences(
        token_ids_T=np.concatenate(argument["sequences"]),
        offsets=np.cumsum([0, *lengths]),
        loss_mask_T=np.ones(num_tokens, dtype=bool),
        behavior_logprobs_T=np.zeros(num_tokens, dtype=np.float32),
        advantages_N=np.zeros(len(lengths)),
        weights_N=np.zeros(len(lengths), dtype=np.float32),
    )
    with learner_at(
        port=argument["port"], spec=read_model_spec(model), pretrained=model, temperature=1.0
    ) as learner:
        return [found.tolist() for found in learner.logprobs(sequences)]


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.1)
