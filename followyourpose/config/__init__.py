"""Settings of every verb: a dataclass each, with defaults, units and checks, and a strict reader."""

from followyourpose.config.evaluation import EvaluateConfig, EvaluatePoseConfig, StudyConfig
from followyourpose.config.generation import (
    CropConfig,
    EmbeddingEntry,
    GenerateConfig,
    LoraEntry,
    Output,
    PoseConfig,
    RetargetConfig,
)
from followyourpose.config.loader import ConfigError, build_config, find_model, load_config, save_config, written
from followyourpose.config.sampling import Backend, Noise, PoseGuidance, SamplingConfig
from followyourpose.config.training import (
    DataConfig,
    LoraConfig,
    NetworkConfig,
    OptimConfig,
    TrainConfig,
    ValidationConfig,
)
from followyourpose.hub.places import REPOSITORY, locate

__all__ = [
    "Backend", "build_config", "ConfigError", "CropConfig", "DataConfig", "EmbeddingEntry", "EvaluateConfig",
    "EvaluatePoseConfig", "find_model", "GenerateConfig", "load_config", "locate", "LoraConfig", "LoraEntry",
    "NetworkConfig", "Noise", "OptimConfig", "Output", "PoseConfig", "PoseGuidance", "REPOSITORY",
    "RetargetConfig", "SamplingConfig", "save_config", "StudyConfig", "TrainConfig", "ValidationConfig", "written",
]  # fmt: skip
