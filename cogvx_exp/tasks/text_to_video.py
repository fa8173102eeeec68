"""Text-to-video: conditioned only on the caption."""

from cogvx_exp.tasks.base import Task


class TextToVideo(Task):
    """`task=t2v`."""
