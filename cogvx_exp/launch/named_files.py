"""Looks at the files that settings name and that are read late, before anything long begins."""

from cogvx_exp.config.schema import TrainJob, Validation
from cogvx_exp.data.start_image import listed_images
from cogvx_exp.evaluation.adapter import find_adapter


def check_named_files(job: TrainJob) -> None:
    """Opens the images of the validation, and finds the adapter that the training starts from.

    Raises:
        UserError: one is missing or cannot be read; names it and its setting.
    """
    if job.method.init_from:
        find_adapter(job.method.init_from, "method.init_from")
    validation = job.validation
    if isinstance(validation, Validation) and validation.images is not None:
        images = listed_images(validation.images, validation.separator, "validation.images")
        images.check()
        if isinstance(validation.prompts, list):
            images.one_for_each(len(validation.prompts))
