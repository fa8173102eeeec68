"""Fixtures that train the tiny model, and videos as users have them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.data.dataset import load_dataset
from cogvx_exp.runs.run_folder import RunFolder
from cogvx_exp.training.run import Result, train
from tests.zoo import make_zoo

Train = Callable[[TrainJob, Path], Result]


@pytest.fixture(scope="session")
def train_in() -> Train:
    """Trains a job in a folder, in this process, and gives back the model."""

    def run(job: TrainJob, folder: Path) -> Result:
        run_folder = RunFolder(folder)
        run_folder.start(job, [])
        return train(job, run_folder, load_dataset(job.data, job.cache_dir), None)

    return run


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of good, odd and damaged videos."""
    folder = tmp_path_factory.mktemp("zoo")
    make_zoo(folder)
    return folder
