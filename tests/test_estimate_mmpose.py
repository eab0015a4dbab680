"""The mmpose backend, run for real: MMPose's own HRNet and RTMO, tiny and with random weights."""

import importlib
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from followyourpose.pose.estimate import PoseEstimator, open_estimator
from followyourpose.pose.estimate_mmpose import _Finder, _StandIn, find_config, import_mmpose

INSTALL = 'MMPose is not installed: pip install -e ".[mmpose]" && pip install --no-deps mmpose==1.3.2'
pytest.importorskip("mmengine", reason=INSTALL)
if not any((Path(folder) / "mmpose").is_dir() for folder in sys.path):  # importing it takes stand-ins
    pytest.skip(INSTALL, allow_module_level=True)

# HRNet with four branches as HRNet-W32 has them, of 8 channels instead of 32, for pictures of 64 x 96 pixels.
CONFIG = """
codec = dict(type='MSRAHeatmap', input_size=(64, 96), heatmap_size=(16, 24), sigma=2)
branches = [(1, (2,) * n, tuple(8 * 2**i for i in range(n))) for n in (2, 3, 4)]
model = dict(
    type='TopdownPoseEstimator',
    data_preprocessor=dict(
        type='PoseDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(
        type='HRNet', in_channels=3,
        extra=dict(
            stage1=dict(num_modules=1, num_branches=1, block='BOTTLENECK', num_blocks=(1,), num_channels=(16,)),
            **{f'stage{i + 2}': dict(num_modules=m, num_branches=len(b), block='BASIC', num_blocks=b, num_channels=c)
               for i, (m, b, c) in enumerate(branches)}),
        init_cfg=dict(type='Pretrained', checkpoint='https://nowhere.invalid/hrnet.pth')),
    head=dict(
        type='HeatmapHead', in_channels=8, out_channels=JOINTS, deconv_out_channels=None,
        loss=dict(type='KeypointMSELoss', use_target_weight=True), decoder=codec),
    test_cfg=dict(flip_test=True, flip_mode='heatmap', shift_heatmap=True))
pipeline = [
    dict(type='LoadImage'), dict(type='GetBBoxCenterScale'),
    dict(type='TopdownAffine', input_size=codec['input_size']), dict(type='PackPoseInputs')]
dataset = dict(type='DATASET', data_mode='topdown', pipeline=pipeline)
train_dataloader = test_dataloader = dict(dataset=dataset)
"""


