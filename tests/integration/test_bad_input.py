"""Files and manifests as users have them: what is wrong is named."""

import os
from pathlib import Path

import pytest

from cogvx_exp.config.schema import Data
from cogvx_exp.core.errors import UserError
from cogvx_exp.data.dataset import Dataset, load_dataset
from cogvx_exp.data.issues import ClipError
from tests.entry import train as main

BUCKETS = ("data.height_buckets=[48]", "data.width_buckets=[80]", "data.frame_buckets=[9,17]", "data.max_num_frames=17")


@pytest.fixture
def load(make_job, tmp_path: Path):
    """Loads a dataset of any form below a folder."""

    def run(form: str, root: Path, *overrides: str) -> Dataset:
        job = make_job(f"data={form}", f"data.root='{root}'", *BUCKETS, *overrides)
        return load_dataset(job.data, tmp_path / "cache")

    return run


def write_manifest(root: Path, *rows: tuple[str, str]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "videos.txt").write_text("".join(f"{video}\n" for video, _ in rows), encoding="utf-8")
    (root / "prompt.txt").write_text("".join(f"{caption}\n" for _, caption in rows), encoding="utf-8")
    return root


BAD = {
    "missing.mp4": "does not exist",
    "folder.mp4": "is a folder",
    "empty.mp4": "is empty (0 bytes)",
    "header-only.mp4": "frames",
    "text.mp4": "cannot be decoded (Invalid data found",
    "audio-only.mp4": "has no video stream, only audio",
    "no-frames.mp4": "has no frames",
    "one-frame.mp4": "has 1 usable frames; the smallest of data.frame_buckets is 9",
    "short.mp4": "has 5 usable frames",
    "hidden.mp4": "is not a file",
}


def test_every_bad_file_is_named_with_its_row_and_a_way_out(zoo: Path, load) -> None:
    if not (zoo / "hidden.mp4").exists():
        os.mkfifo(zoo / "hidden.mp4")  # opening it would hang
    write_manifest(zoo, *((name, f"caption of {name}") for name in ["good.mp4", *BAD]))
    dataset = load("files", zoo)
    assert [clip.row.path for clip in dataset.clips] == [str(zoo / "good.mp4")]
    assert [(issue.row, issue.file) for issue in dataset.issues] == list(enumerate(BAD, 2))
    for issue, words in zip(dataset.issues, BAD.values(), strict=True):
        assert words in issue.what, issue
        assert issue.fix


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else for a moment")
def test_a_file_that_may_not_be_read(zoo: Path, load) -> None:
    locked = zoo / "locked.mp4"
    locked.write_bytes((zoo / "good.mp4").read_bytes())
    locked.chmod(0)
    for folder in (zoo, *zoo.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o755)
    from cogvx_exp.data.index.examine import file_stamp

    os.seteuid(65534)
    try:
        with pytest.raises(ClipError, match="is not readable"):
            file_stamp(str(locked))
    finally:
        os.seteuid(0)


@pytest.fixture
def clips(zoo: Path, tmp_path: Path) -> Path:
    """A dataset folder with two good videos under awkward names."""
    root = tmp_path / "my clips, ümläut"
    (root / "sub folder").mkdir(parents=True)
    for name in ("a.mp4", "sub folder/日本語 clip.mp4"):
        (root / name).write_bytes((zoo / "good.mp4").read_bytes())
    return root


NAMES = ("a.mp4", "sub folder/日本語 clip.mp4")


def captions(dataset: Dataset) -> list[tuple[str, ...]]:
    assert not dataset.issues
    return [clip.row.captions for clip in dataset.clips]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_files(clips: Path, load, end: str, encoding: str) -> None:
    (clips / "videos.txt").write_bytes((end.join(["", *NAMES, "", ""])).encode(encoding))
    (clips / "prompt.txt").write_bytes(
        (end.join(["", "  first, with comma ", "zweite ü\u2028x", "", ""])).encode(encoding)
    )
    dataset = load("files", clips, "data.id_token=TOK")
    assert captions(dataset) == [("TOK first, with comma",), ("TOK zweite ü\u2028x",)]
    assert [clip.row.number for clip in dataset.clips] == [2, 3]


def test_csv_with_quotes_and_line_breaks(clips: Path, load) -> None:
    text = f'id,text,file\n1,"first, ""quoted""\nsecond line",{NAMES[0]}\n2,other,{NAMES[1]}\n'
    (clips / "dataset.csv").write_text(text, encoding="utf-8-sig")
    dataset = load("csv", clips, "data.caption_column=text", "data.video_column=file")
    assert captions(dataset) == [('first, "quoted"\nsecond line',), ("other",)]
    with pytest.raises(UserError, match=r"no column caption and video; it has id, text, file"):
        load("csv", clips)


