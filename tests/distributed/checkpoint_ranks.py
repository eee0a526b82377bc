"""What the ranks of test_checkpoint.py do."""

import os
import resource
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import torch
from tiny_policy import CONFIG, learner_at, make_batches, weights_of, write_weights

from megatron_rl.conversion.families import model_spec, read_model_spec
from megatron_rl.conversion.families.shapes import tensor_shapes
from megatron_rl.errors import CheckpointError
from megatron_rl.hf_folder import WeightReader
from megatron_rl.learner.checkpoint.steps import latest_step, step_folder

NUM_BATCHES = 6
SAVED_AT = 3
MODELS: dict[str, dict[str, Any]] = {
    "hidden_size": {"hidden_size": 64},
    "num_layers": {"num_hidden_layers": 2},
    "family": {"model_type": "llama"},
    "vocab_size": {"vocab_size": 67},
}
"""By the fact that differs, what makes another model of the tiny one."""
DAMAGES = {
    "missing shard": "__1_0.distcp",
    "short shard": "__0_0.distcp",
    "changed common": "common.pt",
    "changed metadata": ".metadata",
}
"""By kind, the file that is damaged."""


def work_on_two_ranks(argument: Any) -> dict[str, Any]:
    """Save, go on, load into new learners, and let weights of Hugging Face folders pass through.

    Args:
        argument: {"ports": one per learner, "folder": of the checkpoints, "hf": model folders}.
    """
    folder, ports = Path(argument["folder"]), argument["ports"]
    batches = make_batches(NUM_BATCHES)
    outcome: dict[str, Any] = {}
    with learner_at(tp=1, port=ports[0]) as learner:
        for batch in batches[:SAVED_AT]:
            learner.update(batch)
        learner.save(folder / "dp2", SAVED_AT, extra={"cursor": [7, [1, 2]]})
        write_weights(folder / "saved.pt", weights_of(learner))
        outcome["went on"] = [learner.update(batch) for batch in batches[SAVED_AT:]]
        went_on = weights_of(learner)
    with learner_at(tp=1, port=ports[1]) as learner:
        torch.rand(5)  # generators that have moved on are set back
        outcome["restored"] = learner.restore(folder / "dp2")
        outcome["resumed"] = [learner.update(batch) for batch in batches[SAVED_AT:]]
        outcome["is exact at dp2"] = _are_equal(weights_of(learner), went_on)
        learner.restore(folder / "dp2")
        learner.update(batches[SAVED_AT])
        outcome["lr after going back"] = learner.update(batches[SAVED_AT + 1])["policy/lr"]
    with learner_at(tp=2, port=ports[2]) as learner:
        learner.restore(folder / "dp2")
        outcome["is exact at tp2"] = _are_equal(
            weights_of(learner), torch.load(folder / "saved.pt")
        )
        outcome["resumed at tp2"] = [learner.update(batch) for batch in batches[SAVED_AT:]]
        learner.save(folder / "tp2", SAVED_AT, extra={})
    overlapped = {"overlap_grad_reduce": True, "overlap_param_gather": True}
    with learner_at(tp=1, port=ports[3], **overlapped) as learner:
        for batch in batches[:SAVED_AT]:
            learner.update(batch)
        learner.save(folder / "overlapped", SAVED_AT, extra={})
        overlapped_weights = weights_of(learner)
    with learner_at(tp=1, port=ports[4], **{"lr": 3e-3, "min_lr": None}) as learner:
        learner.restore(folder / "overlapped")
        outcome["is exact after overlap"] = _are_equal(weights_of(learner), overlapped_weights)
        outcome["lr of the new configuration"] = learner.update(batches[SAVED_AT])["policy/lr"]
    outcome["background"] = _save_in_background(folder / "background", ports[-2:], batches)
    outcome["is exact in bf16"] = _continues_exactly_in_bf16(folder / "bf16", ports[5:7], batches)
    for hf, port in zip(argument["hf"], ports[7:-2], strict=True):
        outcome[hf] = _comes_out_as_it_went_in(Path(hf), port)
    return outcome


def _save_in_background(root: Path, ports: list[int], batches: list[Any]) -> dict[str, Any]:
    with learner_at(tp=1, port=ports[0]) as learner:
        learner.update(batches[0])
        at_save = weights_of(learner)
        learner.start_saving(root, 1, extra={})
        latest_before = latest_step(root)
        learner.update(batches[1])
        saved = learner.finish_saving(wait=True)
        assert saved is not None
        went_on = weights_of(learner)
        learner.update(batches[2])
        # A second one reuses the copies' memory; meanwhile steps go on without waiting.
        learner.start_saving(root, 3, extra={})
        num_looks = 0
        while (second := learner.finish_saving(wait=False)) is None:
            num_looks += 1
            time.sleep(0.01)
        at_third = weights_of(learner)
        learner.update(batches[3])
        went_on_third = weights_of(learner)
        failures = _failures(learner, root)
    with learner_at(tp=1, port=ports[1]) as learner:
        restored = learner.restore(root)
        is_third_exact = _are_equal(weights_of(learner), at_third)
        learner.update(batches[3])
        goes_on = _are_equal(weights_of(learner), went_on_third)
        if os.environ["RANK"] == "0":
            (root / "latest.json").write_text('{"step": 1}')
        learner.restore(root)
        is_first_exact = _are_equal(weights_of(learner), at_save)
        learner.update(batches[1])
        return {
            "steps": [saved.step, second.step, restored],
            "latest before it is complete": latest_before,
            "is the state at the save": is_first_exact and is_third_exact,
            "goes on exactly": goes_on and _are_equal(weights_of(learner), went_on),
            "failures": failures,
        }


