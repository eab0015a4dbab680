"""The rtmlib backend, run for real on small .onnx files: networks whose joints are at the brightest pixels."""

from pathlib import Path

import numpy as np
import pytest

from followyourpose.pose.estimate import open_estimator

onnx = pytest.importorskip("onnx", reason='onnx is not installed: pip install -e ".[test]"')
pytest.importorskip("onnxruntime", reason='ONNX Runtime is not installed: pip install -e ".[pose]"')
pytest.importorskip("rtmlib", reason='rtmlib is not installed: pip install -e ".[pose]"')

HEIGHT, WIDTH = 64, 48  # of the networks' input


def write(path: Path, nodes: list, constants: dict[str, np.ndarray], outputs: dict[str, list], batch: object) -> Path:
    """Write an .onnx file of a graph from `image`, (batch, 3, HEIGHT, WIDTH), to outputs of the given shapes."""
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, HEIGHT, WIDTH])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def rtmpose(path: Path, batch: object = "batch", joints: int = 17) -> Path:
    """SimCC: for every joint the brightness of each column and each row, in [0, 1], in two cells per pixel."""
    from onnx import helper

    nodes, constants, outputs = [], {}, {}
    for name, size, other in (("x", WIDTH, 2), ("y", HEIGHT, 3)):
        constants[f"{name}_cells"] = np.arange(2 * size) // 2
        constants[f"{name}_joints"] = np.array([1, joints, 1])
        nodes += [
            helper.make_node("ReduceMax", ["image"], [f"{name}_brightest"], axes=[1, other], keepdims=0),
            helper.make_node("Gather", [f"{name}_brightest", f"{name}_cells"], [f"{name}_double"], axis=1),
            helper.make_node("Sigmoid", [f"{name}_double"], [f"{name}_share"]),
            helper.make_node("Unsqueeze", [f"{name}_share", "one"], [f"{name}_one"]),
            helper.make_node("Tile", [f"{name}_one", f"{name}_joints"], [f"simcc_{name}"]),
        ]
        outputs[f"simcc_{name}"] = [batch, joints, 2 * size]
    return write(path, nodes, constants | {"one": np.array([1])}, outputs, batch)


def detector(path: Path, people: int = 2) -> Path:
    """Two boxes in a picture with something red in it, the second unsure; none in one without, or with `people` 0.

    rtmlib pads a picture with gray, 114; RTMDet's input is normalised by the mean and deviation of ImageNet.
    """
    from onnx import helper

    gray, red = (0.1825, 2.249) if "rtmdet" in path.name else (114, 255)
    boxes = np.array([[0, 0, 24, 64, 1.0], [24, 0, 48, 64, 0.1]], np.float32)[None, :people]
    gain = np.array([[[1, 1, 1, 1, 0]]], np.float32)  # the part of a box that depends on the picture is its score
    nodes = [
        helper.make_node("ReduceMax", ["image"], ["brightest"], keepdims=1, axes=[1, 2, 3]),
        helper.make_node("Sub", ["brightest", "gray"], ["above"]),
        helper.make_node("Div", ["above", "range"], ["redness"]),
        helper.make_node("Squeeze", ["redness", "last"], ["one"]),
        helper.make_node("Mul", ["one", "scores"], ["seen"]),
        helper.make_node("Add", ["seen", "corners"], ["dets"]),
    ]
    constants = {
        "gray": np.float32([gray]), "range": np.float32([red - gray]), "last": np.array([3]),
        "scores": boxes * (1 - gain), "corners": boxes * gain,
    }  # fmt: skip
    return write(path, nodes, constants, {"dets": [1, people, 5]}, 1)


def rtmo(path: Path, people: int = 2) -> Path:
    """Two people in the boxes of `detector`, with their joints in a row."""
    from onnx import helper, numpy_helper

    detector(path, people)
    graph = onnx.load(path).graph
    poses = np.zeros((1, people, 17, 3), np.float32)
    poses[..., 0], poses[..., 1], poses[..., 2] = 10 + np.arange(17), 20, 0.8
    nodes = [*graph.node, helper.make_node("Identity", ["poses"], ["keypoints"])]
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer} | {"poses": poses}
    return write(path, nodes, constants, {"dets": [1, people, 5], "keypoints": [1, people, 17, 3]}, 1)


def dots(*places: tuple[int, int], height: int = 80, width: int = 100) -> np.ndarray:
    """Frames (n, H, W, 3) that are black but for a red dot of 5 x 5 pixels at an (x, y) each."""
    frames = np.zeros((len(places), height, width, 3), np.uint8)
    for frame, (x, y) in zip(frames, places, strict=True):
        frame[y - 2 : y + 3, x - 2 : x + 3] = (255, 0, 0)
    return frames


