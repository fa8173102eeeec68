"""A run's objects, passed between its stages."""

from dataclasses import dataclass
from typing import Any

from diffusers import CogVideoXTransformer3DModel

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.console.progress import console
from cogvx_exp.distributed.process_group import ProcessGroup
from cogvx_exp.runs.metrics import Metrics
from cogvx_exp.runs.run_folder import RunFolder
from cogvx_exp.tracking.trackers import Trackers
from cogvx_exp.training.monitor.memory import MemoryLog
from cogvx_exp.training.setup import PreparedData, Training


@dataclass(frozen=True)
class Context:
    """A run that is ready to train."""

    job: TrainJob
    folder: RunFolder
    data: PreparedData
    training: Training
    memory: MemoryLog
    trackers: Trackers

    @property
    def processes(self) -> ProcessGroup:
        """The processes that train together."""
        return self.data.processes

    def sample(self, transformer: CogVideoXTransformer3DModel, step: int, **about: Any) -> None:
        """Samples the validation videos with a transformer into the step's folder."""
        validator = self.data.validator
        assert validator
        if self.processes.is_main_process:
            validator.write_conditions(self.folder.conditions)
        videos = validator.run(transformer, self.folder.validation(step), step, **about)
        self.trackers.videos(step, videos.paths, [request.prompt for request in validator.requests])
        if videos.scores:
            self._write_scores(step, videos.scores)

    def _write_scores(self, step: int, scores: dict[str, float]) -> None:
        if self.processes.is_main_process:
            # `step - 1`: a resumed run that repeats this step replaces its line.
            with Metrics(self.folder.scores, step - 1) as file:
                file.write(step=step, **scores)
        self.trackers.metrics({"step": step, **{f"scores/{name}": value for name, value in scores.items()}})
        values = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
        console.print(f"Scores at step {step}: {values}", soft_wrap=True)
