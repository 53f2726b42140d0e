# SPDX-License-Identifier: Apache-2.0
"""The Debian packages that a bundle brought: a repository on the host itself, for one transaction.

It is trusted because the controller has checked each file of it against the bundle's index; apt
then checks the files against its list again. The host's own sources never name it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ansible.module_utils.uplab_apt import host_release
from ansible.module_utils.uplab_apt_files import PARTS, SourceFile
from ansible.module_utils.uplab_apt_get import Apt, apart


def apt_of_bundle(
    repository: str | None,
    cache: Path,
    others: Iterable[SourceFile],
    names: list[str],
    lock_timeout_s: int,
) -> Apt | None:
    """An apt that takes packages from a bundle; None where there are none for this release.

    The bundle alone if that is enough, because then no network is needed and none is waited for;
    otherwise the bundle beside the other sources.

    Args:
        repository: the directory that holds a repository for each release.
        cache: where apts of our own keep their lists.
        others: the host's sources, or their mirrors.
        names: the packages that are missing.
        lock_timeout_s: how long to wait for another apt or dpkg, in seconds.
    """
    folder = Path(repository or "/nonexistent") / host_release()["codename"]
    if not (folder / "Packages").exists():
        return None
    source = SourceFile(PARTS / "uplab-bundle.list", f"deb [trusted=yes] file:{folder} ./\n")
    alone = apart(cache.with_name("apt-bundle"), [source], lock_timeout_s)
    # It complains of compressed lists that are not there before it takes the plain one; whether it
    # did shows in what it can install.
    alone.update()
    if not alone.simulate(names)[1]:
        return alone
    both = apart(cache, [*others, source], lock_timeout_s)
    # Lists that are there already do not know of it.
    both.update()
    return both
