"""Publishes a run on the Hugging Face Hub.

huggingface_hub takes the token from the environment or the Hub's login; it is never read, written or printed here.
"""

import logging
import re
import shutil
from pathlib import Path
from typing import Any, Protocol

import yaml
from jinja2 import Environment, PackageLoader

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import read_json, write_json, write_text
from cogvx_exp.runs.run_folder import PEFT_FILE, RunFolder, read_config
from cogvx_exp.tasks.base import build_task
from cogvx_exp.tracking.pictures.preview import PREVIEW
from cogvx_exp.tracking.scrub import hub_name, scrubbed_config, without_paths

logger = logging.getLogger(__name__)

MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|~$#!])")
"""Characters with a meaning in inline Markdown."""
UNNAMED = "OWNER/NAME"
"""Placeholder for the repository in a dry run without one."""


class Client(Protocol):
    """The required methods of huggingface_hub.HfApi."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:
        """Creates a repository."""

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> Any:
        """Uploads a folder as one commit."""


def publish(job: TrainJob, folder: RunFolder, about: dict[str, Any], client: Client | None = None) -> Path:
    """Collects the export, its videos and a model card in the run's hub folder and uploads it.

    Args:
        job: the job that was run.
        folder: the run.
        about: further information needed to use the export.
        client: client of the Hub; by default huggingface_hub's.

    Raises:
        UserError: the upload failed; the folder is kept and can be uploaded manually.
    """
    gathered = _gather(job, folder, about)
    if job.hub.dry_run:
        return gathered
    assert job.hub.repo, "required by the config check"
    if client is None:
        from huggingface_hub import HfApi

        client = HfApi()
    try:
        logger.info("uploading %s to %s", gathered, job.hub.repo)
        client.create_repo(job.hub.repo, private=job.hub.private, exist_ok=True)
        client.upload_folder(repo_id=job.hub.repo, folder_path=gathered, commit_message=f"Upload {job.name}")
    except Exception as error:  # the hub client raises errors of several libraries
        reason = str(error).partition("\n")[0][:160]
        raise UserError(
            f"hub.repo={job.hub.repo} could not be written ({reason}); log in with `hf auth login` or set HF_TOKEN. "
            f"The files to upload are in {gathered}"
        ) from None
    return gathered


def _gather(job: TrainJob, folder: RunFolder, about: dict[str, Any]) -> Path:
    gathered = folder.path / "hub"
    # Of an earlier attempt: files that no longer belong would be uploaded.
    shutil.rmtree(gathered, ignore_errors=True)
    # Copied, so that what is uploaded can be looked at, and changed, before.
    shutil.copytree(folder.export, gathered)
    for path in gathered.rglob("*.json"):
        # Paths contain user names and projects; nobody else can use them.
        write_json(path, without_paths(read_json(path)))
    config = scrubbed_config(read_config(folder.path), job.model)
    write_text(gathered / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    videos = []
    newest = sorted((folder.path / "validation").glob("step-*"))[-1:]
    for video in sorted(path for step in newest for path in step.glob("*.mp4")):
        (gathered / "videos").mkdir(exist_ok=True)
        shutil.copyfile(video, gathered / "videos" / video.name)
        videos.append({"file": video.name, "prompt": read_json(video.with_suffix(".json"))["prompt"]})
    if (folder.path / PREVIEW).exists():
        shutil.copyfile(folder.path / PREVIEW, gathered / PREVIEW)
    summary = read_json(folder.path / "summary.json")
    write_text(gathered / "README.md", _card(job, summary, videos, about, gathered))
    return gathered


def _card(
    job: TrainJob, summary: dict[str, Any], videos: list[dict[str, str]], about: dict[str, Any], gathered: Path
) -> str:
    """The model card for the files in a folder. Users' texts are escaped, whatever characters they contain."""
    environment = Environment(loader=PackageLoader("cogvx_exp.tracking"))
    environment.filters |= {"cell": in_table, "code": _as_code}
    base_channels = job.model.transformer.in_channels
    base, repo, task = hub_name(job.model), job.hub.repo or UNNAMED, build_task(job.task)
    named = base or (job.model.name if job.model.weights != "pretrained" else None)
    front_matter = {
        **({"base_model": named} if named else {}),
        "library_name": "peft" if (gathered / PEFT_FILE).exists() else "diffusers",
        "pipeline_tag": task.label,
        "tags": ["cogvideox", job.method.name, job.task.name, "cogvx-exp"],
    }
    return environment.get_template("model_card.md.j2").render(
        job=job,
        # By a YAML library: names with colons or quotes would break a template.
        front_matter=yaml.safe_dump(front_matter, sort_keys=False, allow_unicode=True),
        base=base,
        repo=repo,
        name=repo.rpartition("/")[2],
        summary=summary,
        videos=videos,
        preview=(gathered / PREVIEW).exists(),
        buckets=summary["clips"],
        peft=(gathered / PEFT_FILE).exists(),
        positions_dropped=about.get("learned_positions") == "dropped",
        pipeline=task.pipeline,
        widened="in_channels" in about and (job.method.kind != "full") and about["in_channels"] > base_channels,
        channels=about.get("in_channels"),
        controlled=task.given == "control",
    )


def in_table(text: str) -> str:
    """A text escaped for a cell of a Markdown table."""
    escaped = MARKDOWN.sub(r"\\\1", " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("\\<", "&lt;").replace("\\>", "&gt;")


def _as_code(text: str) -> str:
    """A text as code; in HTML, since the text may contain Markdown's backticks."""
    return f"<code>{in_table(text)}</code>"
