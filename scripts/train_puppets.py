"""Trains the embedded default anew, from nothing to the folders under checkpoints/: data, networks, both stages.

    python scripts/train_puppets.py OUT                                         one process
    OMP_NUM_THREADS=1 torchrun --nproc_per_node 2 scripts/train_puppets.py OUT   one per core; or per GPU

Everything goes to OUT: the world's pictures in OUT/data and, for the judges, OUT/data-all; encoded ones in
OUT/cache-images and OUT/cache-clips; a folder per run; and at the end OUT/checkpoints, to be moved over the
repository's. To resume, run the same command again.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from accelerate import PartialState

from followyourpose.config import REPOSITORY, TrainConfig, load_config
from followyourpose.puppets.dataset import write_dataset
from followyourpose.training.components import export
from followyourpose.training.loop import train

# folder -> kind -> what write_dataset puts there
DATA = {
    "data": {"images": {"images": 60_000}, "clips": {"clips": 2_000}},
    "data-all": {"images": {"images": 60_000, "seed": 1, "split": "all"}},
}
# run -> the run that it starts from; None: from the bare architecture in configs/puppet/model
RUNS = {
    "clip": None,
    "judge": "clip",
    "detector": None,
    "autoencoder": "clip",
    "base": "autoencoder",
    "stage1": "base",
    "stage2": "stage1",
}
JUDGES = ("judge", "detector")
EXPORTS = {
    "judge": "puppet-eval/clip",
    "detector": "puppet-eval/detector",
    "base": "puppet-base",
    "stage2": "puppet",
}


def main(out: Path) -> None:
    state = PartialState(cpu=not torch.accelerator.is_available())
    for folder, kinds in DATA.items():
        for kind, content in kinds.items():
            if state.is_main_process and not (out / folder / kind).exists():
                write_dataset(out / folder, **content)
    state.wait_for_everyone()
    for name, before in RUNS.items():
        init = out / before if before else REPOSITORY / "configs" / "puppet" / "model"
        kind = "clips" if name == "stage2" else "images"
        data = out / ("data-all" if name in JUDGES else "data") / kind
        overrides = [f"output={out / name}", f"init={init}", f"data.path={data}"]
        config = load_config(TrainConfig, REPOSITORY / "configs" / "puppet" / f"{name}.yaml", overrides)
        if config.data.cache:
            config.data.cache = str(out / f"cache-{kind}")  # base and stage 1 share the images'
        train(config)
        target = out / "checkpoints" / EXPORTS.get(name, "")
        if name in EXPORTS and state.is_main_process and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            export(out / name, target)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
