"""Reproduction of the paper's Table 1 and its ablations on puppets -> OUT/RESULTS.md.

python -m scripts.reproduce outputs/reproduce                   Table 1 alone, of the networks in checkpoints/
python -m scripts.reproduce outputs/reproduce --train           train the other systems and the ablations first
python -m scripts.reproduce outputs/reproduce --count 1024      all videos of the benchmark, not its quick split

Every system draws the same benchmark and is evaluated alike. To resume after an interruption, run the same command
again: finished parts stay. OUT/logs has the output of each command.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from followyourpose.common.files import atomic_write, read_text
from followyourpose.config import REPOSITORY, TrainConfig, load_config
from scripts.results import FROM_NOISE, OURS, OURS_BOTH, SYSTEMS, read_judged, results_page

CONFIGS = REPOSITORY / "configs" / "puppet"
PROGRAM, BASELINES = ("-m", "followyourpose"), ("-m", "scripts.baselines")
TRAINED = ("controlnet", "t2i-adapter", "animatediff")
FITTED = ("first-order-motion", "everybody-dance-now")  # trained here, in minutes, with or without --train
# row that `evaluate` draws -> its settings
OWN = {OURS: (), OURS_BOTH: ("pose_guidance=both",), f"{OURS}-independent": ("noise=independent",)}
# row that `python -m scripts.baselines draw` draws -> its system and settings
DRAWN: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in SYSTEMS if name not in OWN},
    **{f"{name}-independent": (name, "noise=independent") for name in FROM_NOISE},
    **{f"{name}-conditional": (name, "pose_guidance=conditional") for name in FROM_NOISE},
}
POSE, LEVELS = r"^pose_encoder\.", r"^pose_encoder\.(conv_in|body|zero_convs\.[0-%d])"
QUERIES = r"^unet\..*attn[12]\.to_q"
ATTENTION, CONVOLUTION = r"^unet\..*attn_temp", r"^unet\..*conv_temporal"


@dataclass(frozen=True)
class Ablation:
    """A stage with a short budget and one difference from the paper: config, its settings, and the run before it."""

    config: str
    settings: tuple[str, ...] = ()
    init: str | None = None  # another ablation; None: the base model


def _only(*patterns: str) -> str:
    """Return the setting that trains these weights and no others."""
    quoted = ", ".join(f"'{pattern}'" for pattern in patterns)
    return f"trainable=[{quoted}]"


_stage1 = partial(Ablation, "stage1")
_stage2 = partial(Ablation, "stage2", init="pose-residual")
ABLATIONS = {
    "pose-residual": _stage1(),
    "pose-concat": _stage1(("network.pose_fusion=concat", _only(POSE, "pose_concat"))),
    "pose-1-level": _stage1((_only(LEVELS % 0),)),
    "pose-2-levels": _stage1((_only(LEVELS % 1),)),
    "pose-3-levels": _stage1((_only(LEVELS % 2),)),
    "one-stage": _stage1((_only(POSE, QUERIES, ATTENTION, CONVOLUTION),)),
    "time-paper": _stage2(),
    "time-no-cross-frame": _stage2(("network.cross_frame_attention=false",)),
    "time-no-attention": _stage2((_only(QUERIES, CONVOLUTION),)),
    "time-no-convolution": _stage2((_only(QUERIES, ATTENTION),)),
    "time-norm-per-frame": _stage2(("network.clip_norm=false",)),
}
STEPS = {"stage1": 600, "stage2": 300}


class Reproduction:
    """Commands of the reproduction, in the folder `out`; each method skips what exists already."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.out, self.count, self.data, self.jobs = options.out, options.count, options.data, options.jobs
        self.weights = self.out / "weights" if options.train else REPOSITORY / "checkpoints" / "puppet-baselines"

    def benchmark(self) -> None:
        if not (self.out / "benchmark").exists():
            self.call("benchmark", *PROGRAM, "puppets", self.out / "benchmark",
                      "--benchmark", "puppet-bench-2", "--clips", self.count)  # fmt: skip

    def encode(self, stage: str) -> None:
        """Make the cache of a stage's data, before the trainings that share it run at once."""
        config = CONFIGS / f"{stage}.yaml"
        base = f"init={REPOSITORY / 'checkpoints' / 'puppet-base'}"
        self.call(f"cache-{stage}", *PROGRAM, "cache", config, base, *self.data_of(config))

    def train_system(self, name: str) -> None:
        run = self.out / "runs" / name
        self.train(name, run, CONFIGS / "baselines" / f"{name}.yaml", *BASELINES, "train", name)
        if not (self.weights / name).exists():
            self.call(name, *BASELINES, "export", name, run, self.weights / name)

    def train_ablation(self, name: str) -> None:
        ablation, run, model = ABLATIONS[name], self.out / "runs" / name, self.out / "models" / name
        config = CONFIGS / f"{ablation.config}.yaml"
        settings = [*ablation.settings, f"steps={STEPS[ablation.config]}", "optim.warmup_steps=50"]
        settings += [] if ablation.init is None else [f"init={self.out / 'runs' / ablation.init}"]
        self.train(name, run, config, *PROGRAM, "train", config, *settings)
        if not model.exists():
            self.call(name, *PROGRAM, "export", run, model)

    def train(self, name: str, run: Path, config: Path, *command: object) -> None:
        if not (run / "weights.safetensors").exists():
            self.call(name, *command, f"output={run}", *self.data_of(config), "trackers=[]")

    def data_of(self, config: Path) -> list[str]:
        """Return the settings of a config's data and of their cache."""
        kind = load_config(TrainConfig, config).data.kind
        return [f"data.path={self.data / kind}", f"data.cache={self.data / f'cache-{kind}'}"]

    def fit(self, system: str) -> None:
        if not (self.out / "drawn" / system).exists():
            self.call(system, *BASELINES, "fit", system, self.out / "weights")

    def draw(self, name: str) -> None:
        (system, *settings), folder = DRAWN[name], self.out / "drawn" / name
        if not folder.exists():
            weights = self.out / "weights" if system in FITTED else self.weights
            self.call(name, *BASELINES, "draw", system, self.out / "benchmark", folder, *settings,
                      "--weights", weights, "--jobs", self.jobs)  # fmt: skip

    def judge_drawn(self, name: str) -> None:
        self.judge(name, f"videos={self.out / 'drawn' / name}")

    def judge(self, name: str, *settings: str) -> None:
        folder = self.out / "judged" / name
        if not (folder / "metrics.json").exists():
            self.call(name, *PROGRAM, "evaluate", CONFIGS / "benchmark.yaml", f"output={folder}",
                      f"num_videos={self.count}", *settings)  # fmt: skip

    def judge_ablation(self, name: str) -> None:
        self.judge(name, f"model={self.out / 'models' / name}", "without_skeleton=false", "noise=independent")

    def call(self, name: str, *arguments: object) -> None:
        """Run Python with these arguments, in the repository; its output goes to a log.

        Raises:
            RuntimeError: the command failed; the message names the log and quotes its last line.
        """
        log = self.out / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [str(argument) for argument in arguments]
        print(name, *command[:4], flush=True)
        with open(log, "a", encoding="utf-8") as file:
            done = subprocess.run([sys.executable, *command], cwd=REPOSITORY, stdout=file, stderr=file, check=False)
        if done.returncode:
            last = (read_text(log).strip().splitlines() or ["no output"])[-1]
            raise RuntimeError(f"{name}: failed, see {log}: {last}")


