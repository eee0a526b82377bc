"""Rules that span sections: what breaks each, and that the message has keys and values."""

import json
from typing import Any

import pytest

from megatron_rl.config import RunConfig, resolve
from megatron_rl.errors import ConfigError


def config_of(**settings: Any) -> RunConfig:
    """Resolve a minimal configuration with ``section__key=value`` settings on top."""
    data: dict[str, Any] = {
        "run_dir": "run",
        "num_steps": 1,
        "model": {"path": "model"},
        "data": {"train": "train.jsonl"},
    }
    for name, value in settings.items():
        *sections, key = name.split("__")
        table = data
        for section in sections:
            table = table.setdefault(section, {})
        table[key] = value
    return resolve(json.loads(json.dumps(data)))


def refusals(**settings: Any) -> list[str]:
    with pytest.raises(ConfigError) as error:
        config_of(**settings)
    return str(error.value).splitlines()


def test_the_defaults_break_no_rule():
    config_of()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"rollout__n_batch": 100},
            "rollout.n_batch (100) must be a multiple of rollout.group_size (16); nearest: 96",
        ),
        (
            {"judge__memory_mb": 400, "judge__code__output_mb": 64},
            "judge.memory_mb (400) must be >= 640, which is 128 and 8 times judge.code.output_mb "
            "(64): a worker compares what solutions print",
        ),
        (
            {"generators__quantization": "block_fp8", "model__dtype": "float32"},
            'generators.quantization ("block_fp8") needs model.dtype = "bfloat16", which is '
            '"float32" here: servers compute with bfloat16 on both sides of an FP8 matrix',
        ),
        (
            {"generators__quantization": "block_fp8", "weights__transport": "disk"},
            'generators.quantization ("block_fp8") cannot be used with weights.transport ("disk"), '
            'whose folders have weights of model.dtype; set weights.transport = "auto"',
        ),
        (
            {
                "generators__quantization": "block_fp8",
                "generators__sglang": {"json-model-override-args": "{}"},
            },
            "generators.sglang.json-model-override-args cannot be used with "
            'generators.quantization ("block_fp8"), which sets this flag; write the changes into '
            "config.json of model.path",
        ),
        (
            {"generators__tp": 8, "generators__nodes_per_server": 3},
            "generators.tp (8) must be a multiple of generators.nodes_per_server (3), whose nodes "
            "all get as many ranks",
        ),
        (
            {
                "generators__sampling__top_p": 0.9,
                "generators__sglang": {"speculative-algorithm": "NGRAM"},
            },
            "generators.sglang.speculative-algorithm ('NGRAM') cannot be used with "
            "generators.sampling.top_p < 1, top_k or min_p: SGLang does not report what drafted "
            "tokens were chosen from, without which training is biased; remove one of them",
        ),
        (
            {"evaluation__sampling": {"n": 4}},
            "evaluation.sampling.n cannot be set here: set evaluation.num_samples",
        ),
        (
            {"evaluation__sampling": {"max_new_tokens": 5000}},
            "evaluation.sampling.max_new_tokens (5000) must be a whole number from 1 to "
            "generators.sampling.max_new_tokens (4096); evaluation.max_new_tokens may be more",
        ),
        (
            {"rollout__n_batch": 3},  # 3 / 16 rounds to no group at all
            "rollout.n_batch (3) must be a multiple of rollout.group_size (16); nearest: 16",
        ),
        (
            {"rollout__group_size": 3, "rollout__n_batch": 12, "rollout__n_minibatch": 4},
            "rollout.n_minibatch (4) must be a multiple of rollout.group_size (3), "
            "since a group is never split",
        ),
        (
            {"rollout__n_batch": 64, "rollout__n_minibatch": 48},
            "rollout.n_batch (64) must be a multiple of rollout.n_minibatch (48)",
        ),
        (
            {"rollout__n_batch": 64, "rollout__n_minibatch": 128},  # larger than the batch
            "rollout.n_batch (64) must be a multiple of rollout.n_minibatch (128)",
        ),
        (
            {"rollout__n_async": 15},
            "rollout.n_async (15) must be >= rollout.group_size (16), "
            "or no group is ever whole in flight",
        ),
        (
            {"rollout__lag": 2},
            'rollout.lag (2) is for rollout.mode = "lagged", which is "async" here; remove it, '
            "or set the mode",
        ),
        (
            {"learner__num_processes": 6, "learner__parallel__tp": 4},
            "learner.num_processes (6) must be a multiple of learner.parallel tp * pp * cp "
            "(4 * 1 * 1 = 4)",
        ),
        (
            {"launch__container__runtime": "pyxis"},
            'launch.container.runtime ("pyxis") needs launch.container.learner_image, in which '
            "learn, rollout and preflight run",
        ),
        (
            {"launch__container__unpack_once": True},
            'launch.container.unpack_once (true) needs launch.container.runtime = "pyxis" and '
            "launch.preflight = true, which unpacks the images; set it to false",
        ),
        (
            {"learner__parallel__sp": True},
            "learner.parallel.sp needs learner.parallel.tp >= 2; set sp = false",
        ),
        (
            {"learner__parallel__overlap_param_gather": True},
            "learner.parallel.overlap_param_gather needs overlap_grad_reduce = true",
        ),
        (
            {"learner__token_budget": 4095},
            "learner.token_budget (4095) must hold one completion: "
            "generators.sampling.max_new_tokens is 4096",
        ),
        (
            {"learner__optimizer__min_lr": 1e-5},
            "learner.optimizer.min_lr (1e-05) must be <= learner.optimizer.lr (1e-06)",
        ),
        (
            {"learner__loss_scale__initial": 1024.0},
            '[learner.loss_scale] is for learner.precision = "fp16", which is "bf16" here; remove '
            "the table, or set the precision",
        ),
        (
            {"learner__fp8__recipe": "delayed", "model__dtype": "float32"},
            '[learner.fp8] is for learner.precision = "fp8", which is "fp32" here; remove the '
            "table, or set the precision",
        ),
        (
            {"learner__precision": "fp16", "learner__loss_scale__minimum": 131072.0},
            "learner.loss_scale.minimum (131072.0) must be <= learner.loss_scale.initial (65536.0)",
        ),
        (
            {
                "learner__precision": "fp8",
                "learner__fp8__recipe": "delayed",
                "learner__fp8__first_last_layers_bf16": True,
            },
            "learner.fp8.first_last_layers_bf16 (True) does nothing or fails with "
            'learner.fp8.recipe = "delayed"; remove it, or use tensorwise or blockwise or mxfp8',
        ),
        (
            {"learner__precision": "fp8", "learner__fp8__amax_history_len": 16},
            "learner.fp8.amax_history_len (16) does nothing or fails with "
            'learner.fp8.recipe = "tensorwise"; remove it, or use delayed',
        ),
        (
            {"sft__data": "pairs.jsonl", "sft__optimizer__min_lr": 1e-3},
            "sft.optimizer.min_lr (0.001) must be <= sft.optimizer.lr (1e-05)",
        ),
        (
            {"algorithm__clip_high": 0.1},
            "algorithm.clip_high (0.1) must be >= algorithm.clip_low (0.2)",
        ),
        (
            {"algorithm__loss": "grpo", "algorithm__clip_low": 0.3},  # GRPO's ceiling is 1.2
            "algorithm.clip_high (0.2) must be >= algorithm.clip_low (0.3)",
        ),
        (
            {"algorithm__log_ratio_bound": 0.2},  # the ceiling is 1.28
            "algorithm.log_ratio_bound (0.2) must be > the logarithm of 1 + algorithm.clip_high "
            "(0.247): ratios are bounded before they are clipped or masked",
        ),
        (
            {"algorithm__correction": "mis", "algorithm__correction_high": 1e12},
            "algorithm.log_ratio_bound (20.0) must be > the logarithm of algorithm.correction_high "
            "(27.6): ratios are bounded before they are clipped or masked",
        ),
        (
            {"algorithm__correction_high": 3.0},
            'algorithm.correction_high needs algorithm.correction = "tis", "mis" or "icepop"',
        ),
        (
            {"algorithm__correction": "tis", "algorithm__correction_low": 2.5},
            "algorithm.correction_low (2.5) must be <= algorithm.correction_high (2.0)",
        ),
        (
            {"reward__length_cache": 4097},
            "reward.length_cache (4097) must be <= generators.sampling.max_new_tokens (4096)",
        ),
        (
            {"generators__context_length": 4096},
            "generators.context_length (4096) must be > "
            "generators.sampling.max_new_tokens (4096): the prompt needs room",
        ),
    ],
)
def test_a_broken_rule_is_reported_once_with_keys_and_values(settings, message):
    assert refusals(**settings) == [message]


