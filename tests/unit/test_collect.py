"""uplab/collect.py: what a host sends is unpacked without trusting it."""

import io
import os
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uplab import checksums, collect
from uplab.errors import EXIT_HOST, HostError
from uplab.hostside import sums

RUN = "20261122T131751Z-local-mini"
LINKS = [tarfile.SYMTYPE, tarfile.LNKTYPE]
DEVICES = [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]


def entry(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, **more: object
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


def tar(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def everything_below(folder: Path) -> dict[str, bytes | None]:
    """Path -> content, None for a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def refusal(tmp_path: Path, data: bytes) -> str:
    """The message; whatever is sent, nothing appears beside the folder it was meant for."""
    (tmp_path / "safe").mkdir()
    with pytest.raises(HostError) as caught:
        collect.unpack(data, tmp_path / "safe" / "into")
    assert caught.value.exit_code == EXIT_HOST
    assert os.listdir(tmp_path) == ["safe"]
    assert os.listdir(tmp_path / "safe") == ["into"]
    return caught.value.message


def test_files_and_folders_arrive(tmp_path: Path) -> None:
    data = tar(
        entry("run.json", b"{}"),
        entry("trials", kind=tarfile.DIRTYPE),
        entry("trials/0001/load.hist", bytes(range(256)) * 100),
        entry("trials/" + "n" * 150 + "/x", b"a long name"),
        entry("./report/empty"),
    )
    collect.unpack(data, tmp_path / "here")
    assert everything_below(tmp_path / "here") == {
        "report": None,
        "report/empty": b"",
        "run.json": b"{}",
        "trials": None,
        "trials/0001": None,
        "trials/0001/load.hist": bytes(range(256)) * 100,
        "trials/" + "n" * 150: None,
        "trials/" + "n" * 150 + "/x": b"a long name",
    }


def test_modes_and_owners_are_not_taken_over(tmp_path: Path) -> None:
    data = tar(entry("a", b"x", mode=0o6777, uid=1234, gid=1234, mtime=1))
    collect.unpack(data, tmp_path / "here")
    seen = (tmp_path / "here" / "a").stat()
    assert seen.st_mode & 0o7111 == 0
    assert (seen.st_uid, seen.st_gid) == (os.getuid(), os.getgid())


@pytest.mark.parametrize(
    "name", ["../a", "/etc/a", "a/../../b", "..", "a/..", "trials/../run.json", "//a"]
)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    message = refusal(tmp_path, tar(entry("good", b"x"), entry(name, b"evil")))
    assert message == f"the host sent {name!r}, which no run directory holds"


@pytest.mark.parametrize("kind", [*LINKS, *DEVICES])
def test_a_link_or_a_device_is_refused(tmp_path: Path, kind: bytes) -> None:
    message = refusal(tmp_path, tar(entry("a", kind=kind, linkname="/etc/passwd")))
    assert message == "the host sent 'a', which no run directory holds"


def test_a_link_cannot_be_written_through(tmp_path: Path) -> None:
    out = tmp_path / "outside"
    data = tar(entry("a", kind=tarfile.SYMTYPE, linkname=str(out)), entry("a/b", b"evil"))
    refusal(tmp_path, data)
    assert not out.exists()


@pytest.mark.parametrize(
    "entries",
    [
        [entry("a", b"1"), entry("a", b"2")],
        [entry("a", b"1"), entry("a/b", b"2")],
        [entry("a/b", b"1"), entry("a", b"2")],
        [entry("a", b"1"), entry("a", kind=tarfile.DIRTYPE)],
        [entry("n" * 300, b"1")],
        [entry(".", b"1")],
        [entry("a\0b", b"1", pax_headers={"path": "a\0b"})],
    ],
    ids=["twice", "below a file", "on a folder", "folder on a file", "too long", "dot", "NUL"],
)
def test_names_that_contradict_each_other_are_refused(
    tmp_path: Path, entries: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    assert "the host sent" in refusal(tmp_path, tar(*entries))


def test_more_than_the_caps_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "MAX_RUN_BYTES", 100)
    data = tar(entry("a", b"x" * 60), entry("b", b"x" * 60))
    assert refusal(tmp_path, data).startswith("the host sent more than 100 bytes or ")
    assert not (tmp_path / "safe" / "into" / "b").exists()


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "MAX_FILES", 2)
    data = tar(*(entry(f"f{number}") for number in range(4)))
    assert "or 2 files" in refusal(tmp_path, data)


@pytest.mark.parametrize("kept_bytes", [1, 511, 513, 700, 1100])
def test_a_tar_that_is_cut_is_refused(tmp_path: Path, kept_bytes: int) -> None:
    data = tar(entry("a", b"x" * 600))
    message = refusal(tmp_path, data[:kept_bytes])
    assert message.startswith("the run that the host sent is damaged: ")


@pytest.mark.parametrize("data", [b"", b"not a tar", b"\x1f\x8b" + bytes(600), b"x" * 5000])
def test_what_is_no_tar_is_refused(tmp_path: Path, data: bytes) -> None:
    assert refusal(tmp_path, data).startswith("the run that the host sent is damaged: ")


names = st.lists(
    st.sampled_from(["..", ".", "a", "b", "trials", "", "x" * 120, "ä"]), min_size=1, max_size=5
).map("/".join)
kinds = st.sampled_from([tarfile.REGTYPE, tarfile.REGTYPE, tarfile.DIRTYPE, *LINKS, *DEVICES])
entries = st.tuples(names, st.binary(max_size=20), kinds, names).map(
    lambda e: entry(e[0], e[1] if e[2] == tarfile.REGTYPE else b"", e[2], linkname=e[3])
)


def unpack_anything(data: bytes) -> bool:
    """Unpack; out: whether it was taken. Nothing leaves the folder, and nothing is a link."""
    with tempfile.TemporaryDirectory() as folder:
        outer = Path(folder)
        try:
            collect.unpack(data, outer / "into")
            taken = True
        except HostError:
            taken = False
        assert os.listdir(outer) == ["into"]
        for path in outer.rglob("*"):
            assert path.is_dir() or path.is_file()
            assert not path.is_symlink()
        return taken


@settings(max_examples=50)
@given(st.lists(entries, max_size=4))
def test_no_tar_leads_outside(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    good = not any(
        info.name.startswith("/") or ".." in info.name.split("/") or info.type in (*LINKS, *DEVICES)
        for info, _ in members
    )
    taken = unpack_anything(tar(*members))
    assert good or not taken


@settings(max_examples=50)
@given(st.integers(0, 3071), st.binary(min_size=1, max_size=40))
def test_no_damage_leads_outside_or_to_a_traceback(at: int, damage: bytes) -> None:
    data = bytearray(tar(entry("a", b"x" * 600), entry("trials/b", b"y" * 5)))
    data[at : at + len(damage)] = damage
    unpack_anything(bytes(data))


# --- a run ----------------------------------------------------------------------------------------


@pytest.fixture
def run_tar(tmp_path: Path) -> bytes:
    """A run with its SHA256SUMS, as the host sends it."""
    run = tmp_path / "host"
    (run / "trials" / "0001").mkdir(parents=True)
    (run / "run.json").write_text("{}\n")
    (run / "trials" / "0001" / "trial.json").write_text("{}\n")
    sums.write(run)
    return tar(
        *(entry(name, data) for name, data in everything_below(run).items() if data is not None)
    )


def repacked(data: bytes, **changes: bytes | None) -> bytes:
    """The tar with some files changed, added or (None) left out."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files: dict[str, bytes | None] = {}
        for info in archive:
            source = archive.extractfile(info)
            assert source
            files[info.name] = source.read()
    files |= changes
    return tar(*(entry(name, data) for name, data in files.items() if data is not None))


def test_a_run_gets_its_place(tmp_path: Path, run_tar: bytes) -> None:
    path = collect.receive(run_tar, tmp_path / "results", RUN)
    assert path == tmp_path / "results" / RUN
    assert os.listdir(tmp_path / "results") == [RUN]
    assert checksums.differences(path) == []


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("run.json", b"[]", "changed: run.json"),
        ("run.json", None, "missing: run.json"),
        ("more", b"x", "extra: more"),
    ],
)
def test_a_run_that_is_not_what_the_host_signed_off(
    tmp_path: Path, run_tar: bytes, name: str, data: bytes | None, said: str
) -> None:
    with pytest.raises(HostError) as caught:
        collect.receive(repacked(run_tar, **{name: data}), tmp_path / "results", RUN)
    assert caught.value.message == f"run {RUN} arrived damaged: {said}"
    assert not (tmp_path / "results" / RUN).exists()


