# SPDX-License-Identifier: Apache-2.0
"""Sources from elsewhere: repositories of git at a full commit, archives by their sha256.

Everything fetched is kept below the store's root, so that a second build needs no network::

    cache/git/<name>-<hash of the URL>.git   a bare clone of a repository or of a submodule
    cache/archives/<sha256>-<name>           an archive whose digest was right

A source is named by its upstream's own address.  A site's mirrors change where the bytes come
from and nothing else: what is built depends on the commit and on the sha256 alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.uplab_host import StoreError, clean_environment, sha256_of

NETWORK_TIMEOUT_S = 60
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
#: A transfer that stands still ends after a minute; nothing asks for a password.
GIT = (
    "git",
    "-c",
    "http.lowSpeedLimit=1000",
    "-c",
    f"http.lowSpeedTime={NETWORK_TIMEOUT_S}",
    "-c",
    "advice.detachedHead=false",
)

#: What a site decides and a build does not depend on.
SITE_OPTIONS: dict[str, Any] = {
    "site": {
        "type": "dict",
        "default": {},
        "options": {
            "git": {"type": "dict", "default": {}},
            "archives": {"type": "str"},
            "files": {"type": "dict", "default": {}},
        },
    }
}

#: Address and file. A program of its own: it can be ended whatever it waits for.
DOWNLOAD = f"""
import shutil, sys, urllib.request
url, part = sys.argv[1:]
try:
    with urllib.request.urlopen(url, timeout={NETWORK_TIMEOUT_S}) as answer, open(part, "wb") as to:
        shutil.copyfileobj(answer, to)
        wanted, seen = answer.headers.get("Content-Length"), to.tell()
    if wanted is not None and int(wanted) != seen:
        sys.exit(f"error: it ended after {{seen}} of {{wanted}} bytes")
except (OSError, ValueError) as error:
    sys.exit(f"error: {{getattr(error, 'reason', None) or error}}")