@pytest.mark.parametrize(
    "settings",
    [
        {"rollout__n_batch": 64, "rollout__n_minibatch": 32},
        {"rollout__n_batch": 64, "rollout__n_minibatch": 64},
        {"rollout__n_async": 16},
        {"rollout__mode": "lagged", "rollout__lag": 2},
        {"learner__precision": "fp32"},  # published in bf16, the type of model.dtype
        {"learner__precision": "bf16", "model__dtype": "float32"},
        {"learner__precision": "fp16", "learner__loss_scale__initial": 1024.0},
        {"model__dtype": "float16", "learner__loss_scale__initial": 1024.0},
        {"learner__precision": "fp8", "learner__fp8__first_last_layers_bf16": True},
        {
            "learner__precision": "fp8",
            "learner__fp8__recipe": "delayed",
            "learner__fp8__amax_history_len": 16,
        },
        {"learner__num_processes": 8, "learner__parallel__tp": 4},
        {
            "learner__num_processes": 2,
            "learner__parallel__tp": 2,
            "learner__parallel__sp": True,
        },
        {
            "learner__parallel__overlap_param_gather": True,
            "learner__parallel__overlap_grad_reduce": True,
        },
        {"learner__token_budget": 4096},
        {"learner__optimizer__min_lr": 1e-6},
        {"algorithm__clip_high": 0.2},
        {"algorithm__loss": "gspo"},
        {"algorithm__log_ratio_bound": 0.25},  # log 1.28 is 0.247
        {"algorithm__loss": "cispo", "algorithm__clip_high": 0.5},  # a ceiling without a floor
        {"algorithm__correction": "icepop", "algorithm__correction_high": 0.5},
        {"reward__length_cache": 4096},
        {"launch__container__runtime": "apptainer", "launch__container__learner_image": "l.sif"},
        {"generators__context_length": 4097},
    ],
)
def test_the_edge_of_a_rule_is_allowed(settings):
    config_of(**settings)


def test_all_broken_rules_are_reported_together():
    messages = refusals(rollout__n_async=1, learner__parallel__sp=True, algorithm__clip_high=0.1)
    assert [message.split()[0] for message in messages] == [
        "rollout.n_async",
        "learner.parallel.sp",
        "algorithm.clip_high",
    ]
