"""The machine's own apt sources and settings, for the base of a box: no mirror is named here."""

from __future__ import annotations

import platform
import re
import subprocess
from pathlib import Path

from uplab.errors import HostError

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_FIELDS = ("REPO_URI", "RELEASE", "CODENAME", "ORIGIN", "COMPONENT")
#: What holds for the way to the archive, and for it alone.
_WANTED = re.compile(
    r"Acquire::((http|https)::.+|Check-Date|Check-Valid-Until|Retries|ForceIPv[46])", re.IGNORECASE
)
#: Programs of this machine, which a box does not have.
_UNWANTED = re.compile(r"Auto-?Detect", re.IGNORECASE)


def read(suite: str) -> list[str]:
    """Lines for ``sources.list`` of a release, from the archives that this machine uses.

    Raises:
        HostError: apt cannot be asked, or knows no archive of Debian's.
    """
    form = "|".join(f"$({field})" for field in _FIELDS)
    text = _ask(["apt-get", "indextargets", "--format", form, "Created-By: Packages"])
    codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    keyring = _KEYRING if _KEYRING.exists() else None
    lines = choose(text, codename, suite, keyring)
    if not lines:
        raise HostError(
            f"this machine's apt has no source of Debian {codename} main, which a box is made "
            "from. Run: apt-get indextargets 'Created-By: Packages'"
        )
    return lines


def choose(text: str, codename: str, suite: str, keyring: Path | None) -> list[str]:
    """Pick Debian's own archives and say them for another release.

    Args:
        text: a line for each source and component, its fields as in ``_FIELDS``.
        codename: of the machine's release.
        suite: the release wanted.
        keyring: that the archives are signed by; None for apt's default.

    Returns:
        lines in apt's one-line style; none where no archive of Debian's is named.
    """
    option = f"[signed-by={keyring}] " if keyring else ""
    lines = []
    for line in text.splitlines():
        uri, release, known_as, origin, component = line.split("|")
        # Where no lists were fetched yet, apt leaves a field it cannot fill as it stands.
        origin = "" if origin.startswith("$(") else origin
        name = release if known_as.startswith("$(") or not known_as else known_as
        base, dash, rest = name.partition("-")
        if base != codename or dash + rest not in ("", "-updates", "-security"):
            continue
        if component == "main" and origin in ("", "Debian"):
            lines.append(f"deb {option}{uri} {suite}{dash}{rest} main")
    return list(dict.fromkeys(lines))


def settings() -> list[str]:
    """The machine's apt settings for the way to the archive (proxies, checks of dates).

    Raises:
        HostError: apt cannot be asked.
    """
    return keep(_ask(["apt-config", "dump", "--no-empty", "--format", '%F "%v";%n']))


def keep(text: str) -> list[str]:
    """Those lines of ``apt-config dump`` that a box needs, too."""
    kept = []
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if _WANTED.fullmatch(name) and not _UNWANTED.search(name) and value != '"";':
            kept.append(line)
    return kept


def certificates(folder: Path = Path("/usr/local/share/ca-certificates")) -> list[Path]:
    """The authorities that this machine trusts beyond Debian's: a box sees the same network."""
    return sorted(folder.glob("*.crt"))


def _ask(argv: list[str]) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise HostError(f"there is no {argv[0]} here: a box is made on Debian") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or [f"exit code {error.returncode}"]
        raise HostError(f"{argv[0]} failed: {said[-1]}") from error
