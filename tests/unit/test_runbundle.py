"""A run in one file: made, checked and replayed (uplab/makebundle, runbundle, verify, replay)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runs import edit_json, make_run
from uplab import makebundle, replay, results, runbundle
from uplab.checksums import SUMS_FILE
from uplab.errors import GateError, UsageError
from uplab.export import formats
from uplab.report.write import write_reports
from uplab.verify import require_sound, said, verify

ROOT = Path(__file__).resolve().parents[2]
PINS = ROOT / "playbooks" / "group_vars" / "all" / "pins.yml"
RUN_ID = "20261122T131751Z-local-seed"


def small(directory: Path, **changes: Any) -> Path:
    spec: dict[str, Any] = {"servers": ("https",), "blocks": 3, "histogram_buckets": 5}
    return make_run(directory, **(spec | changes))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small(tmp_path_factory.mktemp("bundles") / "run")


@pytest.fixture(scope="module")
def packed(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "run.zip"
    makebundle.make(original, out, pins=PINS)
    return out


@pytest.fixture
def run_dir(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "run")


def repacked(packed: Path, out: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A bundle of the right form whose files were changed, with new checksums around them."""
    with zipfile.ZipFile(packed) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(runbundle._member(name), files[name])
    return out


def new_sums(files: dict[str, bytes]) -> None:
    digests = {
        name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != SUMS_FILE
    }
    files[SUMS_FILE] = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode()


# --- making ---------------------------------------------------------------------------------------


def test_a_bundle_holds_the_run_and_its_report(original: Path, packed: Path) -> None:
    with zipfile.ZipFile(packed) as archive:
        names = set(archive.namelist())
        read = archive.read
        run_files = {
            f"{RUN_ID}/{path.relative_to(original).as_posix()}": path.read_bytes()
            for path in original.rglob("*")
            if path.is_file()
        }
        assert {name: read(name) for name in run_files} == run_files
    forms = {f"{RUN_ID}/report/{entry.file}" for entry in formats.FORMATS.values()}
    about = {"bundle.json", "README.md", SUMS_FILE}
    assert names == {*run_files, *forms, f"{RUN_ID}/report/report.md", *about} | {
        f"{RUN_ID}/report/{name}" for name in replay.everything(_report(original))
    }


def _report(run_dir: Path) -> Any:
    from uplab.report import model

    return model.build(results.load(run_dir))


def test_making_a_bundle_leaves_the_run_as_it_is(run_dir: Path, tmp_path: Path) -> None:
    before = sorted(run_dir.rglob("*"))
    makebundle.make(run_dir, tmp_path / "b.zip", pins=PINS)
    assert sorted(run_dir.rglob("*")) == before
    assert sorted(os.listdir(tmp_path)) == ["b.zip", "run"]


def test_the_same_run_gives_the_same_bundle(original: Path, packed: Path, tmp_path: Path) -> None:
    again = tmp_path / "another-name.zip"
    made = makebundle.make(original, again, pins=PINS)
    assert again.read_bytes() == packed.read_bytes()
    assert made.sums_sha256 == verify(packed).sums_sha256


