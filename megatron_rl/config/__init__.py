"""Run configuration: typed frozen sections, read from TOML, checked before anything starts."""

from megatron_rl.config.algorithm import AlgorithmConfig, correction_bounds, loss_settings
from megatron_rl.config.columns import ColumnsConfig, column_names
from megatron_rl.config.evaluation import EvaluationConfig, EvaluationSetConfig
from megatron_rl.config.held_out import (
    HeldOutSet,
    held_out_columns,
    held_out_sets,
    unnamed_set,
    with_filled_sets,
)
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
from megatron_rl.config.lifecycle import LifecycleConfig
from megatron_rl.config.load import json_schema, load_config, load_judging, read_resolved, resolve
from megatron_rl.config.rope import LLAMA3_FACTORS, RopeScalingConfig
from megatron_rl.config.sections import (
    OWN_NAME,
    DataConfig,
    DifficultyConfig,
    GeneratorsConfig,
    ModelConfig,
    RolloutConfig,
    RunConfig,
    SamplingConfig,
    TelemetryConfig,
    WeightsConfig,
)
from megatron_rl.config.sources import SourceConfig
from megatron_rl.config.stage_configs import optimizer_steps, planned_stages, staged_config
from megatron_rl.config.stages import (
    EndsWhenConfig,
    LengthStagnates,
    PassRatePlateaus,
    ProblemsSolved,
    RewardPlateaus,
    StageConfig,
    StagePlace,
)

__all__ = [
    "LLAMA3_FACTORS",
    "OWN_NAME",
    "AlgorithmConfig",
    "CheckpointConfig",
    "CodeConfig",
    "ColumnsConfig",
    "ContainerConfig",
    "DataConfig",
    "DifficultyConfig",
    "EndsWhenConfig",
    "EvaluationConfig",
    "EvaluationSetConfig",
    "Fp8Config",
    "GeneratorsConfig",
    "HeldOutSet",
    "JudgeConfig",
    "JudgingConfig",
    "LaunchConfig",
    "LearnerConfig",
    "LengthStagnates",
    "LifecycleConfig",
    "LossScaleConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "PassRatePlateaus",
    "PlacementConfig",
    "Precision",
    "ProblemsSolved",
    "RewardConfig",
    "RewardPlateaus",
    "RolloutConfig",
    "RopeScalingConfig",
    "RunConfig",
    "SamplingConfig",
    "SftConfig",
    "SftOptimizerConfig",
    "SourceConfig",
    "StageConfig",
    "StagePlace",
    "TelemetryConfig",
    "WeightsConfig",
    "column_names",
    "correction_bounds",
    "held_out_columns",
    "held_out_sets",
    "json_schema",
    "load_config",
    "load_judging",
    "loss_settings",
    "optimizer_steps",
    "planned_stages",
    "read_resolved",
    "resolve",
    "resolve_chunk_tokens",
    "resolve_precision",
    "staged_config",
    "unnamed_set",
    "with_filled_sets",
]
