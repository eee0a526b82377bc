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
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from megatron_rl.cli import exit_code_of
from megatron_rl.config import RunConfig, resolve
from megatron_rl.run_dir import RunDir

_MOVED = 10
"""An update that is to show anything moves log-probs by this many tolerances on average."""


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
            },
            "data": {"train": options.model / "none"},
            "generators": generators,
            "learner": {
                "token_budget": 2048,
                "parallel": {"tp": options.tp},
                "optimizer": {"lr": options.learning_rate, "warmup_steps": 0},
            },
        }
    )


def _compare(options: argparse.Namespace) -> int:
    # Late: Megatron takes seconds to import.
    from megatron_rl.learner.parallel import shut_down_parallel
    from megatron_rl.programs.learn import make_publisher
    from megatron_rl.programs.learner_setup import open_learner
    from megatron_rl.programs.local_server import serving
    from megatron_rl.programs.starting_weights import first_weights

    config = _config(options)
    pretrained = first_weights(config)
    learner, parallel, platform = open_learner(
        config,
        config.learner.optimizer,
        pretrained=pretrained,
        temperature=options.temperature,
        total_steps=options.num_updates,
    )
    with contextlib.ExitStack() as stack:
        stack.callback(shut_down_parallel)
        publisher = None
        if parallel.is_first:
            shutil.rmtree(config.run_dir, ignore_errors=True)
            stack.enter_context(serving(config, awaits_weights=pretrained is None))
            publisher = make_publisher(config, platform)
            stack.callback(publisher.close)
        comparison = Comparison(config, learner, publisher, options)
        if pretrained is not None:
            comparison.as_loaded()
        comparison.before_the_update()
        comparison.in_flight()
        comparison.after_the_update()
        return 0 if comparison.holds else 1


class Comparison:
    """One model in a server and in the learner; its methods run on all ranks together, in order.

    ``publisher`` is None on all ranks but the first.
    """

    def __init__(
        self, config: RunConfig, learner: Any, publisher: Any, options: argparse.Namespace
    ) -> None:
        from megatron_rl.conversion.families import read_model_spec
        from megatron_rl.programs.parity import make_questions

        self.holds = True
        self._run_dir, self._generators = RunDir(config.run_dir), config.generators
        self._learner, self._publisher = learner, publisher
        self._tolerance, self._num_updates = options.tolerance, options.num_updates
        self._questions = make_questions(
            options.num_sequences,
            vocab_size=read_model_spec(config.model.path).vocab_size,
            context_length=options.context_length,
            seed=config.seed,
        )

    def as_loaded(self) -> None:
        """Compare the weights that the server has read from the folder by itself."""
        answers = self._on_first("loaded", lambda: self._asker("registered").ask(self._questions))
        self._check("weights as the server loaded them", answers, version=0)

    def before_the_update(self) -> None:
        """Publish the learner's weights and compare."""
        self._publish(0)
        answers = self._on_first("before", lambda: self._asker().ask(self._questions))
        self._check("before the update", answers, version=0)
        self._first_answers = answers

    def in_flight(self) -> None:
        """Change the weights, publish in flight, and compare what the old weights had sampled."""
        from megatron_rl.programs.parity import InFlight, as_sequences

        before, after = (self._run_dir.root / "learner" / name for name in ("before", "after"))
        self._learner.save(before, 0, extra={})
        for _ in range(self._num_updates):
            self._learner.update_supervised(as_sequences(self._first_answers))
        self._learner.save(after, self._num_updates, extra={})
        if self._publisher is None:
            self._publish(1)
            answers = self._on_first("in_flight", list)
        else:
            with InFlight(self._asker(), self._questions) as running:
                report = self._publish(1)
            answers = self._on_first("in_flight", running.answers)
            print(f"published {report.num_bytes:,} bytes, paused for {report.pause_s:.3f} s")
        self._learner.restore(before)
        self._check("in flight, tokens of the old weights", answers, version=0)
        self._learner.restore(after)
        self._check(
            "in flight, tokens of the new weights after an old KV cache",
            answers,
            version=1,
            is_exact=False,
        )
        moved = self._check(
            "(the first samples under the new weights)",
            self._first_answers,
            version=0,
            is_exact=False,
        )
        if moved < _MOVED * self._tolerance:
            self._fail("the update hardly moved any log-prob; raise --learning-rate")

    def after_the_update(self) -> None:
        """Compare new sequences after the prompts that older weights have left in the cache."""
        answers = self._on_first("after", lambda: self._asker().ask(self._questions))
        self._check("after the update, the same prompts", answers, version=1)

    def _asker(self, admit: Any = "acknowledged") -> Any:
        from megatron_rl.programs.parity import Asker

        return Asker(self._run_dir, self._generators, admit=admit)

    def _publish(self, version: int) -> Any:
        weights = self._learner.named_weights()
        if self._publisher is not None:
            return self._publisher.publish(weights, version=version)
        for _ in weights:  # gathered along with the first rank
            pass
        return None

    def _on_first(self, name: str, sample: Callable[[], Any]) -> Any:
        """Sample on the first rank and return the answers on all."""
        import torch.distributed as dist

        from megatron_rl.programs.parity import load_answers, save_answers

        path = self._run_dir.root / "answers" / f"{name}.json"
        if self._publisher is not None:
            save_answers(path, sample())
        dist.barrier()
        return load_answers(path)

    def _check(self, title: str, answers: Any, *, version: int, is_exact: bool = True) -> float:
        """Print one comparison; return its mean difference."""
        from megatron_rl.programs.parity import as_sequences, differences

        logprobs = self._learner.logprobs(as_sequences(answers))
        found = differences(answers, logprobs, version=version)
        if not len(found):
            self._fail(f"{title}: no token to compare")
            return 0.0
        agrees = bool(found.max() <= self._tolerance)
        verdict = "" if not is_exact else "agrees" if agrees else "DIFFERS"
        if self._publisher is not None:
            print(
                f"{title:<60} {len(answers):>5} sequences {len(found):>7} tokens  "
                f"max {found.max():.2e}  mean {found.mean():.2e}  {verdict}",
                flush=True,
            )
        self.holds = self.holds and (agrees or not is_exact)
        return float(found.mean())

    def _fail(self, reason: str) -> None:
        self.holds = False
        if self._publisher is not None:
            print(reason, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
