"""The same training anew in plain torch and float64: what every layout is compared with.

transformers' model, both losses as sums over tokens, clipping, AdamW and the schedule.
"""

import math
from typing import Any

import torch
from invariance_ranks import NUM_BATCHES
from tiny_policy import CONFIG, CONFIGS, SEED, SETTINGS, make_batches, truncated
from transformers import (
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from megatron_rl.conversion.families import model_spec
from megatron_rl.conversion.families.shapes import tensor_shapes
from megatron_rl.hf_folder import random_tensor

OBJECTIVE = SETTINGS["objective"]
_EXPERTS = ".mlp.experts."


def train_in_plain_torch(
    *, kind: str, tied: bool, num_minibatches: int, is_truncated: bool
) -> dict[str, Any]:
    """Return metrics per batch, the first gradients of each loss, and the final weights."""
    config = CONFIGS[kind] | {"tie_word_embeddings": tied}
    model = _initial_model(config)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for name, p in model.named_parameters() if _decays(name, p)]},
            {
                "params": [p for name, p in model.named_parameters() if not _decays(name, p)],
                "weight_decay": 0.0,
            },
        ],
        betas=(SETTINGS["optimizer"].beta1, SETTINGS["optimizer"].beta2),
        eps=SETTINGS["optimizer"].eps,
        weight_decay=SETTINGS["optimizer"].weight_decay,
    )
    metrics, gradients, step = [], {}, 0
    *batches, demonstrations = make_batches(NUM_BATCHES + 1, num_minibatches=num_minibatches)
    if is_truncated:
        batches = [truncated(batch) for batch in batches]
    gradient = _take_gradient(model, _supervised_loss(model, demonstrations))
    gradients["supervised"] = _by_huggingface_name(gradient, config)
    for batch in batches:
        records = []
        for minibatch in range(num_minibatches):
            chosen = (batch.minibatches_N == minibatch).nonzero()[0]
            loss, record = _policy_loss(model, batch, chosen)
            gradient = _take_gradient(model, loss)
            gradients.setdefault("policy", _by_huggingface_name(gradient, config))
            records.append(record | _step(model, optimizer, step))
            step += 1
        metrics.append(
            {f"policy/{k}": sum(r[k] for r in records) / num_minibatches for k in records[0]}
        )
    loss = _supervised_loss(model, demonstrations)
    _take_gradient(model, loss)
    record = {"loss": loss.item()} | _step(model, optimizer, step)
    metrics.append({f"sft/{name}": value for name, value in record.items()})
    weights = {name: param.detach() for name, param in model.named_parameters()}
    return {
        "metrics": metrics,
        "gradients": gradients,
        "weights": _by_huggingface_name(weights, config),
    }


def _decays(name, param):
    # The biases of all experts of a layer are one tensor.
    return param.dim() > 1 and not name.endswith("_bias")


def _initial_model(config):
    fields = {k: v for k, v in config.items() if k not in ("model_type", "rope_theta")}
    fields["rope_parameters"] = {"rope_type": "default", "rope_theta": config["rope_theta"]}
    make = {
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
        "qwen3_moe": (Qwen3MoeConfig, Qwen3MoeForCausalLM),
        "deepseek_v2": (DeepseekV2Config, DeepseekV2ForCausalLM),
        "gpt_oss": (GptOssConfig, GptOssForCausalLM),
    }[config["model_type"]]
    if config["model_type"] != "qwen3":
        fields["experts_implementation"] = "eager"
    model = make[1](make[0](**fields, attn_implementation="eager")).double()
    named = {name: param.detach() for name, param in model.named_parameters()}
    # Parts of the parameters themselves, so that filling them fills the model.
    for name, part in _by_huggingface_name(named, config).items():
        part.copy_(
            random_tensor(name, tuple(part.shape), std=config["initializer_range"], seed=SEED)
        )
    return model


