"""Show that a real SGLang server and the Megatron learner agree on every sampled token.

    tools/compare_logprobs.py MODEL_DIR [--random-weights] [--temperature 0.7]
    torchrun --nproc-per-node 2 tools/compare_logprobs.py MODEL_DIR --tp 2

Samples sequences of mixed length, compares the reported log-probability of every token with the
learner's, changes the weights, publishes them while sequences are in flight, and compares again:
the old tokens of the sequences in flight, and new sequences after the same prompts, whose stale
prefixes lie in the server's cache. Exits 1 when a difference exceeds the tolerance.
"""

import argparse
import contextlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_rl.cli import exit_code_of
from megatron_rl.config import RunConfig, resolve
from megatron_rl.run_dir import RunDir

if TYPE_CHECKING:
    from megatron_rl.programs.offline.compare_logprobs import Finding


def main(argv: Sequence[str] | None = None) -> int:
    """Compare; 0 when everything agrees, 1 when something does not."""
    options = _parser().parse_args(argv)
    return exit_code_of(lambda: _compare(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL_DIR", help="Hugging Face folder")
    add("--random-weights", action="store_true", help="make up weights; the folder needs none")
    add("--num-sequences", type=int, default=64, help="of every comparison (%(default)s)")
    add("--context-length", type=int, default=256, help="longest sequence (%(default)s)")
    add("--temperature", type=float, default=1.0, help="of sampling (%(default)s)")
    add("--top-p", type=float, default=1.0, help="nucleus of sampling (%(default)s)")
    add("--top-k", type=int, default=None, help="tokens to sample from (all)")
    add("--min-p", type=float, default=0.0, help="least share of the likeliest (%(default)s)")
    add("--rope-scaling", type=json.loads, metavar="JSON", help="as model.rope_scaling")
    add("--dtype", choices=("float32", "bfloat16"), default="float32")
    add("--tp", type=int, default=1, help="tensor-parallel size of the learner, under torchrun")
    add("--num-updates", type=int, default=3, help="optimiser steps between versions")
    add("--learning-rate", type=float, default=2e-3, help="of these steps (%(default)s)")
    add("--tolerance", type=float, default=1e-4, help="largest difference (%(default)s)")
    add("--run-dir", type=Path, default=Path("runs/compare-logprobs"), help="emptied at the start")
    add("--serve-python", type=Path, default=None, help="interpreter that has sglang")
    return parser


def _config(options: argparse.Namespace) -> RunConfig:
    generators = {
        "context_length": options.context_length,
        "sampling": {
            "temperature": options.temperature,
            "top_p": options.top_p,
            "top_k": options.top_k,
            "min_p": options.min_p,
            "max_new_tokens": options.context_length - 1,
        },
    }
    if options.serve_python is not None:
        generators["python"] = options.serve_python
    return resolve(
        {
            "run_dir": options.run_dir,
            "num_steps": options.num_updates,
            "model": {
                "path": options.model,
                "dtype": options.dtype,
                "init": "random" if options.random_weights else "pretrained",
                "rope_scaling": options.rope_scaling,
            },
            "data": {"train": options.model / "none"},
            "generators": generators,
            "learner": {
                "num_processes": options.tp,
                "token_budget": max(2048, options.context_length),
                "parallel": {"tp": options.tp},
                "optimizer": {"lr": options.learning_rate, "warmup_steps": 0},
            },
        }
    )


def _compare(options: argparse.Namespace) -> int:
    config = _config(options)
    from megatron_rl.programs.processes.logs import start_logging

    start_logging()
    # Late: Megatron takes seconds to import.
    from megatron_rl.conversion.families import read_model_spec
    from megatron_rl.learner.device.parallel import shut_down_parallel
    from megatron_rl.programs.builders.learner import open_learner
    from megatron_rl.programs.builders.model import first_weights
    from megatron_rl.programs.builders.publisher import open_publisher
    from megatron_rl.programs.builders.server import run_local_server
    from megatron_rl.programs.offline.compare_logprobs import Comparison
    from megatron_rl.programs.offline.parity_samples import make_prompts

    pretrained = first_weights(config)
    learner, parallel, platform = open_learner(
        config,
        config.learner.optimizer,
        objective=None,
        pretrained=pretrained,
        temperature=options.temperature,
        total_steps=1 + options.num_updates,
    )
    prompts = make_prompts(
        options.num_sequences,
        vocab_size=read_model_spec(options.model).vocab_size,
        context_length=options.context_length,
        seed=config.seed,
    )
    with contextlib.ExitStack() as stack:
        stack.callback(shut_down_parallel)
        if parallel.is_first:
            shutil.rmtree(config.run_dir, ignore_errors=True)
            stack.enter_context(run_local_server(config, starts_without_weights=pretrained is None))
        publisher = open_publisher(config, platform, learner, parallel)
        stack.callback(publisher.close)
        run_dir = RunDir(config.run_dir)
        comparison = Comparison(run_dir, learner, publisher, config.generators, prompts)
        findings = [] if pretrained is None else list(comparison.as_loaded())
        findings += comparison.around_an_update(num_updates=options.num_updates)
        if not parallel.is_first:
            return 0
        return 0 if _report(findings, tolerance=options.tolerance) else 1


def _report(findings: "Sequence[Finding]", *, tolerance: float) -> bool:
    """Print every finding; return whether all that must agree do, and have something to show."""
    print(f"{'':<45}{'sequences':>10}{'tokens':>9}{'max':>11}{'mean':>11}")
    holds = True
    for finding in findings:
        found = finding.differences
        if not found.size:
            print(f"{finding.title:<45}  no token to compare")
            holds = False
            continue
        verdict = ""
        if finding.must_agree:
            agrees = bool(found.max() <= tolerance)
            verdict = "agrees" if agrees else f"DIFFERS by more than {tolerance}"
            holds = holds and agrees
        print(
            f"{finding.title:<45}{finding.num_sequences:>10}{found.size:>9}"
            f"{found.max():>11.2e}{found.mean():>11.2e}  {verdict}"
        )
    return holds


if __name__ == "__main__":
    sys.exit(main())
