"""From raw footage to training: clips that are parts of long videos."""

import json
from pathlib import Path

from cogvx_exp.core.files import file_hash
from tests.entry import prepare, train
from tests.numbered import ENCODERS, make


def entries(cache: Path) -> dict[str, str]:
    return {path.name: file_hash(path) for path in (cache / "encoded").rglob("*.safetensors")}


def write_rows(root: Path, *rows: dict[str, object]) -> None:
    (root / "dataset.jsonl").write_text("".join(json.dumps({"video": "long.mp4"} | row) + "\n" for row in rows))


def test_windows_are_cached_trained_on_and_inspected(in_tmp: Path, capsys) -> None:
    make(in_tmp / "long.mp4", *ENCODERS["h264"])
    settings = ["data=jsonl", f"data.root={in_tmp}", "cache_dir=cache"]
    rows = [{"caption": "one", "end": 0.6}, {"caption": "two", "start": 0.6, "end": 1.2, "crop": [0, 0, 64, 64]}]
    write_rows(in_tmp, *rows, {"caption": "no", "keep": False, "start": 1.2})
    assert prepare(settings) == 0
    first = entries(in_tmp / "cache")
    assert "2 clips" in (printed := capsys.readouterr().out)
    assert "1 excluded by keep: false" in printed
    write_rows(in_tmp, *rows, {"caption": "two", "start": 1.0})
    assert prepare(settings) == 0
    second = entries(in_tmp / "cache")
    assert len(second) == len(first) + 1, "one more window; its caption is there"
    assert second.items() >= first.items()
    assert train([*settings, "steps=2", "validation=none", "run_dir=run"]) == 0
    assert entries(in_tmp / "cache") == second
    assert prepare([*settings, "mode=inspect"]) == 0
    page = (in_tmp / "outputs" / "inspect" / "index.html").read_text()
    assert page.count("<img") == 6
    assert "t=0.6,1.2" in page
    write_rows(in_tmp, {"caption": "one", "end": 100})
    assert prepare(settings) == 2
    assert "its end at 100 s is after that of the video (1.6 s)" in (in_tmp / "cache" / "faults.csv").read_text()