def test_jsonl_with_several_captions_and_a_broken_line(clips: Path, load) -> None:
    lines = [f'{{"caption": ["one", " two "], "video": "{NAMES[0]}"}}', "{broken", '{"caption": "x"}', "[]"]
    (clips / "dataset.jsonl").write_text("\n".join([*lines, f'{{"caption": 3, "video": "{NAMES[1]}"}}']))
    dataset = load("jsonl", clips)
    assert [clip.row.captions for clip in dataset.clips] == [("one", "two")]
    told = [(issue.row, issue.what) for issue in dataset.issues]
    assert [row for row, _ in told] == [2, 3, 4, 5]
    for (_, what), words in zip(
        told, ("is not JSON", "caption and video", "caption and video", "not text"), strict=True
    ):
        assert words in what


def test_folder(clips: Path, load) -> None:
    (clips / "a.txt").write_text("one\ntwo\n")
    dataset = load("folder", clips)
    assert [clip.row.captions for clip in dataset.clips] == [("one two",)]
    assert [issue.what for issue in dataset.issues] == ["has no caption 日本語 clip.txt"]


def test_captions_that_cannot_be_used(clips: Path, load) -> None:
    write_manifest(clips, (NAMES[0], "good"), (NAMES[1], " "), (NAMES[0], "good"), ("", "no video"))
    issues = load("files", clips).issues
    assert [(issue.row, issue.what) for issue in issues] == [
        (2, "has an empty caption"),
        (3, "repeats the video and the caption of row 1"),
        (4, "has no video"),
    ]


def test_manifests_that_cannot_be_read(clips: Path, load) -> None:
    with pytest.raises(UserError, match=r"prompt\.txt does not exist; check data.root and data.caption_column"):
        load("files", clips)
    write_manifest(clips, *((name, "x") for name in NAMES))
    (clips / "prompt.txt").write_text("only one")
    with pytest.raises(UserError, match=r"has 1 captions and videos\.txt has 2 videos"):
        load("files", clips)
    (clips / "prompt.txt").write_bytes("fine\nbad \xff\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"prompt\.txt is not UTF-8 text \(line 2\)"):
        load("files", clips)
    with pytest.raises(UserError, match="is not a folder"):
        load("folder", clips / "nowhere")


def test_a_path_outside_the_root_is_refused_unless_allowed(clips: Path, zoo: Path, load) -> None:
    (clips / "link.mp4").symlink_to(zoo / "good.mp4")
    outside = ["link.mp4", f"../{clips.name}/../../elsewhere.mp4", str(zoo / "good.mp4")]
    write_manifest(clips, (NAMES[0], "inside"), *((name, "outside") for name in outside))
    dataset = load("files", clips)
    assert [issue.what for issue in dataset.issues] == ["lies outside data.root"] * 3
    allowed = load("files", clips, "data.allow_outside_root=true")
    assert len(allowed.clips) == 3
    assert [issue.what for issue in allowed.issues] == ["does not exist"]


def test_issues_stop_a_run_before_torch_or_are_skipped(
    clips: Path, shared_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(clips, (NAMES[0], "x" * 10_000), ("nope.mp4", "missing"))
    run = tmp_path / "run"
    settings = [f"run_dir='{run}'", f"cache_dir={shared_cache}", "data=files", f"data.root='{clips}'", "steps=1"]
    settings += [*BUCKETS, "validation=none", "data.workers=0"]
    assert main(settings) == 2
    told = capsys.readouterr()
    assert "nope.mp4  does not exist" in told.out
    assert "1 of 2 rows cannot be used" in told.err
    assert "data.on_error=skip" in told.err
    assert (run / "faults.csv").read_text().splitlines()[1].startswith("2,nope.mp4,does not exist")
    assert not (run / "environment.json").exists()
    assert main([*settings, "data.on_error=skip", f"run_dir='{run}-2'"]) == 0
    out = capsys.readouterr().out
    assert "Skipping 1 rows" in out
    assert "Caption truncated from" in out
    assert "to 226 tokens" in out


def test_a_dataset_on_the_hub_that_cannot_be_fetched_is_one_clear_line(
    make_job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    data: Data = make_job("data=hub").data
    with pytest.raises(
        UserError, match="Wild-Heart/Disney-VideoGeneration-Dataset is not in the Hugging Face cache"
    ) as told:
        load_dataset(data, tmp_path)
    assert "data.root=FOLDER" in str(told.value)
    assert "\n" not in str(told.value)