def hrnet(folder: Path, joints: int = 17, dataset: str = "CocoDataset") -> Path:
    """Write a config."""
    path = folder / "hrnet-tiny.py"
    path.write_text(CONFIG.replace("JOINTS", str(joints)).replace("DATASET", dataset))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Network with random weights whose joints are all confident enough for a person."""
    import_mmpose()
    from mmpose.apis import init_model

    torch.manual_seed(0)
    network = init_model(hrnet(tmp_path_factory.mktemp("config")), device="cpu")
    torch.nn.init.constant_(network.head.final_layer.bias, 0.5)
    return network


def save(path: Path, model: Any, **meta: Any) -> Path:
    torch.save({"state_dict": model.state_dict(), "meta": meta}, path)
    return path


@pytest.fixture
def find(model: Any, tmp_path: Path) -> PoseEstimator:
    weights = save(tmp_path / "hrnet.pth", model, dataset_meta=model.dataset_meta)
    return open_estimator("mmpose", weights, hrnet(tmp_path), device="cpu")


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(count, 80, 60, 3), dtype=np.uint8)


def test_hrnet_finds_what_mmpose_itself_finds(find: PoseEstimator, model: Any) -> None:
    """In a batch of many frames, MMPose itself in one at a time."""
    from mmpose.apis import inference_topdown

    frames = pictures(20)
    for frame, people in zip(frames, find(frames), strict=True):
        (expected,) = inference_topdown(model, np.ascontiguousarray(frame[..., ::-1]))
        (person,) = people
        np.testing.assert_allclose(person[:, :2], expected.pred_instances.keypoints[0], atol=1e-2)
        np.testing.assert_allclose(person[:, 2], expected.pred_instances.keypoint_scores[0].clip(0, 1), atol=1e-4)


def test_a_detector_of_boxes_that_finds_nobody_gives_nobody(find: PoseEstimator) -> None:
    """MMPose itself takes an empty list of boxes for one box, the whole picture."""
    network = find._find
    places = iter([np.zeros((0, 4)), np.array([[0, 0, 30, 80], [30, 0, 60, 80]], np.float32)])
    network.boxes = lambda frame: next(places)
    nobody, two = find(pictures(2))
    assert nobody == [] and len(two) == 2
    assert two[0][:, 0].max() < 45 and two[1][:, 0].min() > 15  # a box's crop is a quarter larger than the box


@pytest.mark.parametrize("core", ["numpy._core", "numpy.core"])
def test_checkpoints_with_arrays_are_read(model: Any, tmp_path: Path, core: str) -> None:
    """Released checkpoints hold arrays of numpy 1 beside the weights; PyTorch by itself refuses them."""
    meta = dict(model.dataset_meta, best=np.float64(0.7), more=np.arange(3))
    written = save(tmp_path / "log.pth", model, dataset_meta=meta)
    weights = tmp_path / "w.pth"
    with zipfile.ZipFile(written) as old, zipfile.ZipFile(weights, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content.replace(b"numpy._core", core.encode()) if name.endswith(".pkl") else content)
    assert open_estimator("mmpose", weights, hrnet(tmp_path), device="cpu")(pictures(1))[0][0].shape == (17, 3)


def test_a_checkpoint_that_would_run_code_is_refused(model: Any, tmp_path: Path) -> None:
    from mmengine.logging import HistoryBuffer

    weights = save(tmp_path / "w.pth", model, loss=HistoryBuffer())
    with pytest.raises(ValueError, match="more than weights and arrays.*publish_model.py"):
        open_estimator("mmpose", weights, hrnet(tmp_path), device="cpu")


def test_wholebody_is_not_mistaken_for_other_joints(model: Any, tmp_path: Path) -> None:
    from mmpose.apis import init_model

    for dataset, joints in (("CocoWholeBodyDataset", 133), ("MpiiDataset", 16)):
        config = hrnet(tmp_path, joints, dataset)
        network = init_model(config, device="cpu")
        torch.nn.init.constant_(network.head.final_layer.bias, 0.5)
        weights = save(tmp_path / "w.pth", network)
        if joints == 133:
            assert open_estimator("mmpose", weights, config, device="cpu")(pictures(1))[0][0].shape == (17, 3)
        else:
            with pytest.raises(ValueError, match=r"joints that begin \['right_ankle'.*expected COCO's"):
                open_estimator("mmpose", weights, config, device="cpu")


def test_rtmo_finds_people_in_whole_frames(tmp_path: Path) -> None:
    """With the config that MMPose ships, found by the weights' name; random weights find anybody or nobody."""
    import_mmpose()
    from mmpose.apis import init_model

    weights = tmp_path / "rtmo-s_8xb32-600e_coco-640x640-8db55a59_20231211.pth"
    config = find_config(weights, None)
    assert config.stem == "rtmo-s_8xb32-600e_coco-640x640"
    save(weights, init_model(config, device="cpu"))
    (people,) = open_estimator("mmpose", weights, device="cpu")(pictures(1))
    assert all(person.shape == (17, 3) for person in people)


def test_what_does_not_fit_is_named(model: Any, tmp_path: Path) -> None:
    weights, config = save(tmp_path / "mine.pth", model), hrnet(tmp_path)
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "other.py").write_text("model = 3")
    state = {name: value for name, value in model.state_dict().items() if "final_layer" not in name}
    torch.save({"state_dict": state}, tmp_path / "part.pth")
    for arguments, reason in (
        ((weights, None), "none that MMPose ships fits mine.pth by its name"),
        ((weights, "no-config"), "config: no-config: no such file, and none that MMPose ships has that name"),
        ((weights, tmp_path / "other.py"), "other.py: not a config of MMPose"),
        ((tmp_path / "text.pth", config), "text.pth: not the weights of hrnet-tiny"),
        ((tmp_path / "part.pth", config), "part.pth: not the weights of hrnet-tiny"),
    ):
        with pytest.raises(ValueError) as error:
            open_estimator("mmpose", *arguments, device="cpu")
        assert reason in str(error.value)


def test_no_stand_in_is_left_behind() -> None:
    """Other packages, transformers for one, look which packages are installed."""
    import_mmpose()
    assert not [finder for finder in sys.meta_path if isinstance(finder, _Finder)]
    assert not [name for name, module in sys.modules.items() if isinstance(module, _StandIn)]
    importlib.import_module("mmpose.apis")
