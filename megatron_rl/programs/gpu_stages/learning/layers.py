"""Layers of the learner, Transformer Engine's on a GPU, against torch's in float32."""

from pathlib import Path

from megatron_rl.learner.device.parallel import shut_down_parallel
from megatron_rl.programs.builders.hardware import installed_version
from megatron_rl.programs.gpu_stages.learning.policy import (
    SHAPE,
    UNCLIPPED,
    gradients_of,
    learner_of,
    logprobs_of,
    loss_change,
    make_sequences,
    mean_error,
    open_alone,
    relative_error,
    with_torch_layers,
)
from megatron_rl.programs.gpu_stages.shapes import write_model
from megatron_rl.programs.gpu_stages.tolerances import LEARNT, LOGPROB_MAX
from megatron_rl.programs.stage_runs.result import Figure, Limit, Outcome
from megatron_rl.programs.stage_runs.stage import Place

_TWICE = "both round to bf16, in other places, so their errors are alike; a hundredth is for noise"


def model_folder(place: Place) -> Path:
    """Return the folder of the numerical policy; float32, so that every type is rounded to."""
    config = SHAPE.config(max_positions=512)
    return write_model(place.shared / "numerical", config, dtype="float32", seed=0)


def check(place: Place) -> Outcome:
    """Compare log-probs and gradients of the layers, and have them learn."""
    folder, sequences = model_folder(place), make_sequences()
    platform, parallel = open_alone()
    on_torch = with_torch_layers(platform)
    exact_learner = learner_of(folder, parallel, on_torch, precision="fp32", optimizer=UNCLIPPED)
    exact = logprobs_of(exact_learner, sequences), gradients_of(exact_learner, sequences)
    plain_learner = learner_of(folder, parallel, on_torch, optimizer=UNCLIPPED)
    plain = logprobs_of(plain_learner, sequences), gradients_of(plain_learner, sequences)
    learner = learner_of(folder, parallel, platform, optimizer=UNCLIPPED)
    ours = logprobs_of(learner, sequences), gradients_of(learner, sequences)
    plain_mean, plain_relative = mean_error(plain[0], exact[0]), relative_error(plain[1], exact[1])
    change = loss_change(learner_of(folder, parallel, platform), sequences)
    shut_down_parallel()
    engine = installed_version("transformer-engine")
    return Outcome(
        figures=[
            Figure(
                name="log-probs, mean error of our layers",
                value=mean_error(ours[0], exact[0]),
                limit=Limit(at_most=2 * plain_mean + 0.01, reason=f"twice torch's own: {_TWICE}"),
            ),
            Figure(
                name="log-probs, largest error of our layers",
                value=(ours[0] - exact[0]).abs().max().item(),
                limit=LOGPROB_MAX,
            ),
            Figure(name="log-probs, mean error of torch's in bf16", value=plain_mean),
            Figure(
                name="gradients, relative error of our layers",
                value=relative_error(ours[1], exact[1]),
                limit=Limit(
                    at_most=2 * plain_relative + 0.01, reason=f"twice torch's own: {_TWICE}"
                ),
            ),
            Figure(name="gradients, relative error of torch's in bf16", value=plain_relative),
            Figure(name="change of the loss in 8 steps", value=change, limit=LEARNT),
        ],
        notes=[_layers(place, engine)],
    )


def _layers(place: Place, engine: str | None) -> str:
    if place.is_rehearsal:
        return "CPU twin: torch's layers in bf16 stand where Transformer Engine's do on a GPU"
    if engine is None:
        return "there is no Transformer Engine here: our layers are torch's"
    return f"our layers are those of Transformer Engine {engine}"
