"""The run configuration: typed frozen sections, read from TOML, checked before anything starts."""

from megatron_rl.config.algorithm import AlgorithmConfig, correction_bounds, loss_settings
from megatron_rl.config.judging import CodeConfig, JudgeConfig, JudgingConfig, RewardConfig
from megatron_rl.config.launch import ContainerConfig, LaunchConfig, PlacementConfig
from megatron_rl.config.learner import (
    CheckpointConfig,
    Fp8Config,
    LearnerConfig,
    LossScaleConfig,
    OptimizerConfig,
    ParallelConfig,
    Precision,
    SftConfig,
    SftOptimizerConfig,
    resolve_chunk_tokens,
    resolve_precision,
)
from megatron_rl.config.load import json_schema, load_config, load_judging, read_resolved, resolve
from megatron_rl.config.sections import (
    DataConfig,
    EvaluationConfig,
    GeneratorsConfig,
    ModelConfig,
    RolloutConfig,
    RunConfig,
    SamplingConfig,
    TelemetryConfig,
    WeightsConfig,
)

__all__ = [
    "AlgorithmConfig",
    "CheckpointConfig",
    "CodeConfig",
    "ContainerConfig",
    "DataConfig",
    "EvaluationConfig",
    "Fp8Config",
    "GeneratorsConfig",
    "JudgeConfig",
    "JudgingConfig",
    "LaunchConfig",
    "LearnerConfig",
    "LossScaleConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "PlacementConfig",
    "Precision",
    "RewardConfig",
    "RolloutConfig",
    "RunConfig",
    "SamplingConfig",
    "SftConfig",
    "SftOptimizerConfig",
    "TelemetryConfig",
    "WeightsConfig",
    "correction_bounds",
    "json_schema",
    "load_config",
    "load_judging",
    "loss_settings",
    "read_resolved",
    "resolve",
    "resolve_chunk_tokens",
    "resolve_precision",
]
