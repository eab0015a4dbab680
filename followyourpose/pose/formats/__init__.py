"""Other tools' keypoints, as clips of COCO-17 and back: OpenPose, ControlNet and DWPose, COCO, MMPose, MediaPipe."""

from followyourpose.pose.formats.read import Reading, is_keypoints, read_any
from followyourpose.pose.formats.write import FORMATS, format_of, write_any

__all__ = ["FORMATS", "Reading", "format_of", "is_keypoints", "read_any", "write_any"]
