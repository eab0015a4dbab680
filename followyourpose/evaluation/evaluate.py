"""`followyourpose evaluate`: checks of settings and files, then the comparison of videos or of modes -> a folder.

PyTorch is imported after the checks, so that these take a second.
"""

import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from followyourpose.common.checks import counted
from followyourpose.common.device import machine_memory
from followyourpose.config import ConfigError, EvaluateConfig, find_model, locate
from followyourpose.evaluation.samples import Collection, check_lengths, of_benchmark
from followyourpose.evaluation.sources import read_collection
from followyourpose.generation.checks import model_size
from followyourpose.generation.sharing import KeptArrays, Processes
from followyourpose.models.loading import model_kind
from followyourpose.pose.estimate import check_estimator
from followyourpose.puppets.benchmark import BENCHMARKS

KEYS = {"weights": "detector", "config": "detector_config"}  # argument of the pose estimator -> setting
# Optional package -> the part of the report that needs it.
PACKAGES = {"torchmetrics": "ssim", "pyarrow": "videos.parquet", "matplotlib": "plots.png"}


def evaluate(config: EvaluateConfig) -> Path:
    """Evaluate `config.videos`, or videos that the model draws, or modes of long videos; write the report.

    Its folder is `config.output`, or a new one under outputs/; it is returned. Processes that a launcher started draw
    together. A run that is interrupted goes on when it is called with the same settings and this folder.

    Raises:
        ValueError: the folder has results already, a setting, a video or a skeleton cannot be used, or a model cannot
            be read.
    """
    folder = Path(config.output or f"outputs/evaluate-{time.strftime('%Y%m%d-%H%M%S')}").expanduser()
    if (folder / "metrics.json").exists():
        raise ValueError(f"{folder}: holds a metrics.json; give another `output`, results are never overwritten")
    collection, processes = check(config), Processes()
    folder, settings = processes.agree(folder), asdict(config)
    with processes.run(folder, {key: value for key, value in settings.items() if key != "output"}) as work:
        kept = KeptArrays(processes, work)
        if config.modes:
            from followyourpose.evaluation.long_videos import compare_modes

            compare_modes(config, folder, kept)
        else:
            from followyourpose.evaluation.compare import compare_videos

            compare_videos(config, collection, folder, kept)
    return folder


def check(config: EvaluateConfig) -> Collection | None:
    """Check the files that settings name, and return the collection of `videos`; None: puppets.

    Raises:
        ValueError: a setting, a model, a video or a skeleton cannot be used; the message names the key or the file.
    """
    _check_benchmark(config)
    collection = None if config.videos is None or config.modes else read_collection(locate(config.videos))
    if collection is not None and config.benchmark is not None:
        collection = of_benchmark(collection, config.benchmark)
    if not (find_model(config.clip, "clip") / "config.json").is_file():
        raise ConfigError(f"clip: {config.clip}: no config.json, expected the folder of a CLIPModel")
    try:
        check_estimator(config.backend, config.detector, config.detector_config, config.boxes)
    except ValueError as error:
        name, _, reason = str(error).partition(": ")
        raise ConfigError(f"{KEYS.get(name, name)}: {reason}") from error
    if collection is None or collection.videos is None:
        _check_models(config)
        if collection is not None:
            check_lengths(collection, config.num_frames)
        _check_size(config, config.num_videos if collection is None else len(collection.samples))
    for package, part in {} if config.modes else PACKAGES.items():
        if find_spec(package) is None:
            print(f'{part} is left out: it needs {package}; pip install -e ".[eval]"')
    return collection


def _check_benchmark(config: EvaluateConfig) -> None:
    if config.benchmark is None:
        return
    benchmark = BENCHMARKS[config.benchmark]
    for key in ("seed", "num_frames"):
        if (got := getattr(config, key)) != (fixed := getattr(benchmark, key)):
            raise ConfigError(f"{key}: got {got}, expected {fixed}, that of {config.benchmark}")
    if config.videos is None and config.num_videos > benchmark.num_videos:
        raise ConfigError(
            f"num_videos: got {config.num_videos}, expected at most {benchmark.num_videos}, those of {config.benchmark}"
        )


def _check_size(config: EvaluateConfig, videos: int) -> None:
    """Print where the benchmark has frames of another size than the model's.

    Raises:
        ConfigError: the drawn videos and the real frames alone, as bytes, exceed the memory.
    """
    if (sizes := model_size(find_model(config.model, "model"))) is None:
        return  # loading the model reports it
    if config.benchmark is not None and config.videos is None:
        if (size := BENCHMARKS[config.benchmark].size) != sizes[0]:
            print(f"{config.benchmark} has frames of {size} pixels, the model draws {sizes[0]}: compare no other size")
    sets = 2 + config.without_skeleton
    needed = 3 * sets * videos * config.num_frames * sizes[0] ** 2
    if needed > (memory := machine_memory()):
        raise ConfigError(
            f"num_videos, num_frames: got {sets} sets of {videos} videos of {counted(config.num_frames, 'frame')}, "
            f"which take {needed / 2**30:,.0f} GiB of memory, expected at most {memory / 2**30:,.0f} GiB"
        )


def _check_models(config: EvaluateConfig) -> None:
    keys = ["model"] if config.image_model is None or config.modes else ["model", "image_model"]
    for key in keys:
        folder = find_model(getattr(config, key), key)
        try:
            kind = model_kind(folder)
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from error
        if key == "model" and kind != "pipeline":
            raise ConfigError(f"model: {config.model}: an image model, expected the folder of a FollowYourPosePipeline")
