"""Settings of `followyourpose evaluate`, `evaluate-pose` and `study make`, with their defaults, units and checks."""

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from omegaconf import MISSING

from followyourpose.common.checks import check_bounds, check_choice, check_finite, check_window
from followyourpose.config.loader import PROSE
from followyourpose.config.sampling import LARGEST_SEED, MOST_STEPS, Backend, Noise, PoseGuidance, SamplingConfig
from followyourpose.pipeline.windows import LongVideo, Mode

MOST_VIDEOS = 100_000
MOST_SYSTEMS = 9  # of a study: one key each


@dataclass
class EvaluateConfig(SamplingConfig):
    """Metrics of given videos, or of videos that a model draws of held-out puppets or of a manifest."""

    videos: str | None = None  # a run's folder or a manifest to measure; None: held-out puppets, drawn by `model`
    model: str = "checkpoints/puppet"  # a FollowYourPosePipeline's folder
    image_model: str | None = "checkpoints/puppet-base"  # for flicker before stage 2: its UNet, inflated; None: skip it
    clip: str = "checkpoints/puppet-eval/clip"  # a CLIPModel's folder with its tokenizer
    backend: Backend = "puppet"  # pose estimator: puppet (embedded), light (BlazePose), rtmlib (RTMO), mmpose (HRNet)
    detector: str | None = None  # the backend's file, or its name in `followyourpose download`; None: the default one
    detector_config: str | None = None  # of mmpose, a file or a name that it ships; None: the one it is named after
    boxes: str | None = None  # a YOLOX or RTMDet .onnx that finds people, or yolox; None: light's own, or whole frames
    benchmark: Literal["puppet-bench-1", "puppet-bench-2"] | None = None  # of the scenes, or of `videos`; None: by seed
    num_videos: int = 64  # held-out scenes
    without_skeleton: bool = True  # draw all once more without a skeleton: the chance baseline
    flicker_videos: int = 16  # number of scenes drawn also with other noise, and before stage 2
    num_frames: int = 8  # frames per video
    batch_size: int = 8  # videos at a time
    num_inference_steps: int = 20  # denoising steps
    guidance_scale: float = 2.0  # of classifier-free guidance; 1: none
    pose_guidance: PoseGuidance = "conditional"  # halves of guidance that see the skeleton: both, or conditional only
    noise: Noise = "shared"  # initial noise of the frames: independent, mixed or shared
    long_video: LongVideo = field(default_factory=LongVideo)
    modes: list[Mode] = field(default_factory=list)  # modes of long_video to compare with one another, and nothing else
    seed: int = 1000  # of the scenes and of the noise
    output: str | None = None  # None: a new folder under outputs/

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(
            self, num_videos=(1, MOST_VIDEOS), flicker_videos=(1, MOST_VIDEOS), num_frames=2,
            batch_size=(1, MOST_VIDEOS), num_inference_steps=(1, MOST_STEPS), seed=(0, LARGEST_SEED),
        )  # fmt: skip
        check_finite("guidance_scale", self.guidance_scale)
        for mode in (self.long_video.mode, *self.modes):
            replace(self.long_video, mode=mode).windows(self.num_frames)
        windows = replace(self.long_video, mode="paper").windows(self.num_frames)
        if self.modes and len(windows) == 1:
            raise ValueError(f"num_frames: got {self.num_frames}, one window, expected more than {len(windows[0])}")


@dataclass
class EvaluatePoseConfig:
    """Accuracy of pose estimators on annotated images, and their steadiness in a video of people."""

    annotations: str | None = None  # COCO keypoint .json of images of people; None: no accuracy
    images: str | None = None  # folder of these images; None: that of `annotations`
    video: str | None = None  # of people, for jitter and frames in which nobody is found; None: none
    estimators: list[str] = field(  # each a backend, BACKEND:WEIGHTS, BACKEND:WEIGHTS:BOXES, or a keypoints .json
        default_factory=lambda: ["light"]
    )
    smooth: int = 7  # frames, an odd number: window of the filter whose effect on jitter is measured; 0: none
    device: str | None = None  # cpu, cuda, ...; None: cuda where the backend can use one, else cpu
    output: str | None = None  # None: a new folder under outputs/

    def __post_init__(self) -> None:
        if self.annotations is None and self.video is None:
            raise ValueError("annotations, video: got neither, expected annotated images, a video, or both")
        if not self.estimators:
            raise ValueError("estimators: got none, expected one or more, as in [light, rtmlib, mine.json]")
        for entry in self.estimators:
            if not entry.lower().endswith(".json"):
                check_choice("estimators", entry.partition(":")[0], (*get_args(Backend), "a keypoints .json"))
        check_window("smooth", self.smooth)


@dataclass
class StudyConfig:
    """A page on which raters choose among systems' videos of the same prompts."""

    systems: dict[str, str] = MISSING  # 2 to 9, as systems.NAME=FOLDER: runs of generate, or videos of the same names
    manifest: str | None = None  # .jsonl: {"video": NAME, "prompt": TEXT, "skeleton": FILE} a line; None: all videos
    questions: list[str] = field(  # quality, text, pose, consistency; or your own, as "hands: Whose are best?"
        default_factory=lambda: ["quality"], metadata=PROSE
    )
    fps: float | None = None  # frames per second of all videos; None: each at its own
    output: str | None = None  # None: a new folder under outputs/

    def __post_init__(self) -> None:
        if not 2 <= len(self.systems) <= MOST_SYSTEMS:
            raise ValueError(
                f"systems: got {len(self.systems)}, expected 2 to {MOST_SYSTEMS}, each as systems.NAME=FOLDER"
            )
        if self.fps is not None and not 0 < self.fps <= 240:
            raise ValueError(f"fps: got {self.fps}, expected more than 0 and at most 240")
