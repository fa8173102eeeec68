"""Checks files that are only read late in a run before anything long begins."""

from pathlib import Path

from cogvx_exp.config.schema import TrainJob, Validation
from cogvx_exp.core.errors import UserError
from cogvx_exp.data.control.recipes import parse_control
from cogvx_exp.data.start_image import listed_images
from cogvx_exp.evaluation.adapter import find_adapter


def check_named_files(job: TrainJob) -> None:
    """Opens the validation images, looks for the control videos, and finds the adapter that training starts from.

    Raises:
        UserError: a file is missing or unreadable; names the file and its setting.
    """
    if job.method.init_from:
        find_adapter(job.method.init_from, "method.init_from")
    validation = job.validation
    if isinstance(validation, Validation) and validation.images is not None:
        images = listed_images(validation.images, validation.separator, "validation.images")
        images.check()
        if isinstance(validation.prompts, list):
            images.one_for_each(len(validation.prompts))
    if isinstance(validation, Validation) and validation.controls is not None:
        controls = listed_images(validation.controls, validation.separator, "validation.controls")
        for control in controls.sources:
            _, path = parse_control(control)
            if not Path(path).is_file():
                raise UserError(f"validation.controls: the control video {path} does not exist")
        if isinstance(validation.prompts, list):
            controls.one_for_each(len(validation.prompts))
