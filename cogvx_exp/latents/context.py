"""Shared by encoding and sampling: pipeline, device, cache and processes."""

from dataclasses import dataclass, field
from pathlib import Path

from cogvx_exp.config.schema import Memory
from cogvx_exp.core.files import read_json
from cogvx_exp.distributed.process_group import ProcessGroup
from cogvx_exp.latents.cache import TensorCache
from cogvx_exp.model.device import Compute
from cogvx_exp.model.load import identity
from cogvx_exp.tasks.base import Task


@dataclass(frozen=True)
class PipelineContext:
    """A pipeline, how it computes, and where encoded data goes."""

    folder: Path
    compute: Compute
    memory: Memory
    cache_dir: Path
    task: Task
    processes: ProcessGroup = field(default_factory=ProcessGroup)
    """Processes that share the work."""

    @property
    def cache(self) -> TensorCache:
        """The cache of encoded clips and captions."""
        return TensorCache(self.cache_dir / "encoded")

    @property
    def max_tokens(self) -> int:
        """Text tokens of the transformer's input."""
        return int(read_json(self.folder / "transformer" / "config.json")["max_text_seq_length"])

    def made_by(self, part: str) -> dict[str, str]:
        """The encoder's part of a cache key."""
        return {"encoder": identity(self.folder, part), "dtype": str(self.compute.dtype)}