def _failures(learner: Any, root: Path) -> list[str]:
    """Fail to write on rank 1 alone, then on rank 0 alone before anything is written."""
    messages = []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if os.environ["RANK"] == "1":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # as a full disk: write() fails
    try:
        learner.start_saving(root, 4, extra={})
        learner.finish_saving(wait=True)
    except CheckpointError as error:
        messages.append(str(error))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (root.parent / "a file").write_text("")
    try:
        learner.start_saving(root.parent / "a file", 4, extra={})
    except CheckpointError as error:
        messages.append(str(error))
    return messages


def die_while_saving(argument: Any) -> None:
    """Save one step, then kill this process while the next one is being written."""
    folder, batches = Path(argument["folder"]), make_batches(2)
    with learner_at(tp=1, port=argument["ports"][0]) as learner:
        learner.update(batches[0])
        learner.save(folder, 1, extra={})
        write_weights(folder / "weights.pt", weights_of(learner))
        learner.update(batches[1])
        learner.start_saving(folder, 2, extra={})
        os.kill(os.getpid(), signal.SIGKILL)


def load_on_one_rank(argument: Any) -> dict[str, Any]:
    """Load what two ranks saved, and train on; arguments as above."""
    folder, batches = Path(argument["folder"]), make_batches(NUM_BATCHES)
    saved = torch.load(folder / "saved.pt")
    with learner_at(tp=1, port=argument["ports"][0]) as learner:
        learner.restore(folder / "dp2")
        is_exact = _are_equal(weights_of(learner), saved)
        resumed = [learner.update(batch) for batch in batches[SAVED_AT:]]
    ports = iter(argument["ports"][1:])
    outcome = {"is exact": is_exact, "resumed": resumed}
    for name, change in MODELS.items():
        wrong = model_spec(CONFIG | change)
        outcome[name] = _restore_error(folder / "dp2", next(ports), spec=wrong)
    with learner_at(tp=1, port=next(ports)) as learner:
        for name in DAMAGES:
            _damage(folder / "dp2", folder / name, name)
            outcome[name] = _error_of(learner, folder / name)
    return outcome


def _damage(whole: Path, damaged: Path, name: str) -> None:
    """Copy a checkpoint and break one file of it."""
    shutil.copytree(whole, damaged)
    shutil.copytree(step_folder(damaged, SAVED_AT), step_folder(damaged, SAVED_AT - 1))
    file = step_folder(damaged, SAVED_AT) / DAMAGES[name]
    content = file.read_bytes()
    if name.startswith("missing"):
        file.unlink()
    elif name.startswith("short"):
        file.write_bytes(content[: len(content) // 2])
    else:
        file.write_bytes(content[:100] + bytes(50) + content[150:])


def _are_equal(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return list(actual) == list(expected) and all(
        torch.equal(actual[name], expected[name]) for name in expected
    )


def _continues_exactly_in_bf16(root: Path, ports: list[int], batches: list[Any]) -> bool:
    layout: dict[str, Any] = {"tp": 2, "sp": True, "dtype": "bfloat16"}
    with learner_at(port=ports[0], **layout) as learner:
        learner.update(batches[0])
        learner.save(root, 1, extra={})
        learner.update(batches[1])
        went_on = weights_of(learner)
    with learner_at(port=ports[1], **layout) as learner:
        learner.restore(root)
        learner.update(batches[1])
        return _are_equal(weights_of(learner), went_on)


def _restore_error(root: Path, port: int, **layout: Any) -> str:
    with learner_at(tp=1, port=port, **layout) as learner:
        return _error_of(learner, root)


def _error_of(learner: Any, root: Path) -> str:
    try:
        learner.restore(root)
    except CheckpointError as error:
        return str(error)
    return "no error"


def _comes_out_as_it_went_in(hf: Path, port: int) -> bool:
    spec, read = read_model_spec(hf), WeightReader(hf)
    order = [name for name, _ in tensor_shapes(spec)]
    with learner_at(tp=2, port=port, spec=spec, pretrained=hf) as learner:
        return _are_equal(weights_of(learner), {name: read(name) for name in order})
