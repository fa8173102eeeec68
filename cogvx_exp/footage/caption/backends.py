"""The interface of backends, and the local ones."""

from importlib import import_module
from typing import Any, Protocol

from cogvx_exp.config.schema import Caption
from cogvx_exp.console.quiet import quiet_libraries
from cogvx_exp.console.terminal import one_line
from cogvx_exp.core.errors import UserError
from cogvx_exp.footage.caption.request import Messages, with_pictures
from cogvx_exp.media.errors import ClipError

SHOWN = 160
"""Characters of a library's message."""


class Backend(Protocol):
    """Answers requests."""

    batch_size: int
    """Requests of one call."""
    concurrency: int
    """Calls at a time, each in a thread of its own."""

    def answer(self, requests: list[Messages]) -> list[str | ClipError]:
        """The answer to each request, or why there is none.

        Raises:
            UserError: no request can be answered.
        """
        ...


def choose_backend(settings: Caption, device: str) -> Backend:
    """The backend of the settings, ready for requests.

    Raises:
        UserError: the model cannot be loaded, or the server cannot be used.
    """
    from cogvx_exp.footage.caption.server import ServerBackend

    if settings.backend == "openai":
        return ServerBackend(settings)
    return TransformersBackend(settings, device) if settings.backend == "transformers" else VllmBackend(settings)


class TransformersBackend:
    """A vision-language model in transformers' `image-text-to-text` pipeline.

    Raises:
        UserError: it cannot be loaded, or has no vision.
    """

    concurrency = 1

    def __init__(self, settings: Caption, device: str):
        quiet_libraries()
        import torch
        from transformers import pipeline

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.batch_size, self._settings = settings.batch_size, settings
        self._out_of_memory: type[Exception] = torch.OutOfMemoryError
        try:
            self._pipeline = pipeline("image-text-to-text", model=settings.model, device=device, dtype="auto")
            if getattr(self._pipeline, "processor", None) is None:
                raise ValueError("it has no image processor")
        except Exception as error:  # of many classes: unknown names, missing files, other kinds of models
            problem = f"cannot be loaded as a vision-language model ({one_line(str(error))[:SHOWN]})"
            fix = "choose one such as Qwen/Qwen2.5-VL-7B-Instruct"
            raise UserError(f"caption.model={settings.model} {problem}; {fix}") from None

    def answer(self, requests: list[Messages]) -> list[str | ClipError]:
        """See `Backend`."""
        settings = self._settings
        sampled = {"do_sample": True, "temperature": settings.temperature} if settings.temperature else {}
        options = {"max_new_tokens": settings.max_tokens, "do_sample": False, **sampled}
        conversations = [with_pictures(messages) for messages in requests]
        try:
            results = self._pipeline(
                text=conversations, batch_size=len(requests), return_full_text=False, generate_kwargs=options
            )
        except self._out_of_memory:
            raise UserError(
                f"caption.model={settings.model} does not fit: lower caption.batch_size={settings.batch_size}, "
                f"caption.frames={settings.frames} or caption.height={settings.height}, or choose a smaller model"
            ) from None
        return [str(result[0]["generated_text"]) for result in results]


class VllmBackend:
    """A vision-language model in vLLM, in this process.

    Raises:
        UserError: it cannot be loaded.
    """

    concurrency = 1

    def __init__(self, settings: Caption):
        quiet_libraries()
        vllm = import_module("vllm")
        self.batch_size = settings.batch_size
        self._options: Any = vllm.SamplingParams(temperature=settings.temperature, max_tokens=settings.max_tokens)
        try:
            self._model: Any = vllm.LLM(
                model=settings.model,
                tensor_parallel_size=settings.tensor_parallel,
                limit_mm_per_prompt={"image": settings.frames},
            )
        except Exception as error:  # of many classes
            problem = one_line(str(error))[:SHOWN]
            raise UserError(f"caption.model={settings.model} cannot be loaded by vLLM ({problem})") from None

    def answer(self, requests: list[Messages]) -> list[str | ClipError]:
        """See `Backend`."""
        results = self._model.chat(requests, self._options, use_tqdm=False)
        return [str(result.outputs[0].text) for result in results]
