"""Settings of `mode=review`."""

from pydantic import PositiveInt

from cogvx_exp.config.schema.section import LocalPath, Section


class Review(Section):
    """What `mode=review` shows."""

    output_dir: LocalPath
    """Folder of the page. Default: outputs/review."""
    first: PositiveInt
    """First row of the manifest on the page, counted from 1. Default: 1."""
    clips: PositiveInt
    """Rows on the page. Default: 200."""