"""

#: Runs a command in a directory and an environment, its output in the log; says why it failed, if
#: it did.
Runner = Callable[[list[str], Path, dict[str, str]], str]


@dataclass(frozen=True)
class Fetcher:
    """Brings the sources of one component to this host."""

    component: str
    cache: Path
    site: dict[str, Any]
    run: Runner
    log: Path

    def fetch(self, sources: list[dict[str, Any]], target: Path) -> None:
        """Lay all sources out below a directory; raises StoreError and OSError."""
        target.mkdir(parents=True, exist_ok=True)
        for source in sources:
            into = target / source["into"]
            if source.get("commit"):
                self.check_out(source["url"], source["commit"], into)
            else:
                self.extract(source, self.archive(source["url"], source["sha256"]), into)

    def check_out(self, url: str, commit: str, target: Path) -> None:
        """A repository at a commit, with all submodules at the commits that it names."""
        cache = self.repository(url, commit)
        target.parent.mkdir(parents=True, exist_ok=True)
        # It borrows the cache's objects: it lives for the time of the build only.
        clone = ["clone", "--quiet", "--shared", "--no-checkout", str(cache), str(target)]
        self.must_git(clone, target.parent, f"cannot clone {cache}")
        arguments = ["checkout", "--quiet", "--detach", commit]
        self.must_git(arguments, target, f"cannot check out {commit} of {url}")
        seen = git_text(["rev-parse", "HEAD"], target)
        if seen != commit:
            raise StoreError(f"{self.component}: {url} is at {seen}, wanted {commit}")
        for path, below, link in submodules(target, url):
            self.check_out(below, link, target / path)

    def repository(self, url: str, commit: str) -> Path:
        """A bare clone that holds the commit, fetched only if it does not hold it yet."""
        name = url.rstrip("/").rsplit("/", 1)[-1].removesuffix(".git") or "repository"
        digest = hashlib.sha256(url.encode()).hexdigest()[:12]
        cache = self.cache / "git" / f"{name}-{digest}.git"
        cache.parent.mkdir(parents=True, exist_ok=True)
        with locked(cache.with_suffix(".lock")):
            if not (cache / "HEAD").exists():
                self.must_git(["init", "--quiet", "--bare", str(cache)], cache.parent, "git init")
            if not has_commit(cache, commit):
                self.fetch_all(url, cache)
            if not has_commit(cache, commit):
                self.fetch_alone(url, commit, cache)
            if not has_commit(cache, commit):
                raise StoreError(
                    f"{self.component}: {url} has no commit {commit}. "
                    "Correct the pin in playbooks/group_vars/all/pins.yml"
                )
        return cache

    def fetch_all(self, url: str, cache: Path) -> None:
        """Fetch all branches and tags; a fetch that is cut off leaves the cache as it was."""
        origin = self.mirrored(url)
        heads = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
        fetch = ["-c", "gc.auto=0", "fetch", "--quiet", "--no-tags", "--force", origin, *heads]
        where = url if origin == url else f"{url} from its mirror {origin}"
        self.must_git(
            fetch,
            cache,
            f"cannot fetch {where}",
            "Where this host has no way there, name a mirror in uplab_mirrors.git",
        )

    def fetch_alone(self, url: str, commit: str, cache: Path) -> None:
        """Ask for a commit that no branch or tag holds, as submodules may name; says no error."""
        reference = f"+{commit}:refs/uplab/{commit}"
        fetch = ["-c", "gc.auto=0", "fetch", "--quiet", "--no-tags", self.mirrored(url), reference]
        self.run([*GIT, *fetch], cache, git_environment())

    def mirrored(self, url: str) -> str:
        """A repository's address at this site: the longest prefix that is replaced decides."""
        prefixes = [prefix for prefix in self.site["git"] if url.startswith(prefix)]
        if not prefixes:
            return url
        longest = max(prefixes, key=len)
        return str(self.site["git"][longest]) + url[len(longest) :]

    def must_git(self, arguments: list[str], chdir: Path, what: str, hint: str = "") -> None:
        """Run git into the log; raises StoreError with what it said last."""
        said = self.run_and_listen([*GIT, *arguments], chdir)
        if said:
            hint = hint or f"Its log on the host: {self.log}"
            raise StoreError(f"{self.component}: {what}: {said}. {hint}")

    def run_and_listen(self, argv: list[str], chdir: Path) -> str:
        """Run a command into the log; returns the line of it that says why it failed, or ""."""
        already = self.log.stat().st_size if self.log.exists() else 0
        why = self.run(argv, chdir, git_environment())
        if not why:
            return ""
        with self.log.open(encoding="utf-8", errors="replace") as stream:
            stream.seek(already)
            said = [line for line in stream.read().splitlines() if line and line[0] != "$"]
        fatal = [line for line in said if line.startswith(("fatal:", "error:"))]
        return (fatal or said or [why])[0]

    def archive(self, url: str, digest: str) -> Path:
        """An archive in the cache; raises StoreError unless it is what its digest says."""
        name = Path(urllib.parse.urlparse(url).path).name
        path = self.cache / "archives" / f"{digest}-{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and sha256_of(path) == digest:
            return path
        base = self.site.get("archives")
        origin = f"{base.rstrip('/')}/{name}" if base else url
        # Two builds of one process may want the same archive.
        part = path.with_name(f".{path.name}.{self.component}.{os.getpid()}.part")
        try:
            self.download(origin, part)
            seen = sha256_of(part)
            if seen != digest:
                raise StoreError(
                    f"{self.component}: {origin} has the sha256 {seen}, the pin says {digest}; "
                    "nothing of it was kept"
                )
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return path

    def download(self, url: str, part: Path) -> None:
        """Fetch a file; raises StoreError where it cannot be had."""
        argv = [sys.executable, "-I", "-c", DOWNLOAD, url, str(part)]
        said = self.run_and_listen(argv, part.parent)
        if said:
            raise StoreError(
                f"{self.component}: cannot fetch {url}: {said.removeprefix('error: ')}. "
                "Where this host has no way there, name a mirror in uplab_mirrors.archives"
            )

    def extract(self, source: dict[str, Any], archive: Path, target: Path) -> None:
        """Unpack an archive, or lay it down as it is under its own name."""
        target.mkdir(parents=True, exist_ok=True)
        if not source["unpack"]:
            shutil.copyfile(archive, target / archive.name.split("-", 1)[1])
            return
        strip = f"--strip-components={source['strip']}"
        argv = ["tar", "--extract", "--no-same-owner", strip, "--file", str(archive)]
        why = self.run(argv, target, clean_environment())
        if why:
            raise StoreError(f"{self.component}: cannot unpack {archive}: tar {why}")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; two components may share a repository."""
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def git_environment() -> dict[str, str]:
    """Git's environment: the user's proxies, no prompt, no pager."""
    proxies = {name: os.environ[name] for name in PROXIES if name in os.environ}
    home = os.environ.get("HOME", "/root")
    return clean_environment(HOME=home, GIT_TERMINAL_PROMPT="0", GIT_PAGER="cat", **proxies)


def git_text(arguments: list[str], chdir: Path) -> str:
    """What git prints; raises StoreError where it fails."""
    argv = ["git", *arguments]
    try:
        done = subprocess.run(
            argv, cwd=chdir, env=git_environment(), capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise StoreError(f"cannot run git: {error.strerror}") from error
    if done.returncode != 0:
        raise StoreError(f"git {' '.join(arguments)} in {chdir}: {done.stderr.strip()}")
    return done.stdout.strip()


def has_commit(cache: Path, commit: str) -> bool:
    """Whether a repository holds a commit, and everything that it needs is reachable from a ref."""
    try:
        git_text(["cat-file", "-e", f"{commit}^{{commit}}"], cache)
    except StoreError:
        return False
    return True


def submodules(tree: Path, url: str) -> list[tuple[str, str, str]]:
    """Path, address and commit of each submodule of a checkout; raises StoreError."""
    if not (tree / ".gitmodules").exists():
        return []
    found: dict[str, dict[str, str]] = {}
    listing = git_text(["config", "--file", ".gitmodules", "--null", "--list"], tree)
    for entry in filter(None, listing.split("\0")):
        key, _, value = entry.partition("\n")
        words = re.fullmatch(r"submodule\.(.*)\.(path|url)", key, re.DOTALL)
        if words:
            found.setdefault(words[1], {})[words[2]] = value
    result = []
    for name, entry_of in sorted(found.items()):
        path, below = entry_of.get("path"), entry_of.get("url")
        if not path or not below:
            continue
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise StoreError(f"{url}: the submodule {name!r} lies outside of it: {path!r}")
        link = git_text(["ls-tree", "HEAD", "--", path], tree).split()
        # A name in .gitmodules without a commit in the tree is one that upstream gave up.
        if len(link) > 2 and link[1] == "commit":
            result.append((path, absolute(url, below), link[2]))
    return result


def absolute(parent: str, url: str) -> str:
    """A submodule's address; one that is relative goes from its parent's."""
    if not url.startswith(("./", "../")):
        return url
    base = parent.rstrip("/")
    while url.startswith(("./", "../")):
        if url.startswith("../"):
            base = base.rpartition("/")[0]
            url = url[3:]
        else:
            url = url[2:]
    return f"{base}/{url}"
