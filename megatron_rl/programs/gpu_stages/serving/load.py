"""Load of a server while a learner trains beside it and publishes every step in flight."""

import statistics

import numpy as np

from megatron_rl.programs.gpu_stages.serving.server import backend_note, learner_of_server
from megatron_rl.programs.gpu_stages.sizes import sizes_of
from megatron_rl.programs.gpu_stages.tolerances import NONE_LOST, logprobs_after_updates
from megatron_rl.programs.offline.parity_samples import (
    Answered,
    Asker,
    InFlight,
    as_sequences,
    differences,
    make_prompts,
)
from megatron_rl.programs.stage_runs.result import Figure, Limit, Outcome
from megatron_rl.programs.stage_runs.stage import Place

_SPANNING = Limit(
    at_least=1, reason="a completion of two versions shows that it went on under new weights"
)
_IN_ORDER = Limit(at_most=0, reason="versions of a completion only rise")


def check(place: Place) -> Outcome:
    """Train and publish while sequences run; then compare log-probs with the last version."""
    sizes = sizes_of(place)
    prompts = make_prompts(
        sizes.num_sequences,
        vocab_size=sizes.policy.vocab_size,
        context_length=sizes.context_length,
        seed=1,
    )
    reports = []
    with learner_of_server(place, total_steps=1 + sizes.num_updates) as served:
        asker = Asker(served.run_dir, served.config.generators)
        learner, publisher = served.learner, served.publisher
        publisher.publish(version=0)
        lesson = as_sequences(asker.ask(prompts))
        with InFlight(asker, prompts) as running:
            for version in range(1, 1 + sizes.num_updates):
                learner.update_supervised(lesson)
                reports.append(publisher.publish(version=version))
        answers = running.answers()
        after = asker.ask(prompts)
        errors = differences(
            after, learner.logprobs(as_sequences(after)), version=sizes.num_updates
        )
        note = backend_note(served.config, place)
    return Outcome(
        figures=[
            *_counts(answers),
            Figure(name="updates in flight", value=len(reports)),
            Figure(
                name="publication",
                value=statistics.median(report.seconds for report in reports),
                unit="s",
            ),
            Figure(name="longest pause", value=max(report.pause_s for report in reports), unit="s"),
            *logprobs_after_updates(errors),
        ],
        notes=[note],
    )


def _counts(answers: list[Answered]) -> list[Figure]:
    versions = [np.array(answer.completion.policy_versions) for answer in answers]
    lost = sum(answer.completion.finish_reason != "length" for answer in answers)
    return [
        Figure(name="completions", value=len(answers)),
        Figure(name="completions cut short", value=lost, limit=NONE_LOST),
        Figure(
            name="completions of several versions",
            value=sum(len(set(v.tolist())) > 1 for v in versions),
            limit=_SPANNING,
        ),
        Figure(
            name="completions whose versions fall",
            value=sum(bool((np.diff(v) < 0).any()) for v in versions),
            limit=_IN_ORDER,
        ),
    ]
