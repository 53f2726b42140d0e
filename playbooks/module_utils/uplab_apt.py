# SPDX-License-Identifier: Apache-2.0
"""Further sources of Debian packages: one file and one key each, the key known by fingerprint."""

from __future__ import annotations

import base64
import hashlib
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.uplab_apt_files import SourceFile, mirrored
from ansible.module_utils.uplab_host import StoreError, write_atomically

SOURCES = Path("/etc/apt/sources.list.d")
KEYRINGS = Path("/etc/apt/keyrings")
OS_RELEASE = Path("/etc/os-release")
PREFIX = "uplab-"
PUBLIC_KEY = 6
KEY_TIMEOUT_S = 60
KEY_MAX_BYTES = 1 << 20

#: How a source of packages is written; texts may hold {release} and {codename} of the host.
APT_SOURCE_OPTIONS: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "uri": {"type": "str", "required": True},
    "suite": {"type": "str", "required": True},
    "key_url": {"type": "str", "required": True},
    "key_fingerprint": {"type": "str", "required": True},
}


def host_release() -> dict[str, str]:
    """Number and name of the host's Debian release: ``{"release": "12", "codename": ...}``."""
    values: dict[str, str] = {}
    for line in OS_RELEASE.read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition("=")
        values[key] = value.strip().strip('"')
    release = values.get("VERSION_ID", "").split(".")[0]
    return {"release": release, "codename": values.get("VERSION_CODENAME", "")}


def for_release(names_by_release: dict[str, list[str]]) -> list[str]:
    """The packages of the host's own release; raises StoreError where there are none for it."""
    if not names_by_release:
        return []
    release = host_release()["release"]
    if release not in names_by_release:
        known = ", ".join(sorted(names_by_release))
        raise StoreError(f"no packages are named for Debian {release}, only for Debian {known}")
    return list(names_by_release[release])


@dataclass(frozen=True)
class AptSource:
    """A source of packages as this host has it or shall have it."""

    name: str
    text: str
    key_url: str
    key_fingerprint: str

    @property
    def brings_key(self) -> bool:
        """Whether its key comes with it; otherwise the host has one already."""
        return bool(self.key_url)

    @property
    def path(self) -> Path:
        """The file that apt reads."""
        return SOURCES / f"{PREFIX}{self.name}.sources"

    @property
    def key(self) -> Path:
        """The key that its packages are signed with."""
        return KEYRINGS / f"{PREFIX}{self.name}.asc"

    def is_there(self) -> bool:
        """Whether the host has exactly this source with this key."""
        try:
            if self.path.read_text(encoding="utf-8") != self.text:
                return False
            if not self.brings_key:
                return True
            return fingerprints(self.key.read_bytes()) == [self.key_fingerprint]
        except (OSError, ValueError):
            return False

    def write(self) -> None:
        """Fetch the key, check it, write both files; raises StoreError."""
        if self.brings_key:
            KEYRINGS.mkdir(parents=True, exist_ok=True)
            write_atomically(self.key, self.fetch_key())
        write_atomically(self.path, self.text)

    def tried(self, directory: Path) -> SourceFile:
        """The source for a try, with its key in another directory; raises StoreError."""
        if not self.brings_key:
            return SourceFile(self.path, self.text)
        key = directory / self.key.name
        write_atomically(key, self.fetch_key())
        return SourceFile(self.path, self.text.replace(str(self.key), str(key)))

    def fetch_key(self) -> str:
        """The armored key; raises StoreError unless it is the one key that is wanted."""
        try:
            with urllib.request.urlopen(self.key_url, timeout=KEY_TIMEOUT_S) as answer:
                data = bytes(answer.read(KEY_MAX_BYTES))
        except (urllib.error.URLError, TimeoutError, ConnectionError, ValueError) as error:
            said = getattr(error, "reason", None) or error
            raise StoreError(
                f"cannot fetch the key {self.key_url}: {said}. "
                "Where this host has no way there, name a mirror in uplab_mirrors.apt"
            ) from error
        try:
            seen = fingerprints(data)
        except ValueError as error:
            raise StoreError(f"{self.key_url} holds no OpenPGP key: {error}") from error
        if seen != [self.key_fingerprint]:
            raise StoreError(
                f"{self.key_url} holds the key {', '.join(seen) or 'of nobody'}, "
                f"the pin says {self.key_fingerprint}; nothing of it was kept"
            )
        return data.decode("ascii")


