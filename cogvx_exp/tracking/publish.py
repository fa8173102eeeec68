"""Publishes a run on the Hugging Face Hub.

The token comes from the environment or the Hub's login, where huggingface_hub looks; it is never read,
written or printed here.
"""

import shutil
from pathlib import Path
from typing import Any, Protocol

from jinja2 import Environment, PackageLoader

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.errors import UserError
from cogvx_exp.files import read_json, write_text
from cogvx_exp.tracking.run_folder import PEFT_FILE, RunFolder


class Client(Protocol):
    """What is needed of huggingface_hub.HfApi."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:
        """Creates a repository."""

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> Any:
        """Uploads a folder as one commit."""


def publish(job: TrainJob, folder: RunFolder, about: dict[str, Any], client: Client | None = None) -> Path:
    """Gathers the export, its videos and a model card in the run's hub folder and uploads it.

    Args:
        job: the job that was run.
        folder: the run.
        about: what else has to be known to use the export.
        client: talks to the Hub; huggingface_hub's own if None.

    Raises:
        UserError: the upload failed; the folder stays and can be uploaded by hand.
    """
    assert job.hub.repo
    gathered = _gather(job, folder, about)
    if job.hub.dry_run:
        return gathered
    if client is None:
        from huggingface_hub import HfApi

        client = HfApi()
    try:
        client.create_repo(job.hub.repo, private=job.hub.private, exist_ok=True)
        client.upload_folder(repo_id=job.hub.repo, folder_path=gathered, commit_message=f"Upload {job.name}")
    except Exception as error:  # the hub client raises errors of several libraries
        reason = str(error).partition("\n")[0][:160]
        raise UserError(
            f"hub.repo={job.hub.repo} could not be written ({reason}); log in with `hf auth login` or set HF_TOKEN. "
            f"What was to be uploaded is in {gathered}"
        ) from None
    return gathered


def _gather(job: TrainJob, folder: RunFolder, about: dict[str, Any]) -> Path:
    gathered = folder.path / "hub"
    shutil.rmtree(gathered, ignore_errors=True)
    shutil.copytree(folder.export, gathered)
    shutil.copyfile(folder.config, gathered / "config.yaml")
    videos = []
    newest = sorted((folder.path / "validation").glob("step-*"))[-1:]
    for video in sorted(path for step in newest for path in step.glob("*.mp4")):
        (gathered / "videos").mkdir(exist_ok=True)
        shutil.copyfile(video, gathered / "videos" / video.name)
        videos.append({"file": video.name, "prompt": read_json(video.with_suffix(".json"))["prompt"]})
    summary = read_json(folder.path / "summary.json")
    template = Environment(loader=PackageLoader("cogvx_exp.tracking")).get_template("model_card.md.j2")
    card = template.render(
        job=job,
        repo=job.hub.repo,
        name=(job.hub.repo or "").rpartition("/")[2],
        summary=summary,
        videos=videos,
        buckets=summary["clips"],
        peft=(folder.export / PEFT_FILE).exists(),
        positions_dropped=about.get("learned_positions") == "dropped",
        pipeline="CogVideoXImageToVideoPipeline" if job.task.name == "i2v" else "CogVideoXPipeline",
    )
    write_text(gathered / "README.md", card)
    return gathered