def test_any_machine_can_check_it_without_uplab(packed: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(packed, tmp_path, "zip")
    for folder in (tmp_path, tmp_path / RUN_ID):
        subprocess.run(["sha256sum", "-c", "--quiet", SUMS_FILE], cwd=folder, check=True)


def test_a_changed_run_is_not_packed(run_dir: Path, tmp_path: Path) -> None:
    (run_dir / "events.jsonl").write_text("changed")
    with pytest.raises(GateError, match=r"changed: events\.jsonl"):
        makebundle.make(run_dir, tmp_path / "b.zip", pins=PINS)
    assert not (tmp_path / "b.zip").exists()


def test_a_run_that_nothing_vouches_for_is_not_packed(tmp_path: Path) -> None:
    run_dir = small(tmp_path / "run", outcome="interrupted")
    with pytest.raises(GateError, match=r"no SHA256SUMS .*invoke bench\.resume"):
        makebundle.make(run_dir, tmp_path / "b.zip", pins=PINS)


def test_where_it_cannot_be_written_it_says_so(original: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written: No such file"):
        makebundle.make(original, tmp_path / "no" / "b.zip", pins=PINS)


def test_a_run_whose_name_leads_elsewhere_is_not_packed(tmp_path: Path) -> None:
    run_dir = small(tmp_path / "run", sums=False)
    edit_json(run_dir / "run.json", run_id="../../evil")
    from uplab.hostside import sums

    sums.write(run_dir)
    with pytest.raises(UsageError, match="is no name for a folder"):
        makebundle.make(run_dir, tmp_path / "b.zip", pins=PINS)


# --- checking -------------------------------------------------------------------------------------


def test_a_sound_run_and_bundle(original: Path, packed: Path) -> None:
    for path in (original, packed):
        found = verify(path)
        require_sound(path, found)
        assert found.differences == ()
        assert found.files > 20
        assert any("0 not as the checksums say" in line for line in said(path, found))


@pytest.mark.parametrize(
    ("harm", "difference"),
    [
        (lambda run: (run / "events.jsonl").write_text("x"), "changed: events.jsonl"),
        (lambda run: (run / "host.json").unlink(), "missing: host.json"),
        (lambda run: (run / "new").write_text("x"), "extra: new"),
    ],
)
def test_what_was_done_to_a_run_is_named(
    run_dir: Path, harm: Callable[[Path], None], difference: str
) -> None:
    harm(run_dir)
    found = verify(run_dir)
    assert found.differences == (difference,)
    with pytest.raises(GateError, match="is not what its checksums say: 1 file"):
        require_sound(run_dir, found)


def test_every_byte_of_every_file_of_a_run_counts(run_dir: Path) -> None:
    names = [p for p in sorted(run_dir.rglob("*")) if p.is_file() and p.name != SUMS_FILE]
    for path in names[:: len(names) // 12]:
        data = path.read_bytes()
        for at in {0, len(data) // 2, len(data) - 1}:
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            assert verify(run_dir).differences == (f"changed: {path.relative_to(run_dir)}",)
        path.write_bytes(data)


def test_every_byte_of_a_bundle_counts(packed: Path, tmp_path: Path) -> None:
    """Of the archive itself too: its headers, its directory, and what lies between files."""
    data = packed.read_bytes()
    changed = tmp_path / "b.zip"
    everywhere = range(0, len(data), len(data) // 150)
    for at in [*everywhere, *range(len(data) - 150, len(data))]:
        changed.write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        try:
            found = verify(changed).differences
        except UsageError as error:
            found = (str(error),)
        assert found, f"byte {at}"


@pytest.mark.parametrize("more", [b"x", b"PK\x05\x06"])
def test_a_bundle_with_more_bytes_is_refused(packed: Path, tmp_path: Path, more: bytes) -> None:
    changed = tmp_path / "b.zip"
    for data in (packed.read_bytes() + more, more + packed.read_bytes()):
        changed.write_bytes(data)
        with pytest.raises(UsageError):
            verify(changed)


def test_a_bundle_of_more_files_than_a_plain_zip_holds(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = verify(packed)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 5)
    path = repacked(packed, tmp_path / "b.zip", lambda _: None)
    assert path.stat().st_size == packed.stat().st_size + 76
    assert verify(path) == plain


def test_a_bundle_with_a_comment_is_refused(packed: Path, tmp_path: Path) -> None:
    changed = shutil.copy(packed, tmp_path / "b.zip")
    with zipfile.ZipFile(changed, "a") as archive:
        archive.comment = b"hidden"
    with pytest.raises(UsageError, match="are not as uplab writes them"):
        verify(Path(changed))


@pytest.mark.parametrize(
    ("name", "differences"),
    [
        (f"{RUN_ID}/events.jsonl", (f"changed: {RUN_ID}/events.jsonl",)),
        (f"{RUN_ID}/report/report.md", (f"changed: {RUN_ID}/report/report.md",)),
        ("README.md", ("changed: README.md",)),
    ],
)
def test_a_changed_file_of_a_bundle_is_named(
    packed: Path, tmp_path: Path, name: str, differences: tuple[str, ...]
) -> None:
    path = repacked(packed, tmp_path / "b.zip", lambda files: files.update({name: b"changed"}))
    assert verify(path).differences == differences


def test_missing_and_added_files_of_a_bundle_are_named(packed: Path, tmp_path: Path) -> None:
    def change(files: dict[str, bytes]) -> None:
        del files[f"{RUN_ID}/host.json"]
        files["new"] = b""
        files[f"{RUN_ID}/new"] = b""

    found = verify(repacked(packed, tmp_path / "b.zip", change))
    assert set(found.differences) == {
        f"missing: {RUN_ID}/host.json",
        "extra: new",
        f"extra: {RUN_ID}/new",
    }


def test_new_checksums_around_a_changed_run_do_not_hide_it(packed: Path, tmp_path: Path) -> None:
    """The host's own SHA256SUMS lies inside; whoever changes that too has another digest."""

    def change(files: dict[str, bytes]) -> None:
        files[f"{RUN_ID}/events.jsonl"] = b"changed"
        new_sums(files)

    found = verify(repacked(packed, tmp_path / "b.zip", change))
    assert found.differences == (f"changed: {RUN_ID}/events.jsonl",)
    assert found.sums_sha256 != verify(packed).sums_sha256


@pytest.mark.parametrize(
    "name",
    ["../x", "/x", "a/../../x", "a//b", "a\\b", "a\x1bb", "C:/x", "folder/", "./x"],
)
def test_a_name_that_leads_outside_is_refused(packed: Path, tmp_path: Path, name: str) -> None:
    path = repacked(packed, tmp_path / "b.zip", lambda files: files.update({name: b"evil"}))
    with pytest.raises(UsageError):
        verify(path)
    with pytest.raises(UsageError):
        replay.replay(path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFDIR])
def test_what_is_no_plain_file_is_refused(packed: Path, tmp_path: Path, kind: int) -> None:
    path = Path(shutil.copy(packed, tmp_path / "b.zip"))
    with zipfile.ZipFile(path, "a") as archive:
        member = runbundle._member("link")
        member.external_attr = (kind | 0o777) << 16
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(UsageError, match="is no plain file"):
        verify(path)


def test_a_file_that_comes_twice_is_refused(packed: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(packed, tmp_path / "b.zip"))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(runbundle._member("README.md"), "another")
    with pytest.raises(UsageError, match="came twice"):
        verify(path)


def test_more_than_it_may_hold_is_refused_before_it_is_unpacked(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cap in ("MAX_BYTES", "MAX_FILE_BYTES", "MAX_FILES"):
        with monkeypatch.context() as patch:
            patch.setattr(runbundle, cap, 10)
            with pytest.raises(UsageError, match=r"holds more than|is larger than"):
                verify(packed)


def test_a_file_that_claims_to_be_small_is_not_unpacked_further(
    packed: Path, tmp_path: Path
) -> None:
    """A zip bomb: the directory says 10 bytes, the stream holds a million."""
    path = repacked(packed, tmp_path / "b.zip", lambda files: files.update({"a": bytes(1 << 20)}))
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<L", 1 << 20), struct.pack("<L", 10)))
    with pytest.raises(UsageError, match="a in it is damaged"):
        verify(path)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04cut off"])
def test_what_is_no_bundle_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "b.zip"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="is no bundle, or damaged"):
        verify(path)


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(runbundle._member("x"), "y")
    with pytest.raises(UsageError):
        verify(path)


@pytest.mark.parametrize("index", [b"{}", b"[", b'{"schema": 1, "run_id": "../x"}'])
def test_a_wrong_index_is_refused(packed: Path, tmp_path: Path, index: bytes) -> None:
    path = repacked(packed, tmp_path / "b.zip", lambda files: files.update({"bundle.json": index}))
    with pytest.raises(UsageError, match=r"bundle\.json"):
        verify(path)


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a run directory nor a bundle"):
        verify(tmp_path)
    with pytest.raises(UsageError, match="neither a run directory nor a bundle"):
        verify(tmp_path / "absent")


# --- replaying ------------------------------------------------------------------------------------


def test_a_report_is_made_again(run_dir: Path) -> None:
    write_reports(run_dir)
    formats.write(_report(run_dir), "parquet", None)
    replayed = replay.replay(run_dir)
    assert {"report.md", "trials.csv", "trials.parquet"} <= set(replayed.files)
    assert (replayed.differences, replayed.foreign) == ((), ())


def test_a_report_is_made_again_elsewhere(packed: Path, tmp_path: Path) -> None:
    """Byte for byte: in another time zone, locale and folder, from the bundle alone."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tasks.py"), "report.replay", str(packed)],
        env={"TZ": "Pacific/Chatham", "LC_ALL": "C", "PATH": os.environ["PATH"], "HOME": "/"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{packed}: ")
    assert "files made again, byte for byte" in done.stdout


def test_what_differs_is_named_with_its_place(run_dir: Path) -> None:
    write_reports(run_dir)
    report = run_dir / "report"
    text = (report / "report.md").read_bytes()
    (report / "report.md").write_bytes(text[:7] + b"#" + text[8:])
    (report / "trials.csv").unlink()
    (report / "mine.txt").write_text("mine")
    replayed = replay.replay(run_dir)
    assert set(replayed.differences) == {"differs: report.md, from byte 7", "missing: trials.csv"}
    assert replayed.foreign == ("mine.txt",)
    with pytest.raises(GateError, match="not the same report, files that differ: 2"):
        replay.require_same(run_dir, replayed)


def test_a_report_that_is_cut_off_differs_at_its_end(run_dir: Path) -> None:
    write_reports(run_dir)
    path = run_dir / "report" / "trials.csv"
    path.write_bytes(path.read_bytes()[:-1])
    size = path.stat().st_size
    assert replay.replay(run_dir).differences == (f"differs: trials.csv, from byte {size:,}",)


def test_replay_needs_something_to_compare_with(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no report .*invoke report\.md"):
        replay.replay(run_dir)
    replayed = replay.replay(run_dir, tmp_path / "made")
    assert sorted(os.listdir(tmp_path / "made")) == sorted(
        {name.split("/")[0] for name in replayed.files}
    )
    with pytest.raises(UsageError, match="is there already"):
        replay.replay(run_dir, tmp_path / "made")


def test_a_changed_run_or_bundle_is_not_replayed(
    run_dir: Path, packed: Path, tmp_path: Path
) -> None:
    write_reports(run_dir)
    (run_dir / "events.jsonl").write_text("x")
    name = f"{RUN_ID}/events.jsonl"
    path = repacked(packed, tmp_path / "b.zip", lambda files: files.update({name: b"x"}))
    for changed in (run_dir, path):
        with pytest.raises(GateError, match=r"changed: .*events\.jsonl"):
            replay.replay(changed)


def test_a_report_is_not_read_through_a_link(run_dir: Path, tmp_path: Path) -> None:
    write_reports(run_dir)
    shutil.move(run_dir / "report", tmp_path / "elsewhere")
    (run_dir / "report").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is a symbolic link"):
        replay.replay(run_dir)


def test_what_a_bundle_says_of_itself(packed: Path) -> None:
    with zipfile.ZipFile(packed) as archive:
        index = json.loads(archive.read("bundle.json"))
        readme = archive.read("README.md").decode()
    assert (index["run_id"], index["redacted"]) == (RUN_ID, None)
    assert "./invoke report.verify BUNDLE" in readme
    assert "redacted" not in readme