def test_checksums_that_cannot_be_read(tmp_path: Path, run_tar: bytes) -> None:
    with pytest.raises(HostError, match=RUN):
        collect.receive(repacked(run_tar, SHA256SUMS=b"nonsense\n"), tmp_path / "results", RUN)
    assert not (tmp_path / "results" / RUN).exists()


def test_a_run_whose_host_could_not_sign_it_off_is_kept(tmp_path: Path, run_tar: bytes) -> None:
    """A full disk: the finished trials are there, and SHA256SUMS is not."""
    path = collect.receive(repacked(run_tar, SHA256SUMS=None), tmp_path / "results", RUN)
    assert (path / "trials" / "0001" / "trial.json").is_file()


def test_what_an_earlier_attempt_left_is_replaced(tmp_path: Path, run_tar: bytes) -> None:
    part = tmp_path / "results" / f".part-{RUN}"
    part.mkdir(parents=True)
    (part / "old").write_text("half")
    path = collect.receive(run_tar, tmp_path / "results", RUN)
    assert not (path / "old").exists()
    assert os.listdir(tmp_path / "results") == [RUN]


def test_a_run_that_is_here_already_is_not_overwritten(tmp_path: Path, run_tar: bytes) -> None:
    kept = collect.receive(run_tar, tmp_path / "results", RUN)
    (kept / "note").write_text("mine")
    with pytest.raises(HostError, match=f"{RUN}"):
        collect.receive(run_tar, tmp_path / "results", RUN)
    assert (kept / "note").read_text() == "mine"
