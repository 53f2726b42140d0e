# SPDX-License-Identifier: Apache-2.0
"""What has to change in a host's sources of packages, and how they look when it has.

Sources that uplab adds come and go with what wants them.  On a Proxmox VE without a subscription
the enterprise repositories answer 401, which makes every ``apt-get update`` fail: where the host's
variables ask for it, they are switched off and the repository without subscription is added.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.uplab_apt import (
    PREFIX,
    AptSource,
    host_release,
    source_text,
    stale_files,
    wanted_source,
)
from ansible.module_utils.uplab_apt_files import SourceFile, mirrored, read_sources
from ansible.module_utils.uplab_apt_journal import restorable, restore, switch_off
from ansible.module_utils.uplab_host import StoreError

#: The package whose presence makes a Debian a Proxmox VE.
PVE = "pve-manager"
SUBSCRIPTION = Path("/etc/subscription")
ENTERPRISE = re.compile(r"https?://enterprise\.proxmox\.com(?::\d+)?(?:/|$)")
NO_SUBSCRIPTION = "pve-no-subscription"
_ADDRESS = "http://download.proxmox.com/debian/pve"
#: Proxmox VE's own, of its releases 9 and 8.
KEYRINGS = (
    "/usr/share/keyrings/proxmox-archive-keyring.gpg",
    "/etc/apt/trusted.gpg.d/proxmox-release-{codename}.gpg",
)


@dataclass(frozen=True)
class Changes:
    """What has to change so that the host has the wanted sources of packages and no others.

    Args:
        now: the host's files.
        added: sources that are missing or differ.
        stale: files of uplab's that nothing wants any more.
        switched_off: the host's own files, as they are without the enterprise repositories.
        restored: the originals of such files, where nobody wants them switched off any more.
    """

    now: list[SourceFile]
    added: list[AptSource]
    stale: list[Path]
    switched_off: list[SourceFile]
    restored: list[SourceFile]

    def __bool__(self) -> bool:
        return bool(self.added or self.stale or self.switched_off or self.restored)

    def apply(self, kept: Path) -> None:
        """Make the changes; raises StoreError.

        Args:
            kept: the directory of the originals of changed files.
        """
        for source in self.added:
            source.write()
        for path in self.stale:
            path.unlink()
        if self.switched_off:
            switch_off(kept, self.switched_off)
        if self.restored:
            restore(kept)

    def tried(self, directory: Path) -> list[SourceFile]:
        """The host's files as they will be, with the keys of new ones in a directory."""
        files = {file.path: file for file in [*self.now, *self.switched_off, *self.restored]}
        for source in self.added:
            files[source.path] = source.tried(directory)
        return [file for path, file in sorted(files.items()) if path not in self.stale]

    def as_result(self) -> dict[str, list[str]]:
        """The changes as the module returns them: paths below ``/etc/apt``."""
        return {
            "added": [str(source.path) for source in self.added],
            "removed": [str(path) for path in self.stale],
            "switched_off": [str(file.path) for file in self.switched_off],
            "restored": [str(file.path) for file in self.restored],
        }


def plan(parameters: Mapping[str, Any], installed: Collection[str], kept: Path) -> Changes:
    """Compare the wanted sources of packages with those of the host; raises StoreError.

    Args:
        parameters: the module's ``sources``, ``mirrors`` and ``pve_no_subscription``.
        installed: the host's packages.
        kept: the directory of the originals of changed files.
    """
    mirrors = parameters.get("mirrors") or {}
    now = read_sources()
    wanted = [wanted_source(source, mirrors) for source in parameters.get("sources") or []]
    switched_off: list[SourceFile] = []
    restored: list[SourceFile] = []
    if parameters.get("pve_no_subscription") and PVE in installed and not SUBSCRIPTION.exists():
        without = [file.changed(without_enterprise) for file in now]
        switched_off = [new for old, new in zip(now, without, strict=True) if old != new]
        source = no_subscription(mirrors)
        theirs = [file for file in now if file.path != source.path]
        if not any(NO_SUBSCRIPTION in file.active().split() for file in theirs):
            wanted.append(source)
    else:
        restored = restorable(kept)
    added = [source for source in wanted if not source.is_there()]
    return Changes(now, added, stale_files(wanted), switched_off, restored)


def without_enterprise(uri: str) -> str | None:
    """Switches off the addresses that need a subscription."""
    return None if ENTERPRISE.match(uri) else uri


def no_subscription(mirrors: Mapping[str, str]) -> AptSource:
    """Proxmox VE's repository that needs no subscription; raises StoreError without its key."""
    codename = host_release()["codename"]
    keyrings = [Path(name.replace("{codename}", codename)) for name in KEYRINGS]
    found = [path for path in keyrings if path.is_file()]
    if not found:
        raise StoreError(
            f"no key of Proxmox VE's on this host ({' or '.join(map(str, keyrings))}). "
            "There, run: apt-get install --reinstall proxmox-archive-keyring"
        )
    text = source_text(mirrored(_ADDRESS, mirrors), codename, NO_SUBSCRIPTION, found[0])
    return AptSource(NO_SUBSCRIPTION, text, "", "")


def at_mirrors(files: list[SourceFile], mirrors: Mapping[str, str]) -> list[SourceFile]:
    """The host's files with its own sources at the site's mirrors, for this run of apt alone."""

    def at_mirror(uri: str) -> str:
        return mirrored(uri, mirrors)

    # Those that uplab wrote name the mirrors already.
    return [
        file if file.path.name.startswith(PREFIX) else file.changed(at_mirror) for file in files
    ]
