"""What the ranks of test_checkpoint.py do."""

from pathlib import Path
from typing import Any

import torch
from tiny_policy import learner_at, make_batches, weights_of, write_weights

from megatron_rl.conversion.families import read_model_spec, weight_rules
from megatron_rl.hf_folder import WeightReader

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
    for hf, port in zip(argument["hf"], ports[5:], strict=True):
        outcome[hf] = _comes_out_as_it_went_in(Path(hf), port)
    return outcome


def load_on_one_rank(argument: Any) -> dict[str, Any]:
    """Load what two ranks saved, and train on; arguments as above."""
    folder, batches = Path(argument["folder"]), make_batches(NUM_BATCHES)
    saved = torch.load(folder / "saved.pt")
    with learner_at(tp=1, port=argument["ports"][0]) as learner:
        learner.restore(folder / "dp2")
        is_exact = _are_equal(weights_of(learner), saved)
        return {
            "is exact": is_exact,
            "resumed": [learner.update(batch) for batch in batches[SAVED_AT:]],
        }


def _are_equal(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return list(actual) == list(expected) and all(
        torch.equal(actual[name], expected[name]) for name in expected
    )


def _comes_out_as_it_went_in(hf: Path, port: int) -> bool:
    spec, read = read_model_spec(hf), WeightReader(hf)
    order = [name for rule in weight_rules(spec) for name in rule.huggingface]
    with learner_at(tp=2, port=port, spec=spec, pretrained=hf) as learner:
        return _are_equal(weights_of(learner), {name: read(name) for name in order})
