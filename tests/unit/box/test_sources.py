"""uplab/box/sources.py: what a box takes over of this machine's apt."""

from pathlib import Path

import pytest

from uplab.box import sources
from uplab.errors import HostError

MACHINE = """\
http://mirror.test/debian/|bookworm|bookworm|Debian|main
http://mirror.test/debian/|bookworm|bookworm|Debian|contrib
http://mirror.test/debian/|bookworm-updates|bookworm-updates|Debian|main
http://mirror.test/security/|bookworm-security|bookworm-security|Debian|main
http://mirror.test/debian/|bookworm-backports|bookworm-backports|Debian Backports|main
http://vendor.test/apt/|bookworm|bookworm|Vendor|main
http://pve.test/debian/pve/|bookworm|bookworm|Proxmox|pve-no-subscription
"""


def test_debian_s_own_archives_are_taken_and_no_other() -> None:
    assert sources.choose(MACHINE, "bookworm", "bookworm", None) == [
        "deb http://mirror.test/debian/ bookworm main",
        "deb http://mirror.test/debian/ bookworm-updates main",
        "deb http://mirror.test/security/ bookworm-security main",
    ]


def test_another_release_comes_from_the_same_archives() -> None:
    keyring = Path("/keys/debian.gpg")
    lines = sources.choose(MACHINE, "bookworm", "trixie", keyring)
    assert lines[0] == "deb [signed-by=/keys/debian.gpg] http://mirror.test/debian/ trixie main"
    assert [line.split()[3] for line in lines] == ["trixie", "trixie-updates", "trixie-security"]


def test_before_the_first_update_the_source_s_own_words_count() -> None:
    """apt then knows neither code name nor origin."""
    text = "http://mirror.test/debian/|bookworm|$(CODENAME)|$(ORIGIN)|main\n"
    assert sources.choose(text, "bookworm", "bookworm", None) == [
        "deb http://mirror.test/debian/ bookworm main"
    ]


def test_a_release_named_by_its_rank_is_known_by_its_code_name() -> None:
    text = "http://mirror.test/debian/|stable|bookworm|Debian|main\n"
    assert sources.choose(text, "bookworm", "trixie", None) == [
        "deb http://mirror.test/debian/ trixie main"
    ]


def test_a_machine_without_debian_s_archive_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def foreign(_argv: list[str]) -> str:
        return "http://vendor.test/apt/|bookworm|bookworm|Vendor|main\n"

    monkeypatch.setattr(sources, "_ask", foreign)
    with pytest.raises(HostError, match=r"no source of Debian \w+ main.*Run: apt-get indextargets"):
        sources.read("bookworm")


def test_only_settings_for_the_way_to_the_archive_are_kept() -> None:
    wanted = [
        'Acquire::http::Proxy "http://proxy.test:3128";',
        'Acquire::https::Verify-Peer "true";',
        'Acquire::Check-Valid-Until "false";',
        'Acquire::Check-Date "false";',
        'Acquire::ForceIPv4 "1";',
    ]
    others = [
        'APT::Install-Recommends "0";',
        'Acquire::http::Proxy-Auto-Detect "/usr/local/bin/detect";',
        'Acquire::Languages:: "none";',
        'Acquire::http "";',
        'Acquire::http::Proxy "";',
        'DPkg::Post-Invoke:: "rm -f /x";',
    ]
    assert sources.keep("\n".join([*others, *wanted])) == wanted


def test_a_machine_without_apt_is_told() -> None:
    with pytest.raises(HostError, match="no no-such-apt here: a box is made on Debian"):
        sources._ask(["no-such-apt"])
    with pytest.raises(HostError, match="sh failed: the reason"):
        sources._ask(["sh", "-c", "echo the reason >&2; exit 3"])


def test_this_machine_s_authorities_are_found(tmp_path: Path) -> None:
    (tmp_path / "b.crt").touch()
    (tmp_path / "a.crt").touch()
    (tmp_path / "note").touch()
    assert sources.certificates(tmp_path) == [tmp_path / "a.crt", tmp_path / "b.crt"]
    assert sources.certificates(tmp_path / "missing") == []
