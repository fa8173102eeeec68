"""Settings of `mode=caption`."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from cogvx_exp.config.schema.section import Allowed, FilledText, PathText, Section


class Caption(Section):
    """How `mode=caption` writes captions."""

    backend: Literal["openai", "transformers", "vllm"]
    """openai: a server with OpenAI's API, such as `vllm serve`, SGLang, Ollama or a paid one. transformers: a local
    vision-language model. vllm: the same with vLLM, in this process. Default: openai."""
    model: PathText
    """Name of the vision-language model; a folder or Hub repository, or what the server calls it.
    Default: Qwen/Qwen2.5-VL-7B-Instruct."""
    url: Annotated[str, Field(pattern=r"^https?://.+"), Allowed("an address such as http://localhost:8000/v1")]
    """openai: address of the API. Default: http://localhost:8000/v1."""
    key_variable: FilledText
    """openai: environment variable with the key, if the server needs one. Default: OPENAI_API_KEY."""
    frames: PositiveInt
    """Frames shown to the model, spread evenly over the clip's time. Default: 8."""
    height: PositiveInt
    """Maximum height of these frames in pixels. Default: 384."""
    instruction: FilledText
    """What the model is asked."""
    examples: list[FilledText]
    """Captions that are given as examples of the style. Default: []."""
    trigger: FilledText | None
    """Word put in front of every caption. Default: null."""
    temperature: NonNegativeFloat
    """Sampling temperature of the answers; 0: the most likely ones. Default: 0.2."""
    max_tokens: PositiveInt
    """Maximum tokens of an answer, as the model counts them. Default: 400."""
    batch_size: PositiveInt
    """transformers, vllm: clips at a time. Default: 4."""
    tensor_parallel: PositiveInt
    """vllm: GPUs over which the model is divided. Default: 1."""
    concurrency: PositiveInt
    """openai: requests at a time. Default: 8."""
    requests_per_minute: PositiveFloat | None
    """openai: maximum rate of this process. null: no limit. Default: null."""
    timeout: PositiveFloat
    """openai: seconds that a server may send nothing before a request is repeated. Default: 120."""
    retries: NonNegativeInt
    """openai: how often a request is repeated after a failure that may pass. Default: 5."""
    backoff: PositiveFloat
    """openai: seconds before the first repetition, doubled for each further one up to a minute, unless the server says
    how long. Default: 1.0."""
    overwrite: bool
    """Whether captions that the manifest already has are replaced. Default: false."""
