from pathlib import Path

import pytest

from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import atomic_write, fingerprint, write_text
from cogvx_exp.runs.best import Best
from cogvx_exp.runs.checkpoint_folder import (
    newest_checkpoint,
    open_checkpoint,
    prune_checkpoints,
    write_checkpoint,
)


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_write(path) as tmp:  # noqa: PT012
        tmp.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_fingerprints_depend_on_values_not_on_order() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": "1"})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step in (1, 2, 3):

        def write(folder: Path, step: int = step) -> None:
            (folder / "a.bin").write_bytes(bytes([step]) * 100)
            (folder / "b.json").write_text("{}")

        write_checkpoint(tmp_path / "checkpoints" / f"step-{step:06d}", write, {"step": step})
    return tmp_path


def test_the_newest_checkpoint_is_found(run: Path) -> None:
    checkpoint, skipped = newest_checkpoint(run)
    assert checkpoint is not None
    assert checkpoint.step == 3
    assert checkpoint.run_dir == run
    assert skipped == []


@pytest.mark.parametrize("name", ["a.bin", "b.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_a_damaged_checkpoint_is_passed_over_and_named(run: Path, name: str, damage: str) -> None:
    file = run / "checkpoints" / "step-000003" / name
    content = file.read_bytes()
    if damage == "flip":
        # In the manifest: inside a hash, where the JSON stays valid.
        place = content.index(b"blake2") + 12 if name == "manifest.json" else len(content) // 2
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.unlink()
    checkpoint, skipped = newest_checkpoint(run)
    assert checkpoint is not None
    assert checkpoint.step == 2
    assert len(skipped) == 1
    assert "step-000003" in skipped[0]


def test_an_unfinished_checkpoint_is_not_seen(run: Path) -> None:
    def die(folder: Path) -> None:
        (folder / "a.bin").write_bytes(b"x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(run / "checkpoints" / "step-000004", die, {"step": 4})
    checkpoint, skipped = newest_checkpoint(run)
    assert (checkpoint and checkpoint.step, skipped) == (3, [])


def test_only_the_newest_are_kept(run: Path) -> None:
    prune_checkpoints(run / "checkpoints", 2, Best("loss"))
    assert [path.name for path in sorted((run / "checkpoints").glob("step-*"))] == ["step-000002", "step-000003"]
    with pytest.raises(UserError, match="missing"):
        open_checkpoint(run / "checkpoints" / "step-000001")