def together(jobs: int, work: Iterable[Callable[[], None]]) -> None:
    """Do all of the work, so many calls at a time, each in its own processes."""
    with ThreadPoolExecutor(jobs) as pool:
        for done in [pool.submit(each) for each in work]:
            done.result()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    folder = {"type": lambda path: Path(path).resolve()}
    parser.add_argument("out", **folder, metavar="OUT", help="folder of the reproduction")
    parser.add_argument("--count", type=int, default=64, metavar="N", help="videos of the benchmark (default: 64)")
    parser.add_argument("--train", action="store_true", help="train the other systems and the ablations first")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), metavar="N", help="commands at a time (default: one per core)"
    )
    parser.add_argument(
        "--data", **folder, default=REPOSITORY / "data" / "puppet", metavar="DIR",
        help="output of `followyourpose puppets DIR --images 60000 --clips 2000`, for --train (default: data/puppet)",
    )  # fmt: skip
    return parser


def train_all(reproduction: Reproduction) -> None:
    """Train the other systems and the ablations, each after the run that it starts from."""
    first = [name for name, ablation in ABLATIONS.items() if ablation.init is None]
    then = [name for name in ABLATIONS if name not in first]
    networks = [partial(reproduction.train_system, name) for name in TRAINED]
    together(reproduction.jobs, [partial(reproduction.encode, stage) for stage in STEPS])
    together(reproduction.jobs, [partial(reproduction.train_ablation, name) for name in first] + networks)
    together(reproduction.jobs, [partial(reproduction.train_ablation, name) for name in then])


def main() -> None:
    options = _parser().parse_args()
    if options.jobs > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // options.jobs)))
    reproduction = Reproduction(options)
    reproduction.benchmark()
    if options.train:
        train_all(reproduction)
    together(options.jobs, [partial(reproduction.fit, system) for system in FITTED])
    for name in DRAWN:
        reproduction.draw(name)
    together(options.jobs, [
        *(partial(reproduction.judge, name, "without_skeleton=false", *own) for name, own in OWN.items()),
        *(partial(reproduction.judge_drawn, name) for name in DRAWN),
        *(partial(reproduction.judge_ablation, name) for name in (ABLATIONS if options.train else ())),
    ])  # fmt: skip
    atomic_write(options.out / "RESULTS.md", results_page(*read_judged(options.out / "judged"), STEPS))
    print(options.out / "RESULTS.md")


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        sys.exit(f"error: {error}")
