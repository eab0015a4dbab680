"""Training of the embedded default, from nothing to the folders under checkpoints/: data, networks, stages, a LoRA.

    python -m scripts.train_puppets OUT                                             one process
    OMP_NUM_THREADS=1 torchrun --nproc_per_node 2 -m scripts.train_puppets OUT       one per core; or per GPU

Everything goes to OUT: the world's pictures in OUT/data, for the evaluators in OUT/data-all and for the LoRA in
OUT/data-blueprint; encoded ones in OUT/cache-*; a folder per run; and at the end OUT/checkpoints, to be moved over the
repository's. To resume, run the same command again.
"""

import shutil
import sys
from pathlib import Path

import torch
from accelerate import PartialState

from followyourpose.config import REPOSITORY, TrainConfig, load_config
from followyourpose.puppets.dataset import write_dataset
from followyourpose.training.components import export
from followyourpose.training.loop import train

# folder -> kind -> arguments of write_dataset
DATA = {
    "data": {"images": {"images": 60_000}, "clips": {"clips": 2_000}},
    "data-all": {"images": {"images": 60_000, "seed": 1, "split": "all"}},
    "data-blueprint": {"images": {"images": 6_000, "seed": 2, "style": "blueprint"}},
}
# run -> the run, or the exported model, that it starts from; None: from the bare architecture in configs/puppet/model
RUNS = {
    "clip": None,
    "judge": "clip",
    "detector": None,
    "autoencoder": "clip",
    "base": "autoencoder",
    "stage1": "base",
    "stage2": "stage1",
    "decoder": "stage2",
    "lora": "checkpoints/puppet",
}
# run -> its data: folder, kind, and the folder of the encoded data
TRAINED_ON = {
    "judge": ("data-all", "images", None),
    "detector": ("data-all", "images", None),
    "base": ("data", "images", "cache-images"),
    "stage1": ("data", "images", "cache-images"),
    "stage2": ("data", "clips", "cache-clips"),
    "decoder": ("data", "images", None),
    "lora": ("data-blueprint", "images", "cache-blueprint"),
}
EXPORTS = {
    "judge": "puppet-eval/clip",
    "detector": "puppet-eval/detector",
    "base": "puppet-base",
    "decoder": "puppet",
    "lora": "puppet-lora-blueprint",
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
        folder, kind, cache = TRAINED_ON.get(name, ("data", "images", None))
        overrides = [f"output={out / name}", f"init={init}", f"data.path={out / folder / kind}"]
        overrides += [f"data.cache={out / cache}"] if cache else []
        train(load_config(TrainConfig, REPOSITORY / "configs" / "puppet" / f"{name}.yaml", overrides))
        target = out / "checkpoints" / EXPORTS.get(name, "")
        if name in EXPORTS and state.is_main_process and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            export(out / name, target)
        if name == "decoder" and state.is_main_process:  # one for all that stands on the base
            shutil.copytree(target / "vae", target.with_name("puppet-base") / "vae", dirs_exist_ok=True)
        state.wait_for_everyone()


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
