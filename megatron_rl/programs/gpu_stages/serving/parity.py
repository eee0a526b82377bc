"""Parity of the log-probs that a server reports and those of the learner."""

import shutil

import numpy as np

from megatron_rl.programs.gpu_stages.serving.server import EAGER, TEMPERATURE, learner_of_server
from megatron_rl.programs.gpu_stages.sizes import sizes_of
from megatron_rl.programs.gpu_stages.tolerances import LOGPROB_MAX, LOGPROB_MEAN
from megatron_rl.programs.offline.compare_logprobs import Comparison, Finding
from megatron_rl.programs.offline.parity_samples import make_prompts
from megatron_rl.programs.stage_runs.result import Figure, Limit, Outcome
from megatron_rl.programs.stage_runs.stage import Place
from megatron_rl.registry import read_policy_state

_NUM_STEPS = 3
"""Between the two versions."""
_MOVED = Limit(
    at_least=2 * LOGPROB_MEAN.at_most,
    reason="the update must change more than the tolerance, or the comparison after it shows "
    "nothing",
)


def check(place: Place) -> Outcome:
    """Compare tokens sampled before, during and after an update in flight."""
    sizes = sizes_of(place)
    prompts = make_prompts(
        sizes.num_sequences,
        vocab_size=sizes.policy.vocab_size,
        context_length=sizes.context_length,
        seed=0,
    )
    with learner_of_server(place, total_steps=1 + _NUM_STEPS) as served:
        comparison = Comparison(
            served.run_dir, served.learner, served.publisher, served.config.generators, prompts
        )
        # A server that other weights were published to no longer has those of the folder.
        is_fresh = read_policy_state(served.run_dir) is None
        findings = list(comparison.as_loaded()) if is_fresh else []
        findings += comparison.around_an_update(num_updates=_NUM_STEPS)
        # The learner's states, gigabytes on a GPU.
        shutil.rmtree(served.run_dir.root / "learner")
    figures = [figure for finding in findings for figure in _figures(finding)]
    figures.append(Figure(name="tokens compared", value=sum(len(f.differences) for f in findings)))
    return Outcome(figures=figures, notes=[_graphs(place)])


def _figures(finding: Finding) -> list[Figure]:
    """Return mean and maximum; nan, which no limit allows, where no token was compared."""
    found = finding.differences if finding.differences.size else np.array([np.nan])
    mean = Figure(
        name=f"{finding.title}: mean difference",
        value=float(found.mean()),
        limit=LOGPROB_MEAN if finding.must_agree else None,
    )
    if "moved" in finding.title:
        return [Figure(name=mean.name, value=mean.value, limit=_MOVED)]
    if not finding.must_agree:
        return [mean]
    largest = Figure(
        name=f"{finding.title}: largest difference", value=float(found.max()), limit=LOGPROB_MAX
    )
    return [mean, largest]


def _graphs(place: Place) -> str:
    if place.is_rehearsal:
        return "CPU twin: a server on the CPU has no CUDA graphs"
    return f"the server runs {EAGER if place.server == EAGER else 'with CUDA graphs'}, at " + (
        f"temperature {TEMPERATURE}"
    )
