"""The validation videos of each prompt, before and after training."""

from dataclasses import dataclass
from pathlib import Path

from cogvx_exp.core.files import read_json
from cogvx_exp.runs.run_folder import RunFolder

MOST = 8
"""Maximum number of prompts shown."""


@dataclass(frozen=True)
class Row:
    """The videos of a prompt."""

    prompt: str
    videos: list[Path]
    """The condition, if there is one; that of the base model; that of the last step."""


def before_and_after(folder: RunFolder) -> tuple[list[str], list[Row]]:
    """Titles of the columns, and the videos of the first prompts: none, if there are none from before training."""
    steps = sorted((folder.path / "validation").glob("step-*"))
    pairs = [(path, steps[-1] / path.name) for path in sorted(folder.validation(0).glob("*.mp4"))]
    pairs = [pair for pair in pairs if pair[1].exists()][:MOST]
    if not pairs:
        return [], []
    rows = [
        Row(
            read_json(after.with_suffix(".json"))["prompt"],
            [path for path in (folder.conditions / before.name, before, after) if path.exists()],
        )
        for before, after in pairs
    ]
    titles = ["condition", "base model", f"after step {int(steps[-1].name.partition('-')[2])}"]
    return titles[-len(rows[0].videos) :], rows
