"""The run configuration: typed frozen sections, read from TOML, checked before anything starts."""

from megatron_rl.config.algorithm import AlgorithmConfig, correction_bounds, loss_settings
from megatron_rl.config.judging import JudgeConfig, RewardConfig
from megatron_rl.config.launch import ContainerConfig, LaunchConfig, PlacementConfig
from megatron_rl.config.learner import (
    CheckpointConfig,
    LearnerConfig,
    OptimizerConfig,
    ParallelConfig,
    SftConfig,
    SftOptimizerConfig,
)
from megatron_rl.config.load import json_schema, load_config, read_resolved, resolve
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
    "ContainerConfig",
    "DataConfig",
    "EvaluationConfig",
    "GeneratorsConfig",
    "JudgeConfig",
    "LaunchConfig",
    "LearnerConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "PlacementConfig",
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
    "loss_settings",
    "read_resolved",
    "resolve",
]
