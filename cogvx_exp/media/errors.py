"""Errors about video files."""

from cogvx_exp.core.errors import UserError

REENCODE = "re-encode it (ffmpeg -i FILE -c:v libx264 -crf 12 NEW.mp4) or remove it"


class ClipError(UserError):
    """A clip that cannot be used: what is wrong, and how to fix it."""

    def __init__(self, what: str, fix: str):
        super().__init__(what, fix)  # exceptions are pickled by their args
        self.what, self.fix = what, fix

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}"


def cut_off(decoded: int, expected: int) -> ClipError:
    """The error for a file with fewer frames than expected."""
    return ClipError(f"only {decoded} of {expected} frames can be decoded: the file is truncated or damaged", REENCODE)
