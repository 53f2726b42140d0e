"""uplab/bundle: a bundle is what it says, whole, or nothing of it is used."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.bundle import bundles
from tests.unit.bundle.bundles import CONTENT, Members
from uplab.bundle import index as indexes
from uplab.bundle import reading, zstd
from uplab.bundle.index import Refused
from uplab.errors import EXIT_USAGE, UsageError

ROOT = Path(__file__).parents[3]
FIRST = "archives/tiny.tar"


def refused(bundle: Path, tmp_path: Path) -> str:
    """The message that a bundle is refused with; nothing of it is left then."""
    into = tmp_path / "into" / "unpacked"
    into.parent.mkdir()
    with pytest.raises(Refused) as caught:
        bundles.open_whole(bundle, into)
    assert caught.value.exit_code == EXIT_USAGE
    assert list(into.parent.iterdir()) == []
    said = caught.value.message
    assert said.startswith(f"{bundle} is not used: ")
    assert "; nothing was changed. On a connected machine, run: ./invoke lab.bundle" in said
    assert "\n" not in said
    return said


# --- what is written is read ----------------------------------------------------------------------


def test_a_bundle_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    bundle = bundles.write(tmp_path / "lab.tar.zst")
    seen: list[tuple[int, int]] = []
    found = reading.unpack(
        bundle,
        tmp_path / "unpacked",
        accept=lambda _index: None,
        progress=lambda *bytes_: seen.append(bytes_),
    )
    assert found == bundles.index_of()
    for path, data in CONTENT.items():
        assert (tmp_path / "unpacked" / path).read_bytes() == data
    total = sum(map(len, CONTENT.values()))
    assert seen[-1] == (total, total)
    assert len(seen) == len(CONTENT)


def test_the_same_parts_give_the_same_bytes(tmp_path: Path) -> None:
    first = bundles.write(tmp_path / "first.tar.zst")
    shutil.rmtree(tmp_path / "first.tar.zst-parts")
    backwards = dict(reversed(CONTENT.items()))
    second = bundles.write(tmp_path / "second.tar.zst", backwards)
    os.utime(second.with_name("second.tar.zst-parts") / FIRST, (0, 0))
    assert first.read_bytes() == second.read_bytes()


def test_what_a_machine_needs_first_lies_first(tmp_path: Path) -> None:
    found = bundles.open_whole(bundles.write(tmp_path / "b"), tmp_path / "unpacked")
    assert [part.kind for part in found.parts] == ["wheel", "deb", "archive"]


def test_only_what_is_taken_is_laid_down_and_the_rest_is_checked_too(tmp_path: Path) -> None:
    bundle = bundles.write(tmp_path / "b")
    reading.unpack(
        bundle,
        tmp_path / "unpacked",
        accept=lambda _index: None,
        take=lambda part: part.kind == "wheel",
    )
    names = {path.name for path in (tmp_path / "unpacked").rglob("*") if path.is_file()}
    assert names == {indexes.NAME, "tiny-1.0-py3-none-any.whl"}
    listed = bundles.members()
    last = listed[-1][0]
    assert last.name == FIRST
    broken = bundles.forge(tmp_path / "broken", [*listed[:-1], (last, b"X" * last.size)])
    with pytest.raises(Refused):
        reading.unpack(
            broken,
            tmp_path / "other",
            accept=lambda _index: None,
            take=lambda part: part.kind == "wheel",
        )


def test_reading_ends_with_the_last_part_that_is_wanted(tmp_path: Path) -> None:
    """What makes the environment does not read a gigabyte of sources, nor trip over them."""
    listed = bundles.members()
    broken = bundles.forge(tmp_path / "b", [*listed[:-1], (listed[-1][0], b"X" * 11000)])
    reading.unpack(
        broken,
        tmp_path / "unpacked",
        accept=lambda _index: None,
        take=lambda part: part.kind == "wheel",
        whole=False,
    )
    assert (tmp_path / "unpacked" / "wheels" / "tiny-1.0-py3-none-any.whl").exists()


def test_an_unpacked_bundle_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    bundle = bundles.write(tmp_path / "b")
    stale = tmp_path / "unpacked" / "stale"
    stale.parent.mkdir()
    stale.touch()
    bundles.open_whole(bundle, stale.parent)
    assert not stale.exists()


# --- each refusal ---------------------------------------------------------------------------------


def changed(name: str, change: Callable[[tarfile.TarInfo], object]) -> Members:
    """The members of a good bundle, one of them changed."""
    listed = bundles.members()
    (member,) = [member for member, _ in listed if member.name == name]
    change(member)
    return listed


def as_type(kind: bytes, **more: Any) -> Callable[[tarfile.TarInfo], None]:
    def change(member: tarfile.TarInfo) -> None:
        member.type, member.size = kind, 0
        for key, value in more.items():
            setattr(member, key, value)

    return change


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a named pipe"),
        (tarfile.DIRTYPE, "a directory"),
    ],
)
def test_anything_but_a_plain_file_is_refused(kind: bytes, words: str, tmp_path: Path) -> None:
    change = as_type(kind, linkname="/etc/passwd")
    bundle = bundles.forge(tmp_path / "b", changed(FIRST, change))
    assert f"'{FIRST}' in it is {words}" in refused(bundle, tmp_path)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../outside", "archives/../../outside", "archives//x", "./archives/x", "x"],
)
def test_a_name_that_leads_elsewhere_is_refused_in_the_index(name: str, tmp_path: Path) -> None:
    bundle = bundles.forge_index(tmp_path / "b", lambda d: d["parts"][0].update(path=name))
    assert f"names a part outside of it: {name!r}" in refused(bundle, tmp_path)


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside", "archives/other"])
def test_a_member_that_the_index_does_not_name_is_refused(name: str, tmp_path: Path) -> None:
    extra = tarfile.TarInfo(name)
    bundle = bundles.forge(tmp_path / "b", [*bundles.members(), (extra, b"")])
    assert f"names no part {name!r}" in refused(bundle, tmp_path)
    assert not (tmp_path / "outside").exists()


def test_a_member_that_comes_twice_is_refused(tmp_path: Path) -> None:
    listed = bundles.members()
    bundle = bundles.forge(tmp_path / "b", [*listed, listed[1]])
    assert "or it came twice" in refused(bundle, tmp_path)


def test_another_content_is_refused(tmp_path: Path) -> None:
    listed = bundles.members()
    other = b"B" + listed[-1][1][1:]
    bundle = bundles.forge(tmp_path / "b", [*listed[:-1], (listed[-1][0], other)])
    said = refused(bundle, tmp_path)
    assert f"{FIRST} in it has {len(other)} bytes and the sha256 " in said


def test_a_longer_content_is_refused_before_it_is_read(tmp_path: Path) -> None:
    listed = bundles.members()
    listed[-1][0].size += 1
    longer = bundles.forge(tmp_path / "b", [*listed[:-1], (listed[-1][0], listed[-1][1] + b"x")])
    assert f"'{FIRST}' in it is longer than" in refused(longer, tmp_path)


def test_a_shorter_content_is_refused(tmp_path: Path) -> None:
    listed = bundles.members()
    listed[-1][0].size -= 1
    bundle = bundles.forge(tmp_path / "b", [*listed[:-1], (listed[-1][0], listed[-1][1][:-1])])
    assert "in it has" in refused(bundle, tmp_path)


def test_a_missing_part_is_refused(tmp_path: Path) -> None:
    bundle = bundles.forge(tmp_path / "b", bundles.members()[:-1])
    assert f"{FIRST} is missing in it (1 of 3 parts are)" in refused(bundle, tmp_path)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_truncated_bundle_is_refused(kept: float, tmp_path: Path) -> None:
    noise = {"archives/noise": os.urandom(100_000), **CONTENT}
    whole = bundles.write(tmp_path / "b", noise)
    data = whole.read_bytes()
    whole.write_bytes(data[: int(len(data) * kept)])
    refused(whole, tmp_path)


def test_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    bundle = bundles.write(tmp_path / "b", {"archives/noise": os.urandom(100_000)})
    data = bytearray(bundle.read_bytes())
    data[len(data) // 2] ^= 1
    bundle.write_bytes(data)
    refused(bundle, tmp_path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is not compressed by zstd"),
        (b"PK\x03\x04 a zip", "it is not compressed by zstd"),
        (zstd.MAGIC + b"nonsense", "cut off"),
    ],
)
def test_what_is_no_bundle_at_all_is_refused(data: bytes, words: str, tmp_path: Path) -> None:
    bundle = tmp_path / "b"
    bundle.write_bytes(data)
    assert words in refused(bundle, tmp_path)


def test_a_foreign_archive_is_refused(tmp_path: Path) -> None:
    bundle = bundles.forge(tmp_path / "b", bundles.members()[1:])
    assert "it does not begin with index.json: it is no bundle of uplab" in refused(
        bundle, tmp_path
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(kind="other"), "is not that of a bundle of uplab"),
        (lambda d: d.update(schema=2), "it has the schema 2, this uplab reads 1"),
        (lambda d: d.pop("parts"), "is not whole (KeyError: 'parts')"),
        (lambda d: d["parts"].append(d["parts"][0]), "names archives/tiny.tar twice"),
        (lambda d: d["parts"][0].update(kind="song"), "kind 'song', wanted one of wheel"),
        (lambda d: d["parts"][0].update(sha256="beef"), "no sha256, or no size"),
        (lambda d: d["parts"][0].update(bytes=-1), "no sha256, or no size"),
        (lambda d: d["parts"][0].update(bytes="many"), "is not whole (ValueError"),
        (lambda d: d["parts"][0].update(kind="git"), "no full commit"),
        (lambda d: d["parts"][0].update(kind="crates"), "no full commit"),
        (lambda d: d["parts"][0].update({"for": ["../x"]}), "it is for '../x'"),
        (lambda d: d["parts"][0].update({"for": []}), "it is for nothing"),
        (lambda d: d["parts"][1].update(release="../.."), "it is for 'x', '../..'"),
    ],
)
def test_an_index_that_is_not_ours_is_refused(
    change: Callable[[dict[str, Any]], object], words: str, tmp_path: Path
) -> None:
    def first(document: dict[str, Any]) -> None:
        document["parts"].sort(key=lambda entry: str(entry["path"]))
        change(document)

    assert words in refused(bundles.forge_index(tmp_path / "b", first), tmp_path)


def test_an_index_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    listed = bundles.members()
    listed[0][0].size = 3
    bundle = bundles.forge(tmp_path / "b", [(listed[0][0], b"{{{"), *listed[1:]])
    assert "its index.json cannot be read" in refused(bundle, tmp_path)


def test_a_bundle_of_other_pins_is_refused_before_its_parts_are_read(tmp_path: Path) -> None:
    listed = bundles.members()
    # Its parts would be refused as well, but nobody gets as far as them.
    bundle = bundles.forge(tmp_path / "b", listed[:1])
    with pytest.raises(Refused, match=r"made from another playbooks/group_vars/all/pins\.yml than"):
        reading.unpack(
            bundle,
            tmp_path / "unpacked",
            accept=lambda index: indexes.require_same(index, ROOT, [indexes.PINS]),
        )


def test_only_the_files_that_matter_are_compared() -> None:
    here = indexes.made_from(ROOT)
    found = bundles.index_of(made_from={**here, indexes.LOCKS["dev"]: bundles.SAME})
    indexes.require_same(found, ROOT, [indexes.PINS, indexes.LOCKS["runtime"]])
    with pytest.raises(Refused, match=r"another requirements/dev\.lock than"):
        indexes.require_same(found, ROOT, here)


# --- every way to read zstd -----------------------------------------------------------------------


WAYS = zstd.ways()
APT = zstd.by_program(zstd.PROGRAMS[-1])


def test_a_small_debian_has_a_way_without_the_library() -> None:
    assert shutil.which(zstd.PROGRAMS[-1][0])
    assert len(WAYS) >= 2


@pytest.mark.parametrize("way", WAYS, ids=range(len(WAYS)))
def test_every_way_reads_the_same_whatever_the_file_is_called(
    way: zstd.Way, tmp_path: Path
) -> None:
    bundle = bundles.write(tmp_path / "a bundle")
    bundle.rename(tmp_path / "kept")
    # As it may lie on a stick: under any name, behind a link.
    bundle.symlink_to(tmp_path / "kept")
    with way(bundle) as stream:
        seen = stream.read()
    assert seen.startswith(b"index.json\0")
    assert seen.count(b"an archive\n") == 1000


def read_to_the_end(way: zstd.Way, bundle: Path) -> None:
    with way(bundle) as stream:
        while stream.read(100_000):
            continue


def test_what_a_program_finds_at_the_end_is_told(tmp_path: Path) -> None:
    bundle = bundles.write(tmp_path / "b", {"archives/noise": os.urandom(3_000_000)})
    bundle.write_bytes(bundle.read_bytes()[:2_000_000])
    with pytest.raises(zstd.Damaged, match="cut off or damaged"):
        read_to_the_end(APT, bundle)


def test_who_stops_reading_ends_the_program(tmp_path: Path) -> None:
    bundle = bundles.write(tmp_path / "b", {"archives/noise": os.urandom(3_000_000)})
    with APT(bundle) as stream:
        assert len(stream.read(512)) == 512


def test_a_machine_without_any_way_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zstd, "ways", list)
    with (
        pytest.raises(UsageError, match="Run: apt-get install zstd"),
        zstd.reading(bundles.write(tmp_path / "b")),
    ):
        pass
