"""What encoding and sampling share: the pipeline, the device, the cache and the processes."""

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
    """Where a pipeline is, how it computes, and where encoded clips and captions go."""

    folder: Path
    compute: Compute
    memory: Memory
    cache_dir: Path
    task: Task
    processes: ProcessGroup = field(default_factory=ProcessGroup)
    """The processes that share the work."""

    @property
    def cache(self) -> TensorCache:
        """Encoded clips and captions."""
        return TensorCache(self.cache_dir / "encoded")

    @property
    def max_tokens(self) -> int:
        """Text tokens that the transformer takes."""
        return int(read_json(self.folder / "transformer" / "config.json")["max_text_seq_length"])

    def made_by(self, part: str) -> dict[str, str]:
        """What the fingerprint of an encoded clip or caption has of the encoder that made it."""
        return {"encoder": identity(self.folder, part), "dtype": str(self.compute.dtype)}
