"""Image-to-video: the clip's first frame is the condition."""

from cogvx_exp.tasks.control import Control


class ImageToVideo(Control):
    """`task=i2v`, which is `task=control task.condition=first` for image-to-video checkpoints."""