def _by_huggingface_name(tensors, config):
    """Take experts apart, but where they are together on disk; sort as the learner does."""
    apart = {}
    names = [name for name, _ in tensor_shapes(model_spec(config))]
    for name, tensor in tensors.items():
        before, is_expert, kind = name.partition(_EXPERTS)
        if not is_expert or name in names:
            apart[name] = tensor
            continue
        for i, expert in enumerate(tensor):
            parts = expert.chunk(2) if kind == "gate_up_proj" else [expert]
            kinds = ["gate_proj", "up_proj"] if kind == "gate_up_proj" else [kind]
            for part_name, part in zip(kinds, parts, strict=True):
                apart[f"{before}{_EXPERTS}{i}.{part_name}.weight"] = part
    return {name: apart[name] for name in names}


def _sequences(model, batch, chosen):
    """Yield (index, span, log-probs of all tokens but the first, by token of the vocabulary)."""
    for i in chosen:
        span = slice(batch.sequences.offsets[i], batch.sequences.offsets[i + 1])
        ids = torch.from_numpy(batch.sequences.token_ids_T[span])
        logits = model(ids[None]).logits[0, :-1] / SETTINGS["temperature"]
        if batch.sequences.support is not None:
            logits = logits.masked_fill(_left_out(batch, span), -math.inf)
        scores = torch.log_softmax(logits, dim=-1)
        weight = (
            float(batch.sequences.weights_N[i])
            * torch.from_numpy(batch.sequences.loss_mask_T[span])[1:]
        )
        yield i, span, scores, scores.gather(1, ids[1:, None])[:, 0], weight


def _left_out(batch, span):
    """Return [tokens but the first, vocabulary] what each token was not chosen from."""
    support = batch.sequences.support
    left_out = torch.ones(span.stop - span.start - 1, CONFIG["vocab_size"], dtype=torch.bool)
    for row, position in enumerate(range(span.start + 1, span.stop)):
        first, last = support.offsets[position : position + 2]
        if first == last:
            left_out[row] = False
        left_out[row, support.ids_K[first:last].tolist()] = False
    return left_out


def _supervised_loss(model, batch):
    everything = range(len(batch.sequences.weights_N))
    return -sum(
        (weight * logprobs).sum()
        for _, _, _, logprobs, weight in _sequences(model, batch, everything)
    )


def _policy_loss(model, batch, chosen):
    objective, metrics = 0.0, {}
    for i, span, scores, logprobs, weight in _sequences(model, batch, chosen):
        behavior = torch.from_numpy(batch.sequences.behavior_logprobs_T[span]).double()[1:]
        log_ratio = logprobs - behavior
        ratio, advantage = log_ratio.exp(), float(batch.sequences.advantages_N[i])
        clipped = ratio.clamp(1 - OBJECTIVE.clip_low, 1 + OBJECTIVE.clip_high)
        objective += (weight * torch.minimum(ratio * advantage, clipped * advantage)).sum()
        measured = {
            "entropy": -torch.nansum(scores.exp() * scores, -1),
            "clip_fraction": ratio != clipped,
            "approx_kl": ratio - 1 - log_ratio,
            "logprob_difference": log_ratio.abs(),
        }
        for name, value_T in measured.items():
            metrics[name] = metrics.get(name, 0.0) + (weight * value_T).sum().item()
    return -objective, {"loss": -objective.item()} | metrics


def _take_gradient(model, loss):
    model.zero_grad()
    loss.backward()
    return {
        # An expert without a token has no gradient.
        name: torch.zeros_like(param) if param.grad is None else param.grad.clone()
        for name, param in model.named_parameters()
    }


def _step(model, optimizer, step):
    grads = [param.grad for param in model.parameters() if param.grad is not None]
    norm = math.sqrt(sum(grad.square().sum().item() for grad in grads))
    for grad in grads:
        grad.mul_(min(1.0, SETTINGS["optimizer"].clip_grad / (norm + 1e-6)))
    lr = _learning_rate(step)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    return {"grad_norm": norm, "lr": lr}


def _learning_rate(step):
    optimizer = SETTINGS["optimizer"]
    lr, min_lr, warmup = optimizer.lr, optimizer.min_lr, optimizer.warmup_steps
    if step <= warmup:
        first = lr / (warmup + 1)
        return first + (lr - first) * step / warmup
    progress = (step - warmup) / (SETTINGS["total_steps"] - warmup)
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2
