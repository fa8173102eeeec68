"""Silences libraries unless something is wrong, or with COGVX_LOG=debug."""

import logging
import os
import warnings

from cogvx_exp.console.log import libraries_are_logged
from cogvx_exp.core.imports import import_libraries

SILENT_LOGGERS = ("torchao", "bitsandbytes", "torch.utils._pytree", "torch.distributed", "DeepSpeed", "httpx")
ENVIRONMENT = {
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
VERBOSE = {"DIFFUSERS_VERBOSITY": "info", "TRANSFORMERS_VERBOSITY": "info", "TORCH_CPP_LOG_LEVEL": "INFO"}
"""With COGVX_LOG=debug."""


def _is_critical(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.CRITICAL


def quiet_libraries(quant: str = "none") -> None:
    """Imports the libraries, silencing progress bars and messages that users can do nothing about.

    Call before anything else imports torch, diffusers or transformers: some log during import. Environment variables
    set by the user are kept. `quant` is passed to `import_libraries`.
    """
    logged = libraries_are_logged()
    for name, value in (ENVIRONMENT | (VERBOSE if logged else {})).items():
        os.environ.setdefault(name, value)
    for name in () if logged else SILENT_LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.CRITICAL)
        logger.addFilter(_is_critical)  # the level alone is not enough: DeepSpeed resets it when imported
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several adapters are intended
    warnings.filterwarnings("ignore", message=".*does not implement _stable_hash_for_caching")
    warnings.filterwarnings("ignore", message="TorchaoLoraLinear was instantiated")  # merging uses the plain base
    warnings.filterwarnings(
        "ignore", message="Glyph .* missing from"
    )  # the picture shows a box; the prompt is also printed as text
    warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")  # nothing to page
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # our own message is clearer

    import_libraries(quant)
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    if logged:  # in the form of our own lines
        for library in (diffusers.utils.logging, transformers.utils.logging):
            library.disable_default_handler()
            library.enable_propagation()
