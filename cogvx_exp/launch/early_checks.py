"""Checks files and imports that are only used late in a run before anything long begins."""

from pathlib import Path

from cogvx_exp.config.rules.scores import scores_of
from cogvx_exp.config.schema import TrainJob, Validation
from cogvx_exp.core.errors import UserError
from cogvx_exp.data.control.recipes import parse_control
from cogvx_exp.data.start_image import listed_images
from cogvx_exp.evaluation.adapter import find_adapter
from cogvx_exp.evaluation.scores.base import build_scores
from cogvx_exp.media.window import parse_name
from cogvx_exp.tracking.trackers import custom_trackers


def check_early(job: TrainJob) -> None:
    """Opens validation images, looks for control videos and the adapter to start from, imports trackers and scores.

    Raises:
        UserError: a file is missing or unreadable, or an import fails; names it and its setting.
    """
    # Built again later; here only for their errors.
    custom_trackers(job.tracker)
    if job.method.init_from:
        find_adapter(job.method.init_from, "method.init_from")
    validation = job.validation
    if not isinstance(validation, Validation):
        return
    build_scores(scores_of(job), "validation.scores")
    if validation.images is not None:
        images = listed_images(validation.images, validation.separator, "validation.images")
        images.check()
        if isinstance(validation.prompts, list):
            images.one_for_each(len(validation.prompts))
    if validation.controls is not None:
        controls = listed_images(validation.controls, validation.separator, "validation.controls")
        for control in controls.sources:
            _, name = parse_control(control)
            path, _ = parse_name(name)
            if not Path(path).is_file():
                raise UserError(f"validation.controls: the control video {path} does not exist")
        if isinstance(validation.prompts, list):
            controls.one_for_each(len(validation.prompts))
