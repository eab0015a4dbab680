"""What every YAML file may say, and a strict loader."""

from followyourpose.config.loader import *  # noqa: F403
from followyourpose.config.loader import ConfigError, build_config, load_config, locate  # noqa: F401