def wanted_source(source: Mapping[str, str], mirrors: Mapping[str, str]) -> AptSource:
    """A source as its task names it, for this host and this site."""
    host = host_release()

    def expanded(text: str) -> str:
        for key, value in host.items():
            text = text.replace("{" + key + "}", value)
        return mirrored(text, mirrors)

    key = KEYRINGS / f"{PREFIX}{source['name']}.asc"
    text = source_text(expanded(source["uri"]), expanded(source["suite"]), "main", key)
    fingerprint = source["key_fingerprint"].replace(" ", "").upper()
    return AptSource(source["name"], text, expanded(source["key_url"]), fingerprint)


def source_text(uri: str, suite: str, component: str, key: Path) -> str:
    """A file of sources with one source of packages."""
    return (
        "# Written by uplab, and removed by it when nothing wants it any more.\n"
        "Types: deb\n"
        f"URIs: {uri}\n"
        f"Suites: {suite}\n"
        f"Components: {component}\n"
        f"Signed-By: {key}\n"
    )


def stale_files(wanted: list[AptSource]) -> list[Path]:
    """Sources and keys of uplab's on this host that nothing wants any more."""
    kept = {source.path for source in wanted}
    kept |= {source.key for source in wanted if source.brings_key}
    there = [*SOURCES.glob(f"{PREFIX}*.sources"), *KEYRINGS.glob(f"{PREFIX}*.asc")]
    return sorted(path for path in there if path not in kept)


def dearmored(data: bytes) -> bytes:
    """The bytes of an armored OpenPGP block; raises ValueError where there is none."""
    lines = data.decode("ascii").splitlines()
    try:
        first = lines.index("-----BEGIN PGP PUBLIC KEY BLOCK-----")
        last = lines.index("-----END PGP PUBLIC KEY BLOCK-----", first)
        blank = lines.index("", first, last)
    except ValueError as error:
        raise ValueError("no armored public key block") from error
    body = [line for line in lines[blank + 1 : last] if not line.startswith("=")]
    return base64.b64decode("".join(body), validate=True)


def fingerprints(data: bytes) -> list[str]:
    """The fingerprints of all primary keys in an armored block; raises ValueError.

    RFC 4880, 12.2: the SHA-1 of 0x99, the length in two bytes and the packet's body (version 4).
    """
    found = []
    for tag, body in packets(dearmored(data)):
        if tag != PUBLIC_KEY:
            continue
        if not body or body[0] != 4:
            raise ValueError("a key of another version than 4")
        head = b"\x99" + len(body).to_bytes(2, "big")
        found.append(hashlib.sha1(head + body).hexdigest().upper())
    return found


def packets(data: bytes) -> list[tuple[int, bytes]]:
    """Tag and body of each packet of an OpenPGP message; raises ValueError on what is cut off."""
    found = []
    at = 0
    while at < len(data):
        first = data[at]
        if not first & 0x80:
            raise ValueError("not a packet")
        at += 1
        if first & 0x40:
            tag = first & 0x3F
            length, at = new_length(data, at)
        else:
            tag = (first >> 2) & 0x0F
            size = 1 << (first & 3)
            if size == 8:
                raise ValueError("a packet of unknown length")
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        if at + length > len(data):
            raise ValueError("a packet is cut off")
        found.append((tag, data[at : at + length]))
        at += length
    return found


def new_length(data: bytes, at: int) -> tuple[int, int]:
    """The length of a packet in the newer format, and where its body begins."""
    octet = data[at] if at < len(data) else 0
    if octet < 192:
        return octet, at + 1
    if octet < 224:
        return ((octet - 192) << 8) + data[at + 1] + 192, at + 2
    if octet == 255:
        return int.from_bytes(data[at + 1 : at + 5], "big"), at + 5
    raise ValueError("a packet in parts")
