"""Brings the pinned sources here, with the very code that brings them to a host."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uplab.box.steps import Steps
from uplab.bundle import borrowed
from uplab.bundle.meter import left
from uplab.errors import HostError, UsageError


@dataclass(frozen=True)
class Repository:
    """A repository at a commit, and the bare clone that holds it.

    Args:
        url: the upstream's own address.
        commit: that is wanted, in full.
        clone: the bare clone in the cache; its name is the one that it has on a host, too.
        component: that it is for.
    """

    url: str
    commit: str
    clone: Path
    component: str


@dataclass(frozen=True)
class Manifest:
    """The folder of a checkout that cargo is to be asked in, and the checkout's commit."""

    folder: Path
    commit: str


@dataclass(frozen=True)
class Fetched:
    """What was fetched.

    Args:
        repositories: with their submodules; one for each component that wants it.
        archives: the components by the archive's path in the cache.
        manifests: where the crates are named, by component; below ``trees``.
    """

    repositories: tuple[Repository, ...]
    archives: Mapping[Path, tuple[str, ...]]
    manifests: Mapping[str, Manifest]


def needed(
    project: Path, pins: Mapping[str, Any], components: Iterable[str], *, toolchains: bool
) -> list[dict[str, str]]:
    """All sources of some components; ``toolchains``: also those of the policy ``upstream``."""
    wanted = borrowed.filters(project, "uplab_sources").needed_sources
    names = list(components)
    found: list[dict[str, str]] = wanted(names, pins, {})
    if toolchains:
        found += wanted(names, pins, dict.fromkeys(names, "upstream"))
    return found


def fetch(
    project: Path,
    sources: Iterable[Mapping[str, str]],
    mirrors: Mapping[str, Any],
    cache: Path,
    trees: Path,
    steps: Steps,
) -> Fetched:
    """Bring sources into the cache; what lies there already is not fetched again.

    Args:
        project: the checkout.
        sources: from :func:`needed`.
        mirrors: ``uplab_mirrors`` of this site.
        cache: laid out as on a host.
        trees: an empty directory for the checkouts that the crates are asked for in.
        steps: told what is going on.

    Raises:
        HostError: a source cannot be had, or is another one than its pin says.
        UsageError: there is no git here.
    """
    if shutil.which("git") is None:
        raise UsageError("no git here, and sources are repositories. Run: apt-get install git")
    fetching = _Fetching(project, mirrors, cache, trees)
    listed = list(sources)
    began_s = time.monotonic()
    for number, source in enumerate(listed):
        rest = left(began_s, number, len(listed))
        steps.now(f"fetching source {number + 1} of {len(listed)}{rest}: {source['url']}")
        fetching.fetch(source)
    return fetching.fetched()


class _Fetching:
    """Uses the Fetcher of the playbooks, and notes what it brings."""

    def __init__(self, project: Path, mirrors: Mapping[str, Any], cache: Path, trees: Path) -> None:
        self._shared = borrowed.module_utils(project, "uplab_sources")
        self._error = borrowed.module_utils(project, "uplab_host").StoreError
        self._cache, self._trees = cache, trees
        self._site = {"git": mirrors.get("git", {}), "archives": mirrors.get("archives", "")}
        self._log = cache / "fetch.log"
        self._repositories: dict[tuple[str, str, str], Repository] = {}
        self._archives: dict[Path, tuple[str, ...]] = {}
        self._manifests: dict[str, Manifest] = {}
        cache.mkdir(parents=True, exist_ok=True)
        self._log.write_bytes(b"")

    def fetch(self, source: Mapping[str, str]) -> None:
        """Bring one source; HostError where it cannot be had."""
        component = source["component"]
        try:
            if source["kind"] == "archive":
                path = self._fetcher(component).archive(source["url"], source["sha256"])
                others = self._archives.get(path, ())
                self._archives[path] = tuple(sorted({*others, component}))
            elif source["kind"] == "crates":
                folder = self._tree(source) / source["manifest"]
                self._manifests[component] = Manifest(folder, source["commit"])
            else:
                self._tree(source)
        except self._error as error:
            raise HostError(str(error)) from error
        except OSError as error:
            raise HostError(f"{component}: {error.strerror}: {error.filename}") from error

    def _tree(self, source: Mapping[str, str]) -> Path:
        """The checkout of a repository, which shows what submodules it has."""
        component, commit = source["component"], source["commit"]
        tree = self._trees / component / commit
        if not tree.exists():
            fetcher = self._fetcher(component)
            fetcher.check_out(source["url"], commit, tree)
            self._note(fetcher, source["url"], commit, tree)
        return tree

    def _note(self, fetcher: Any, url: str, commit: str, tree: Path) -> None:
        """Remember a repository and its submodules, which lie in the cache now."""
        component = str(fetcher.component)
        clone = Path(fetcher.repository(url, commit))
        self._repositories[component, url, commit] = Repository(url, commit, clone, component)
        for path, below, link in self._shared.submodules(tree, url):
            self._note(fetcher, below, link, tree / path)

    def _fetcher(self, component: str) -> Any:
        return self._shared.Fetcher(component, self._cache, self._site, self._run, self._log)

    def _run(self, argv: list[str], chdir: Path, environment: dict[str, str]) -> str:
        """Run a command into the log, as a build on a host does; out: why it failed, or nothing."""
        with self._log.open("ab") as log:
            log.write(f"$ cd {chdir} && {shlex.join(argv)}\n".encode())
            log.flush()
            done = subprocess.run(
                argv,
                cwd=chdir,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            )
        return f"ended with exit code {done.returncode}" if done.returncode else ""

    def fetched(self) -> Fetched:
        """All that came."""
        repositories = tuple(self._repositories[key] for key in sorted(self._repositories))
        return Fetched(repositories, dict(sorted(self._archives.items())), dict(self._manifests))
