"""Manifests and folders as people have them: read right, or an issue that says what to change."""

import errno
import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cogvx_exp.config.schema.data import Source
from cogvx_exp.core.errors import UserError
from cogvx_exp.data.forms.rows import Row
from cogvx_exp.data.forms.sources import read_source
from cogvx_exp.data.issues import DataIssue

TABLE = {"caption_column": "caption", "video_column": "video"}


def read(source: str, root: Path, outside: bool = False, **settings: object) -> tuple[list[Row], list[DataIssue], list]:
    named = TABLE | {"dataset_file": f"dataset.{source}"} if source in ("csv", "jsonl") else {}
    return read_source(Source(source=source, root=str(root), **(named | settings)), outside)  # type: ignore[arg-type]


def of_csv(root: Path, text: str | bytes) -> tuple[dict[str, str], list[DataIssue]]:
    """Captions by video, and issues."""
    (root / "dataset.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    rows, issues, _ = read("csv", root)
    return {Path(row.path).name: row.captions[0] for row in rows}, issues


def pairs(root: Path, ending: str = ".mp4") -> Iterator[tuple[object, object]]:
    yield root / f"a{ending}", "a caption"
    yield f"b{ending}", ("one", "two")
    yield f"c{ending}", ""


def no_pairs(root: Path) -> list[str]:
    return ["a.mp4"]


def test_a_reader_of_your_own_gives_rows_and_issues(tmp_path: Path) -> None:
    reader = {"target": f"{__name__}.pairs", "kwargs": {"ending": ".mov"}}
    rows, issues, _ = read("custom", tmp_path, reader=reader, id_token="TOY")
    assert [(Path(row.path).name, row.captions) for row in rows] == [
        ("a.mov", ("TOY a caption",)),
        ("b.mov", ("TOY one", "TOY two")),
    ]
    assert [(issue.row, issue.what) for issue in issues] == [(3, "has an empty caption")]
    with pytest.raises(UserError, match=r"must yield pairs .* item 1 is 'a\.mp4'"):
        read("custom", tmp_path, reader={"target": f"{__name__}.no_pairs"})
    with pytest.raises(UserError, match=r"data\.reader\.target=missing\.reader cannot be imported"):
        read("custom", tmp_path, reader={"target": "missing.reader"})


def test_a_caption_with_commas_is_not_cut(tmp_path: Path) -> None:
    text = 'video,caption\nb0.mp4,a cat, sitting on a mat\nb1.mp4,"quoted, fine"\nb2.mp4, "a, blank"\nb3.mp4\n'
    captions, issues = of_csv(tmp_path, text)
    assert captions == {"b1.mp4": "quoted, fine"}
    problems = [(issue.row, issue.what) for issue in issues]
    assert problems == [
        (1, "line 2: has 3 fields, but the header has 2"),
        (3, "line 4: has 3 fields, but the header has 2"),
        (4, "line 5: has 1 fields, but the header has 2"),
    ]
    assert "put a caption with commas" in issues[0].fix


def test_an_open_quote_is_reported(tmp_path: Path) -> None:
    head = 'video,caption\nb0.mp4,"a 5 inch" doll\n'
    captions, issues = of_csv(tmp_path, head + 'b1.mp4,"an unclosed quote\nb2.mp4,third\nb3.mp4,fourth\n')
    assert captions == {}
    assert [issue.what for issue in issues] == [
        "line 2: a quoted field continues after its closing quote",
        "lines 3 to 5: a quote is opened and never closed, so everything after it belongs to the field",
    ]
    captions, issues = of_csv(tmp_path, 'video,caption\nb1.mp4,"open\nb2.mp4,"closed here, by chance"\nb3.mp4,c\n')
    assert captions == {"b3.mp4": "c"}
    assert issues[0].what.startswith("lines 2 to 3:")
    captions, issues = of_csv(tmp_path, 'video,caption\nb1.mp4,"open\nb2.mp4,size 12"\nb3.mp4,c\n')
    assert captions == {"b3.mp4": "c"}, "a legal caption of two lines, but the second one is a row"
    assert issues[0].what == "lines 2 to 3: a quote is still open, but line 3 looks like a separate row"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_what_is_legal_in_csv_is_read(tmp_path: Path, end: str) -> None:
    lines = ["\ufeffid, video ,caption", "", '1,b0.mp4,"a ""b"",\u2028c"', '2,b1.mp4,an 8 inch" doll,,', '3,b2.mp4,"x']
    captions, issues = of_csv(tmp_path, end.join([*lines, 'second line"']))
    assert issues == []
    assert captions == {"b0.mp4": 'a "b",\u2028c', "b1.mp4": 'an 8 inch" doll', "b2.mp4": f"x{end}second line"}
    captions, issues = of_csv(tmp_path, f"video,caption\nb0.mp4,{'long ' * 40_000}\n")
    assert len(captions["b0.mp4"]) > 131_072, "the csv module's own limit"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("video;caption\nb.mp4;x", "is separated by semicolons; save it with commas"),
        ('"video";"caption"\n"b.mp4";"x"', "is separated by semicolons"),
        ("video\tcaption\nb.mp4\tx", "is separated by tabs"),
        ("video,caption,caption\n", "has the column caption twice"),
        ("", "has no column caption and video; it has nothing"),
        ('video,"cap"tion\n', "the header in line 1 cannot be read"),
        ("video,caption\nb.mp4,caf\xe9 noir\n".encode("cp1252"), r"is not UTF-8 text (line 2); it seems to be WINDOWS"),
        (
            "video,caption\nb.mp4,x\n".encode("utf-16"),
            "is UTF-16 text, not UTF-8; convert it: iconv -f UTF-16",
        ),
        ("video,caption\nb.mp4,x\n".encode("utf-16-le"), "iconv -f UTF-16LE"),
        ("video,caption\nb.mp4,\u5c0f\u732b\u5728\u8349\u5730\u4e0a\n".encode("gb18030"), "seems to be GB18030"),
    ],
)
def test_a_table_that_cannot_be_read_says_why(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(UserError) as raised:
        of_csv(tmp_path, text)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_suggested_iconv_command_works(tmp_path: Path) -> None:
    root = tmp_path / "it's a folder"
    root.mkdir()
    with pytest.raises(UserError) as raised:
        of_csv(root, "video,caption\nb.mp4,caf\xe9\n".encode("cp1252"))
    subprocess.run(str(raised.value).partition("convert it: ")[2], shell=True, check=True)
    assert of_csv(root, (root / "utf8-dataset.csv").read_bytes()) == ({"b.mp4": "caf\xe9"}, [])
    assert "dataset.csv" in shlex.split(str(raised.value).partition("convert it: ")[2])[5]


def test_json_lines_are_read_strictly(tmp_path: Path) -> None:
    lines = [
        '{"video": "a.mp4", "caption": "one", "caption": "two"}',
        '{"video": "b.mp4", "caption": "\\ud83d"}',
        '{"video": "c\\u0000.mp4", "caption": "x"}',
        "[" * 100_000,
        "",
        '{"video": 3, "caption": "x"}',
        '{"video": "d.mp4", "caption": "fine"}',
    ]
    (tmp_path / "dataset.jsonl").write_text("\n".join(lines))
    rows, issues, _ = read("jsonl", tmp_path)
    assert [row.captions for row in rows] == [("fine",)]
    expected = ["has caption twice", "an incomplete character", "not UTF-8", "nested too deeply", "has no video"]
    assert [issue.row for issue in issues] == [1, 2, 3, 4, 6]
    assert all(words in issue.what for words, issue in zip(expected, issues, strict=True)), issues
    (tmp_path / "dataset.jsonl").write_text(json.dumps([{"video": "a.mp4", "caption": "x"}], indent=1))
    with pytest.raises(UserError, match="is one JSON list, not one JSON object per line; convert it: jq"):
        read("jsonl", tmp_path)


def write_files(root: Path, videos: str, captions: str) -> None:
    (root / "videos.txt").write_text(videos, encoding="utf-8")
    (root / "prompt.txt").write_text(captions, encoding="utf-8")


def test_names_are_found_as_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    root = tmp_path / "clips"
    monkeypatch.setenv("HOME", str(home))
    decomposed = "cafe\u0301.mp4"
    for path in (root / " a.mp4", root / "b.mp4 ", root / decomposed, home / "c.mp4", root / "~d.mp4"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    write_files(root, " a.mp4\nb.mp4 \ncaf\xe9.mp4\n~/c.mp4\n~d.mp4\n  e.mp4\n", "1\n2\n3\n4\n5\n6\n")
    rows, issues, _ = read("files", root, outside=True)
    names = [" a.mp4", "b.mp4 ", decomposed, "", "~d.mp4", "e.mp4"]
    assert issues == []
    assert [row.path for row in rows] == [f"{root}/{name}" if name else f"{home}/c.mp4" for name in names]
    for name in (" a", "b.mp4 "):
        (root / f"{name.removesuffix('.mp4 ')}.txt").write_text("x")
    rows, _, _ = read("folder", root)
    assert f"{root}/ a.mp4" in [row.path for row in rows]


def test_system_files_are_skipped(tmp_path: Path) -> None:
    good = tmp_path / "sub" / "a.mp4"
    junk = ["._a.mp4", "__MACOSX/sub/a.mp4", "sub/.ipynb_checkpoints/a-checkpoint.mp4", "@eaDir/a.mp4"]
    for path in (good, *(tmp_path / name for name in junk), tmp_path / ".DS_Store", tmp_path / "Thumbs.db"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    good.with_suffix(".txt").write_text("a")
    rows, issues, left_out = read("folder", tmp_path)
    assert ([row.path for row in rows], issues, len(left_out)) == ([str(good)], [], 4)
    write_files(tmp_path, "\n".join(["sub/a.mp4", *junk]), "a\n\nb\nc\nd\n")
    rows, issues, left_out = read("files", tmp_path)
    assert ([row.path for row in rows], issues, len(left_out)) == ([str(good)], [], 4)


def test_links_to_folders_are_followed_or_reported(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for path in (root / "own" / "a.mp4", elsewhere / "deep" / "b.mp4"):
        path.parent.mkdir(parents=True)
        path.touch()
        path.with_suffix(".txt").write_text("caption")
    (root / "a link to own").symlink_to(root / "own")
    (root / "out").symlink_to(elsewhere)
    (elsewhere / "deep" / "circle").symlink_to(elsewhere)
    (elsewhere / "deep" / "back").symlink_to(root)
    (root / "unmounted").symlink_to(tmp_path / "nowhere")
    rows, issues, _ = read("folder", root)
    assert [row.path for row in rows] == [f"{root}/own/a.mp4"], "each file once, by its own path"
    by_name = {Path(issue.file).name: issue for issue in issues}
    assert by_name["out"].what == f"is a link to a folder outside data.root ({elsewhere})"
    assert "data.allow_outside_root=true" in by_name["out"].fix
    assert by_name["unmounted"].what.endswith("nowhere, which does not exist")
    rows, issues, _ = read("folder", root, outside=True)
    assert [row.path for row in rows] == [f"{root}/out/deep/b.mp4", f"{root}/own/a.mp4"]
    assert [Path(issue.file).name for issue in issues] == ["unmounted"]
    write_files(root, "out/deep/b.mp4\n", "caption\n")
    (issue,) = read("files", root)[1]
    assert issue.what == "lies outside data.root"
    assert "data.allow_outside_root=true" in issue.fix
    assert len(read("files", root, outside=True)[0]) == 1


def test_an_unreadable_folder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    original = os.scandir

    def scandir(path: str):  # as for somebody who is not root
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied")
        return original(path)

    monkeypatch.setattr("cogvx_exp.data.forms.folders.os.scandir", scandir)
    (issue,) = read("folder", tmp_path)[1]
    assert (Path(issue.file).name, issue.what) == ("closed", "cannot be read (Permission denied)")


def test_the_hubs_cache_may_link_to_its_own_blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "datasets--a--b" / "snapshots" / "0123"
    blobs = tmp_path / "datasets--a--b" / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    (blobs / "hash").touch()
    (snapshot / "a.mp4").symlink_to("../../blobs/hash")
    (snapshot / "b.mp4").symlink_to("/etc/hostname")
    write_files(snapshot, "a.mp4\nb.mp4\n", "1\n2\n")
    monkeypatch.setattr("cogvx_exp.core.hub.fetch", lambda *_, **__: snapshot)
    rows, issues, _ = read("hub", Path("a/b"), form="files")
    assert [Path(row.path).name for row in rows] == ["a.mp4"]
    assert [issue.what for issue in issues] == ["lies outside data.root"]


def test_a_file_name_that_is_not_utf8_is_a_issue(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    for path in (tmp_path / "a.mp4", tmp_path / name):
        path.touch()
        path.with_suffix(".txt").write_text("x")
    rows, issues, _ = read("folder", tmp_path)
    assert [Path(row.path).name for row in rows] == ["a.mp4"]
    assert issues[0].what == "has a name that is not UTF-8"


def test_captions_in_other_encodings_are_issues_of_their_clips(tmp_path: Path) -> None:
    for name, encoding in (("a", "utf-8-sig"), ("b", "utf-16"), ("c", "cp1252")):
        (tmp_path / f"{name}.mp4").touch()
        (tmp_path / f"{name}.txt").write_bytes("caf\xe9".encode(encoding))
    rows, issues, _ = read("folder", tmp_path)
    assert [row.captions for row in rows] == [("caf\xe9",)]
    assert [issue.what.partition(" (")[0] for issue in issues] == ["is UTF-16 text, not UTF-8", "is not UTF-8 text"]
    assert "iconv -f WINDOWS-1252" in issues[1].fix


def test_inspect_shows_a_dataset_without_one_good_clip(make_job) -> None:
    from cogvx_exp.latents.inspect import _token_counts

    assert _token_counts([], make_job()) == ({}, "no clip can be used")
