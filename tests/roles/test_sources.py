"""Sources from elsewhere: what is fetched, from where, and what is refused."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import signal
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.roles.building import arguments, recipe, start
from tests.roles.standins import UPSTREAM, commit, git, pack

DEADLINE_S = 30.0


@pytest.fixture(scope="session")
def sources(uplab_build: ModuleType) -> ModuleType:
    return importlib.import_module(uplab_build.Commands.__module__.replace("commands", "sources"))


class Fetching:
    """A fetcher with a cache of its own, and what is served to it."""

    def __init__(self, sources: ModuleType, top: Path) -> None:
        self.sources, self.top = sources, top
        self.served, self.log = top / "served", top / "log"
        self.target, self.number = top / "target", 0

    def fetch(self, *wanted: dict[str, Any], served: Path | None = None) -> Path:
        """Lay sources out in a new directory, which is returned."""
        place = served or self.served
        site = {"git": {UPSTREAM: f"file://{place}/"}, "archives": f"file://{place}", "files": {}}
        fetcher = self.sources.Fetcher("x", self.top / "cache", site, self.run, self.log)
        self.number += 1
        target = self.target / str(self.number)
        shape = {"into": ".", "strip": 1, "unpack": True, "commit": None, "sha256": None}
        fetcher.fetch([{**shape, **source} for source in wanted], target)
        return target

    def run(self, argv: list[str], chdir: Path, environment: dict[str, str]) -> str:
        with self.log.open("a") as log:
            done = subprocess.run(
                argv, cwd=chdir, env=environment, stdout=log, stderr=log, check=False
            )
        return f"ended with exit code {done.returncode}" if done.returncode else ""


@pytest.fixture
def fetching(sources: ModuleType, tmp_path: Path) -> Fetching:
    made = Fetching(sources, tmp_path)
    made.served.mkdir()
    return made


def test_a_repository_comes_once_and_at_its_commit(fetching: Fetching) -> None:
    first = commit(fetching.served / "a", {"a.txt": "1\n"}, {})
    second = commit(fetching.served / "a", {"a.txt": "2\n"}, {})
    old = fetching.fetch({"url": f"{UPSTREAM}a", "commit": first})
    assert (old / "a.txt").read_text() == "1\n"
    gone = fetching.fetch({"url": f"{UPSTREAM}a", "commit": second}, served=Path("/nonexistent"))
    assert (gone / "a.txt").read_text() == "2\n"


def test_submodules_come_at_their_commits(fetching: Fetching) -> None:
    inner = commit(fetching.served / "inner", {"i.txt": "1\n"}, {})
    commit(fetching.served / "inner", {"i.txt": "2\n"}, {})
    middle = commit(fetching.served / "middle.git", {}, {"deep/inner": ("../inner", inner)})
    outer = commit(fetching.served / "outer", {}, {"middle": (f"{UPSTREAM}middle.git", middle)})
    tree = fetching.fetch({"url": f"{UPSTREAM}outer", "commit": outer})
    assert (tree / "middle" / "deep" / "inner" / "i.txt").read_text() == "1\n"


def test_a_submodule_without_a_commit_is_left_out(fetching: Fetching) -> None:
    listed = '[submodule "x"]\n\tpath = x\n\turl = https://example.invalid/x\n'
    head = commit(fetching.served / "a", {".gitmodules": listed}, {})
    tree = fetching.fetch({"url": f"{UPSTREAM}a", "commit": head})
    assert not (tree / "x").exists()


def test_a_submodule_cannot_lie_elsewhere(fetching: Fetching) -> None:
    listed = '[submodule "x"]\n\tpath = ../../x\n\turl = https://example.invalid/x\n'
    head = commit(fetching.served / "a", {".gitmodules": listed}, {})
    with pytest.raises(fetching.sources.StoreError, match="lies outside of it"):
        fetching.fetch({"url": f"{UPSTREAM}a", "commit": head})


def test_a_fetch_that_was_cut_off_is_taken_up_again(fetching: Fetching) -> None:
    """The network goes in the middle: the cache is there, the commit is not."""
    head = commit(fetching.served / "a", {"a.txt": "1\n"}, {})
    source = {"url": f"{UPSTREAM}a", "commit": head}
    with pytest.raises(fetching.sources.StoreError, match=r"cannot fetch .*a from its mirror file"):
        fetching.fetch(source, served=Path("/nonexistent"))
    assert len(list((fetching.top / "cache" / "git").glob("a-*.git"))) == 1
    assert (fetching.fetch(source) / "a.txt").exists()


def test_a_commit_that_does_not_exist_is_named(fetching: Fetching) -> None:
    commit(fetching.served / "a", {"a.txt": "1\n"}, {})
    with pytest.raises(fetching.sources.StoreError, match="has no commit 1111"):
        fetching.fetch({"url": f"{UPSTREAM}a", "commit": "1" * 40})


def test_a_commit_that_no_branch_holds_any_more_is_fetched(fetching: Fetching) -> None:
    """Submodules may name one; what a branch was before somebody rewrote it."""
    head = commit(fetching.served / "a", {"a.txt": "1\n"}, {})
    git("commit", "--quiet", "--amend", "--message", "rewritten", chdir=fetching.served / "a")
    tree = fetching.fetch({"url": f"{UPSTREAM}a", "commit": head})
    assert (tree / "a.txt").read_text() == "1\n"


def test_an_archive_is_kept_by_its_digest(fetching: Fetching) -> None:
    digest = pack(fetching.served / "a.tar.gz", {"a.txt": "1\n"})
    source = {"url": f"{UPSTREAM}a.tar.gz", "sha256": digest, "into": "deep/a"}
    assert (fetching.fetch(source) / "deep" / "a" / "a.txt").read_text() == "1\n"
    plain = {**source, "unpack": False}
    kept = fetching.fetch(plain, served=Path("/nonexistent")) / "deep" / "a" / "a.tar.gz"
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == digest


def test_a_damaged_archive_in_the_cache_is_fetched_again(fetching: Fetching) -> None:
    digest = pack(fetching.served / "a.tar.gz", {"a.txt": "1\n"})
    source = {"url": f"{UPSTREAM}a.tar.gz", "sha256": digest}
    fetching.fetch(source)
    kept = fetching.top / "cache" / "archives" / f"{digest}-a.tar.gz"
    kept.write_bytes(kept.read_bytes()[:10])
    assert (fetching.fetch(source) / "a.txt").exists()


def test_another_archive_than_the_pinned_one_is_not_kept(fetching: Fetching) -> None:
    seen = pack(fetching.served / "a.tar.gz", {"a.txt": "1\n"})
    source = {"url": f"{UPSTREAM}a.tar.gz", "sha256": "0" * 64}
    with pytest.raises(fetching.sources.StoreError, match=f"has the sha256 {seen}, the pin says"):
        fetching.fetch(source)
    assert list((fetching.top / "cache" / "archives").iterdir()) == []


def test_an_archive_that_cannot_be_had_names_the_way_out(fetching: Fetching) -> None:
    source = {"url": f"{UPSTREAM}no-such.tar.gz", "sha256": "0" * 64}
    with pytest.raises(fetching.sources.StoreError, match=r"uplab_mirrors\.archives"):
        fetching.fetch(source)


def test_the_longest_prefix_of_a_mirror_wins(fetching: Fetching) -> None:
    site = {"git": {"https://a/": "file:///1/", "https://a/b/": "file:///2/"}}
    fetcher = fetching.sources.Fetcher("x", fetching.top, site, fetching.run, fetching.log)
    assert fetcher.mirrored("https://a/b/c") == "file:///2/c"
    assert fetcher.mirrored("https://a/c") == "file:///1/c"
    assert fetcher.mirrored("https://b/c") == "https://b/c"


@pytest.mark.parametrize(
    ("parent", "url", "wanted"),
    [
        ("https://a/b/c.git", "../d", "https://a/b/d"),
        ("https://a/b/c/", "../../d.git", "https://a/d.git"),
        ("https://a/b", "./d", "https://a/b/d"),
        ("https://a/b", "https://x/y", "https://x/y"),
    ],
)
def test_relative_addresses_go_from_the_parent(
    sources: ModuleType, parent: str, url: str, wanted: str
) -> None:
    assert sources.absolute(parent, url) == wanted


GOOD = {
    "url": "u",
    "commit": None,
    "sha256": "a" * 64,
    "into": ".",
    "strip": 1,
    "unpack": True,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"commit": "a" * 40}, "and not both"),
        ({"sha256": None}, "needs a commit or a sha256"),
        ({"sha256": "a" * 63}, "is not a sha256"),
        ({"sha256": None, "commit": "a" * 39}, "is not a full commit"),
        ({"sha256": None, "commit": "main"}, "is not a full commit"),
        ({"into": "../x"}, "outside of the sources"),
        ({"into": "/x"}, "outside of the sources"),
    ],
)
def test_a_loose_pin_is_refused(
    uplab_host: ModuleType, changes: dict[str, Any], message: str
) -> None:
    assert uplab_host.pin_of(GOOD)["sha256"] == "a" * 64
    with pytest.raises(uplab_host.StoreError, match=message):
        uplab_host.pin_of({**GOOD, **changes})


def test_the_address_does_not_decide_what_a_build_is(uplab_host: ModuleType) -> None:
    assert uplab_host.pin_of(GOOD) == uplab_host.pin_of({**GOOD, "url": "elsewhere"})


def test_a_killed_fetch_leaves_a_cache_that_works(
    uplab_build: ModuleType, fetching: Fetching, root: Path
) -> None:
    """A server accepts and says nothing; the build is ended while git waits for it."""
    head = commit(fetching.served / "a", {"a.txt": "1\n"}, {})
    with socket.create_server(("127.0.0.1", 0)) as server:
        process = start(arguments_of(root, mute_address(server), head))
        server.settimeout(DEADLINE_S)
        connection, _ = server.accept()
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=DEADLINE_S)[1]
        connection.close()
    assert process.returncode != 0
    assert "SIGTERM" in said
    assert [path.name for path in (root / "store").iterdir()] == [".lock-x"]
    done = uplab_build.act(arguments_of(root, f"file://{fetching.served}/", head), False)
    assert done["changed"], done
    assert (root / "current" / "x" / "a.txt").read_text() == "1\n"


def mute_address(server: socket.socket) -> str:
    """The address of repositories on a server that never answers."""
    return f"git://127.0.0.1:{server.getsockname()[1]}/"


def test_a_network_that_goes_in_the_middle_of_a_clone(
    uplab_build: ModuleType, fetching: Fetching, root: Path
) -> None:
    """A real git server whose connection breaks after half of the repository."""
    noise = "".join(hashlib.sha256(str(n).encode()).hexdigest() for n in range(8000))
    head = commit(fetching.served / "a", {"a.txt": "1\n", "noise.txt": noise}, {})
    with half_a_server(fetching.served, 100_000) as mirror:
        broken = uplab_build.act(arguments_of(root, mirror, head), False)
    assert f"x: cannot fetch {UPSTREAM}a from its mirror {mirror}a: " in broken["msg"]
    assert re.search(r"(fatal|error): .*(early EOF|hung up|eof)", broken["msg"])
    assert "name a mirror in uplab_mirrors.git" in broken["msg"]
    assert [path.name for path in (root / "store").iterdir()] == [".lock-x"]
    done = uplab_build.act(arguments_of(root, f"file://{fetching.served}/", head), False)
    assert done["changed"], done


@contextmanager
def half_a_server(served: Path, limit_bytes: int) -> Iterator[str]:
    """A git server that hangs up on each client after so many bytes; its address."""
    daemon = ["git", "daemon", "--inetd", "--export-all", f"--base-path={served}", str(served)]

    class HalfAnswer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            connection: socket.socket = self.request
            stdin = connection.fileno()
            process = subprocess.Popen(daemon, stdin=stdin, stdout=subprocess.PIPE)
            assert process.stdout is not None
            left = limit_bytes
            while left > 0 and (data := os.read(process.stdout.fileno(), min(left, 4096))):
                connection.sendall(data)
                left -= len(data)
            process.stdout.close()
            process.kill()
            process.wait()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), HalfAnswer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"git://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


def test_an_archive_that_ends_too_early_is_told_from_a_wrong_one(
    fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network goes in the middle: it is not the pin that has to be corrected."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    digest = pack(fetching.served / "a.tar.gz", {"a.txt": "1\n"})
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a.tar.gz"
        site = {"git": {}, "archives": "", "files": {}}
        fetcher = fetching.sources.Fetcher("x", fetching.top, site, fetching.run, fetching.log)
        with pytest.raises(fetching.sources.StoreError, match="it ended after 4 of 100 bytes"):
            fetcher.archive(url, digest)
        thread.join()
    assert list((fetching.top / "archives").iterdir()) == []


def arguments_of(root: Path, mirror: str, head: str) -> dict[str, Any]:
    """The arguments of a build of one repository."""
    source = {**GOOD, "url": f"{UPSTREAM}a", "commit": head, "sha256": None, "into": "a"}
    wanted = recipe("cp a/a.txt {prefix}/", artifacts=("a.txt",), sources=[source])
    given = arguments(root, {"x": wanted})
    given["builds"][0]["site"] = {"git": {UPSTREAM: mirror}}
    return given
