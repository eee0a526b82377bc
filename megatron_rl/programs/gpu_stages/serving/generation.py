"""Generation by a server: tokens per second with a fixed number of completions in flight."""

import asyncio
import random
import time
from dataclasses import dataclass

from megatron_rl.config import RunConfig
from megatron_rl.generation.router import Router
from megatron_rl.programs.gpu_stages.serving.server import server_config
from megatron_rl.programs.gpu_stages.sizes import sizes_of
from megatron_rl.programs.stage_runs.result import Figure, Limit, Outcome
from megatron_rl.programs.stage_runs.stage import Place
from megatron_rl.registry import PolicyState, publish_policy_state, registered_servers
from megatron_rl.run_dir import RunDir
from megatron_rl.types import Sampling

_POLL_S = 0.1
_WARM_UP_S = 2.0
_SHARED = Limit(
    at_least=1.5,
    reason="sequences of one batch share the reading of the weights, which is most of what one "
    "sequence alone waits for",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """Completions that are asked for without a pause."""

    in_flight: int
    prompt: int
    """Tokens of a prompt."""
    shortest: int
    """Tokens of a completion."""
    longest: int
    vocab_size: int
    seconds: float
    """That are measured."""
    warm_up_s: float = _WARM_UP_S


def check(place: Place) -> Outcome:
    """Measure one completion at a time, and many."""
    config, sizes = server_config(place), sizes_of(place)
    _acknowledge(RunDir(config.run_dir))
    context = sizes.context_length
    speeds = {}
    for in_flight in (1, sizes.in_flight):
        load = Load(
            in_flight=in_flight,
            prompt=context // 8,
            shortest=context // 4,
            longest=context // 2,
            vocab_size=sizes.policy.vocab_size,
            seconds=sizes.seconds,
            warm_up_s=sizes.seconds / 5,
        )
        speeds[in_flight] = asyncio.run(tokens_per_s(config, load))
    alone, together = speeds[1], speeds[sizes.in_flight]
    return Outcome(
        figures=[
            Figure(name="one completion at a time", value=alone, unit="tokens/s"),
            Figure(name=f"{sizes.in_flight} at a time", value=together, unit="tokens/s"),
            Figure(
                name=f"{sizes.in_flight} at a time over one",
                value=together / alone if alone else float("nan"),
                unit="times",
                # What else runs on a CPU decides there.
                limit=None if place.is_rehearsal else _SHARED,
            ),
        ],
        notes=[
            f"the model is {sizes.policy.name}, of random weights, in bf16",
            *(["CPU twin: a server on the CPU"] if place.is_rehearsal else []),
        ],
    )


def _acknowledge(run_dir: RunDir) -> None:
    """Let the server be asked, whichever weights it has: only its speed is of interest."""
    servers = {name: info.incarnation for name, info in registered_servers(run_dir).items()}
    publish_policy_state(run_dir, PolicyState(version=0, servers=servers))


async def tokens_per_s(config: RunConfig, load: Load) -> float:
    """Keep the load running; return the tokens per second that came out.

    Only tokens of completions that end within the measured seconds count.
    """
    ended: list[tuple[float, int]] = []
    started = time.monotonic()
    stop_at = started + load.warm_up_s + load.seconds

    async def keep_asking(router: Router, seed: int) -> None:
        rng = random.Random(seed)
        while time.monotonic() < stop_at:
            generate = await router.lease()
            prompt = [rng.randrange(2, load.vocab_size) for _ in range(load.prompt)]
            params = {
                "temperature": 1.0,
                "max_new_tokens": rng.randint(load.shortest, load.longest),
                "ignore_eos": True,
            }
            completion = await generate(prompt, Sampling(params=params), request_id="load")
            ended.append((time.monotonic(), len(completion.token_ids)))

    async with open_router(config) as router:
        await asyncio.gather(*(keep_asking(router, seed) for seed in range(load.in_flight)))
    in_window = [n for at, n in ended if started + load.warm_up_s <= at <= stop_at]
    return sum(in_window) / load.seconds


def open_router(config: RunConfig) -> Router:
    """Return a router over the servers that have acknowledged the policy version of the run."""
    generators = config.generators
    return Router(
        RunDir(config.run_dir),
        admit="acknowledged",
        max_attempts=generators.max_attempts,
        backoff_s=generators.backoff_s,
        request_timeout_s=generators.request_timeout_s,
        wait_timeout_s=generators.start_timeout_s,
        poll_s=_POLL_S,
    )
