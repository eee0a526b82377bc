"""However a batch is cut over rows and ranks, the learner takes the same steps: the recipe's.

The reference is written anew in plain torch and float64: transformers' model, the objective as a
sum over tokens, clipping, AdamW and the schedule.
"""

import math

import pytest
import torch
from invariance_ranks import LAYOUTS_OF_FOUR, LAYOUTS_OF_ONE, LAYOUTS_OF_TWO, NUM_STEPS
from ranks import free_port, run_on_ranks
from tiny_policy import CONFIG, SEED, SETTINGS, make_batches

from megatron_rl.hf_folder import random_tensor

pytestmark = pytest.mark.distributed

OBJECTIVE = SETTINGS["objective"]
LAYOUTS = [*LAYOUTS_OF_ONE, *LAYOUTS_OF_TWO, *LAYOUTS_OF_FOUR]
ALIKE = [name for name in LAYOUTS if name != "clipping off"]
# Sums over tokens: equal up to float32's rounding.
COMPARED = (
    "policy/loss",
    "policy/grad_norm",
    "policy/lr",
    "policy/entropy",
    "policy/clip_fraction",
    "policy/approx_kl",
    "policy/logprob_difference",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(metrics per batch, weights) of every layout, from one launch per number of ranks."""
    folder = tmp_path_factory.mktemp("weights")
    metrics = {}
    for num_ranks, layouts in (
        (1, LAYOUTS_OF_ONE),
        (2, LAYOUTS_OF_TWO),
        (4, LAYOUTS_OF_FOUR),
    ):
        ports = [free_port() for _ in layouts]
        argument = {"layouts": layouts, "ports": ports, "folder": str(folder)}
        metrics |= run_on_ranks(
            "invariance_ranks:train_at_layouts", argument, num_ranks=num_ranks, timeout_s=120
        )
    return {name: (metrics[name], torch.load(folder / f"{name}.pt")) for name in LAYOUTS}


@pytest.fixture(scope="module")
def references():
    """Compute each (is tied, number of minibatches) once."""
    cache = {}

    def reference(*, tied, num_minibatches):
        key = (tied, num_minibatches)
        if key not in cache:
            cache[key] = train_in_plain_torch(tied=tied, num_minibatches=num_minibatches)
        return cache[key]

    return reference


@pytest.mark.parametrize("name", ALIKE)
def test_every_layout_takes_the_steps_of_the_float64_reference(name, trained, references):
    metrics, weights = trained[name]
    expected_metrics, expected_weights = references(
        tied="tied" in name, num_minibatches=2 if "two minibatches" in name else 1
    )
    for actual, expected in zip(metrics, expected_metrics, strict=True):
        for key in COMPARED:
            assert actual[key] == pytest.approx(expected[key], rel=2e-5, abs=2e-6), key
    assert list(weights) == list(expected_weights)
    for key, weight in expected_weights.items():
        difference = (weights[key] - weight).norm() / weight.norm()
        assert difference < 1e-5, key


def test_the_batches_exercise_clipping_of_ratios_and_gradients(trained):
    metrics, _ = trained["packed"]
    assert all(0.05 < record["policy/clip_fraction"] < 0.95 for record in metrics)
    assert all(record["policy/grad_norm"] > SETTINGS["clip_grad"] for record in metrics)
    assert metrics[0]["packing/rows"] < len(make_batches(1)[0].lengths_N)


def test_some_rank_has_an_empty_row(trained):
    (alone, _), (apart, _) = trained["packed"], trained["dp2"]
    assert any(
        two["packing/rows"] > one["packing/rows"] for one, two in zip(alone, apart, strict=True)
    )


def test_the_gradient_norm_is_measured_although_clipping_is_off(trained):
    (clipped, _), (free, _) = trained["packed"], trained["clipping off"]
    # Both take their first step from the same weights; the norm is that before clipping.
    assert free[0]["policy/grad_norm"] == pytest.approx(clipped[0]["policy/grad_norm"])


def train_in_plain_torch(*, tied, num_minibatches):
    """Return the metrics per batch and the final weights."""
    model = _initial_model(tied)
    params = dict(model.named_parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in params.values() if p.dim() > 1]},
            {"params": [p for p in params.values() if p.dim() == 1], "weight_decay": 0.0},
        ],
        betas=(SETTINGS["beta1"], SETTINGS["beta2"]),
        eps=SETTINGS["eps"],
        weight_decay=SETTINGS["weight_decay"],
    )
    records, step = [], 0
    for batch in make_batches(NUM_STEPS, num_minibatches=num_minibatches):
        totals = dict.fromkeys(COMPARED, 0.0)
        for minibatch in range(num_minibatches):
            for name, value in _step(model, optimizer, batch, minibatch, step).items():
                totals[name] += value / num_minibatches
            step += 1
        records.append(totals)
    return records, _in_learner_order(model, tied)


def _initial_model(tied):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    fields = {k: v for k, v in CONFIG.items() if k not in ("model_type", "rope_theta")}
    fields["rope_parameters"] = {"rope_type": "default", "rope_theta": CONFIG["rope_theta"]}
    fields["tie_word_embeddings"] = tied
    model = Qwen3ForCausalLM(Qwen3Config(**fields, attn_implementation="eager")).double()
    with torch.no_grad():
        for name, param in model.named_parameters():
            param.copy_(
                random_tensor(name, param.shape, std=CONFIG["initializer_range"], seed=SEED)
            )
    return model


def _step(model, optimizer, batch, minibatch, step):
    objective, metrics = 0.0, dict.fromkeys(COMPARED, 0.0)
    for i in (batch.minibatches_N == minibatch).nonzero()[0]:
        span = slice(batch.offsets[i], batch.offsets[i + 1])
        ids = torch.from_numpy(batch.token_ids_T[span])
        on_completion = torch.from_numpy(batch.loss_mask_T[span])[1:]
        behavior = torch.from_numpy(batch.behavior_logprobs_T[span]).double()[1:]
        logits = model(ids[None]).logits[0, :-1] / SETTINGS["temperature"]
        scores = torch.log_softmax(logits, dim=-1)
        log_ratio = scores.gather(1, ids[1:, None])[:, 0] - behavior
        ratio, advantage = log_ratio.exp(), float(batch.advantages_N[i])
        clipped = ratio.clamp(1 - OBJECTIVE.clip_low, 1 + OBJECTIVE.clip_high)
        weight = float(batch.weights_N[i]) * on_completion
        objective += (weight * torch.minimum(ratio * advantage, clipped * advantage)).sum()
        measured = {
            "policy/entropy": -(scores.exp() * scores).sum(-1),
            "policy/clip_fraction": ratio != clipped,
            "policy/approx_kl": ratio - 1 - log_ratio,
            "policy/logprob_difference": log_ratio.abs(),
        }
        for name, value_T in measured.items():
            metrics[name] += (weight * value_T).sum().item()
    optimizer.zero_grad()
    (-objective).backward()
    grads = [p.grad for p in model.parameters()]
    norm = math.sqrt(sum(grad.square().sum().item() for grad in grads))
    for grad in grads:
        grad.mul_(min(1.0, SETTINGS["clip_grad"] / (norm + 1e-6)))
    lr = _learning_rate(step)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    return metrics | {"policy/loss": -objective.item(), "policy/grad_norm": norm, "policy/lr": lr}


def _learning_rate(step):
    lr, min_lr, warmup = SETTINGS["lr"], SETTINGS["min_lr"], SETTINGS["warmup_steps"]
    if step <= warmup:
        first = lr / (warmup + 1)
        return first + (lr - first) * step / warmup
    progress = (step - warmup) / (SETTINGS["total_steps"] - warmup)
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2


def _in_learner_order(model, tied):
    from megatron_rl.conversion.families import model_spec, weight_rules

    params = {name: param.detach() for name, param in model.named_parameters()}
    spec = model_spec(CONFIG | {"tie_word_embeddings": tied})
    return {name: params[name] for rule in weight_rules(spec) for name in rule.huggingface}
