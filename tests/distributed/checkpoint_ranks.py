"""What the ranks of test_checkpoint.py do."""

import shutil
from pathlib import Path
from typing import Any

import torch
from tiny_policy import CONFIG, learner_at, make_batches, weights_of, write_weights

from megatron_rl.conversion.families import model_spec, read_model_spec, weight_rules
from megatron_rl.errors import CheckpointError
from megatron_rl.hf_folder import WeightReader
from megatron_rl.learner.checkpoint_steps import step_folder

NUM_BATCHES = 6
SAVED_AT = 3


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
    outcome["is exact in bf16"] = _continues_exactly_in_bf16(folder / "bf16", ports[5:7], batches)
    for hf, port in zip(argument["hf"], ports[7:], strict=True):
        outcome[hf] = _comes_out_as_it_went_in(Path(hf), port)
    return outcome


def load_on_one_rank(argument: Any) -> dict[str, Any]:
    """Load what two ranks saved, and train on; arguments as above."""
    folder, batches = Path(argument["folder"]), make_batches(NUM_BATCHES)
    saved = torch.load(folder / "saved.pt")
    with learner_at(tp=1, port=argument["ports"][0]) as learner:
        learner.restore(folder / "dp2")
        is_exact = _are_equal(weights_of(learner), saved)
        resumed = [learner.update(batch) for batch in batches[SAVED_AT:]]
    shutil.copytree(folder / "dp2", folder / "damaged")
    shard = next(step_folder(folder / "damaged", SAVED_AT).glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    wider = model_spec(CONFIG | {"intermediate_size": 96})
    return {
        "is exact": is_exact,
        "resumed": resumed,
        "of another model": _restore_error(folder / "dp2", argument["ports"][1], spec=wider),
        "damaged": _restore_error(folder / "damaged", argument["ports"][2]),
    }


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
        try:
            learner.restore(root)
        except CheckpointError as error:
            return str(error)
    return "no error"


def _comes_out_as_it_went_in(hf: Path, port: int) -> bool:
    spec, read = read_model_spec(hf), WeightReader(hf)
    order = [name for rule in weight_rules(spec) for name in rule.huggingface]
    with learner_at(tp=2, port=port, spec=spec, pretrained=hf) as learner:
        return _are_equal(weights_of(learner), {name: read(name) for name in order})
