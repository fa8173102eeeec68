"""Types, meaning and units of all settings. Their values live in `conf/`."""

from cogvx_exp.config.schema.attention import Attention
from cogvx_exp.config.schema.data import Data
from cogvx_exp.config.schema.footage.caption import Caption
from cogvx_exp.config.schema.footage.filter import Filter
from cogvx_exp.config.schema.footage.split import Split
from cogvx_exp.config.schema.hardware import Hardware
from cogvx_exp.config.schema.jobs import Generate, GenerateJob, PrepareJob, TrainJob
from cogvx_exp.config.schema.model import (
    Model,
    SchedulerArchitecture,
    TextEncoderArchitecture,
    TransformerArchitecture,
    VaeArchitecture,
)
from cogvx_exp.config.schema.section import Score, Section
from cogvx_exp.config.schema.task import Objective, Task
from cogvx_exp.config.schema.training import (
    Checkpoint,
    Distributed,
    LrScheduler,
    Memory,
    Method,
    Optim,
    Profile,
    Quant,
    Sweep,
    Validation,
)

__all__ = [
    "Attention",
    "Caption",
    "Checkpoint",
    "Data",
    "Distributed",
    "Filter",
    "Generate",
    "GenerateJob",
    "Hardware",
    "LrScheduler",
    "Memory",
    "Method",
    "Model",
    "Objective",
    "Optim",
    "PrepareJob",
    "Profile",
    "Quant",
    "SchedulerArchitecture",
    "Score",
    "Section",
    "Split",
    "Sweep",
    "Task",
    "TextEncoderArchitecture",
    "TrainJob",
    "TransformerArchitecture",
    "VaeArchitecture",
    "Validation",
]