@pytest.mark.parametrize("batch", ["batch", 1])
def test_rtmpose_finds_joints_in_pixels_of_the_frame(tmp_path: Path, batch: object) -> None:
    """Also in several frames at a time, whether the file takes a batch of any size or of one."""
    find = open_estimator("rtmlib", rtmpose(tmp_path / "rtmpose.onnx", batch), device="cpu")
    places = [(20, 30), (70, 10), (50, 60)]
    for (person,), place in zip(find(dots(*places)), places, strict=True):
        assert person.shape == (17, 3) and (person[:, 2] > 0.3).all()
        assert np.abs(person[:, :2] - place).max() < 3.5  # a pixel of the network is 2.6 of the frame


def test_the_network_sees_blue_green_red(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rtmlib import RTMPose

    seen, original = [], RTMPose.preprocess

    def preprocess(self: RTMPose, image: np.ndarray, box: np.ndarray) -> tuple:
        seen.append(image)
        return original(self, image, box)

    monkeypatch.setattr(RTMPose, "preprocess", preprocess)
    open_estimator("rtmlib", rtmpose(tmp_path / "rtmpose.onnx"), device="cpu")(dots((20, 30)))
    assert seen[0][30, 20].tolist() == [0, 0, 255]


@pytest.mark.parametrize("name", ["yolox.onnx", "rtmdet.onnx"])
def test_rtmpose_looks_into_the_boxes_of_a_detector(tmp_path: Path, name: str) -> None:
    boxes = detector(tmp_path / name)
    find = open_estimator("rtmlib", rtmpose(tmp_path / "rtmpose.onnx"), boxes=boxes, device="cpu")
    people = find(np.concatenate([dots((20, 30)), dots((20, 30)) * 0]))
    assert [len(each) for each in people] == [1, 0]  # one sure box, and nobody where nothing is red
    assert np.abs(people[0][0][:, :2] - (20, 30)).max() < 3.5


def test_no_box_is_nobody(tmp_path: Path) -> None:
    boxes = detector(tmp_path / "yolox.onnx", people=0)
    assert open_estimator("rtmlib", rtmpose(tmp_path / "p.onnx"), boxes=boxes)(dots((20, 30), (40, 40))) == [[], []]


def test_rtmo_finds_people_in_whole_frames(tmp_path: Path) -> None:
    find = open_estimator("rtmlib", rtmo(tmp_path / "rtmo.onnx"), device="cpu")
    people = find(np.concatenate([dots((20, 30)), dots((20, 30)) * 0]))
    assert [len(each) for each in people] == [1, 0]
    scale = max(80 / HEIGHT, 100 / WIDTH)  # the network sees the frame at 48 pixels of width
    np.testing.assert_allclose(people[0][0][:, 0], (10 + np.arange(17)) * scale, rtol=0.02)
    np.testing.assert_allclose(people[0][0][:, 1:], np.tile([20 * scale, 0.8], (17, 1)), rtol=0.02)
    assert open_estimator("rtmlib", rtmo(tmp_path / "none.onnx", people=0))(dots((20, 30))) == [[]]


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    open_estimator("rtmlib", rtmpose(tmp_path / "rtmpose.onnx"), device="cpu")(dots((20, 30)))
    assert capfd.readouterr() == ("", "")


def test_wholebody_networks_give_the_body(tmp_path: Path) -> None:
    ((person,),) = open_estimator("rtmlib", rtmpose(tmp_path / "p.onnx", joints=133))(dots((20, 30)))
    assert person.shape == (17, 3)


def test_files_of_another_kind_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no network")
    pose, boxes, whole = rtmpose(tmp_path / "p.onnx"), detector(tmp_path / "b.onnx"), rtmo(tmp_path / "o.onnx")
    hands = rtmpose(tmp_path / "hands.onnx", joints=21)
    for arguments, reason in (
        ({"weights": tmp_path / "text.onnx"}, "text.onnx: cannot be read as an .onnx file"),
        ({"weights": boxes}, "b.onnx: got outputs of (3,) dimensions, expected RTMPose or RTMO"),
        ({"weights": pose, "boxes": whole}, "o.onnx: got outputs of (3, 4) dimensions, expected a detector"),
        ({"weights": whole, "boxes": boxes}, "o.onnx is RTMO, which finds people itself"),
        ({"weights": pose, "device": "cuda"}, "device: got 'cuda', ONNX Runtime has cpu here"),
    ):
        with pytest.raises(ValueError) as error:
            open_estimator("rtmlib", **arguments)
        assert reason in str(error.value)
    with pytest.raises(ValueError, match="got a network of 21 joints"):
        open_estimator("rtmlib", hands)(dots((20, 30)))
