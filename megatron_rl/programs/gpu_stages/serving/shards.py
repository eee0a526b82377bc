"""Shards from the learner's device to a server that proves them, and log-probs after an update."""

import statistics

from megatron_rl.programs.gpu_stages.serving.server import backend_note, learner_of_server
from megatron_rl.programs.gpu_stages.sizes import sizes_of
from megatron_rl.programs.gpu_stages.tolerances import logprobs_after_updates
from megatron_rl.programs.offline.parity_samples import (
    Asker,
    as_sequences,
    differences,
    make_prompts,
)
from megatron_rl.programs.stage_runs.result import Figure, Limit, Outcome
from megatron_rl.programs.stage_runs.stage import Place
from megatron_rl.transfers import read_transfers

_NUM_UPDATES = 3
_SHARDED = Limit(
    at_least=1,
    at_most=1,
    reason="the one server proves shards with the first publication, and is sent them from then on",
)


def check(place: Place) -> Outcome:
    """Admit the server, train, publish by shards, and compare log-probs with the last version."""
    sizes = sizes_of(place)
    prompts = make_prompts(
        sizes.num_sequences,
        vocab_size=sizes.policy.vocab_size,
        context_length=sizes.context_length,
        seed=2,
    )
    with learner_of_server(
        place, total_steps=1 + _NUM_UPDATES, weights={"transport": "shards", "verify": "always"}
    ) as served:
        asker = Asker(served.run_dir, served.config.generators)
        served.publisher.publish(version=0)
        refusals = [t.reason for t in read_transfers(served.run_dir).values() if t.reason]
        lesson = as_sequences(asker.ask(prompts))
        reports = []
        for version in range(1, 1 + _NUM_UPDATES):
            served.learner.update_supervised(lesson)
            reports.append(served.publisher.publish(version=version))
        after = asker.ask(prompts)
        errors = differences(
            after, served.learner.logprobs(as_sequences(after)), version=_NUM_UPDATES
        )
        note = backend_note(served.config, place)
    seconds = statistics.median(report.seconds for report in reports)
    return Outcome(
        figures=[
            Figure(
                name="servers that were sent shards, at worst",
                value=min(report.num_sharded for report in reports),
                limit=_SHARDED,
            ),
            *logprobs_after_updates(errors),
            Figure(name="received", value=reports[-1].received_bytes / 2**20, unit="MiB"),
            Figure(name="publication", value=seconds, unit="s"),
            Figure(
                name="pause of the server",
                value=statistics.median(report.pause_s for report in reports),
                unit="s",
            ),
            Figure(name="rate", value=reports[-1].num_bytes / seconds / 1e9, unit="GB/s"),
        ],
        notes=[note, *(f"not by shards: {reason}" for reason in refusals)],
    )
