"""uplab/hostside/serveruser.py: who servers run as, what they get, and what the kernel says."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from uplab.hostside import procfs, serveruser
from uplab.hostside.errors import TrialError
from uplab.hostside.leftovers import Leftovers
from uplab.hostside.loop import Loop
from uplab.hostside.serveruser import ServerUser, draw, flags, lend, locked_out, seen
from uplab.hostside.spec import FileRef, ServerAdapter
from uplab.hostside.store import Store

USER = ServerUser(serveruser.UIDS[7])
SERVER = ServerAdapter(1, "server", "s", "", ("{p}",), "http://127.0.0.1/", "ready")


# ---- who ---------------------------------------------------------------------------------------


def test_a_user_is_drawn_that_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for free in ({serveruser.UIDS[0]}, {serveruser.UIDS[-1]}, set(serveruser.UIDS[100::100])):
        taken = set(serveruser.UIDS) - free
        monkeypatch.setattr(procfs, "users", taken.copy)
        assert {draw().uid for _ in range(200)} == free


def known(uids: set[int]) -> Any:
    """A database of users or groups."""

    def look(uid: int) -> str:
        if uid in uids:
            return "somebody"
        raise KeyError(uid)

    return look


def test_users_and_groups_of_the_host_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, *rest = serveruser.UIDS
    monkeypatch.setattr(procfs, "users", set)
    monkeypatch.setattr(pwd, "getpwuid", known({first}))
    monkeypatch.setattr(grp, "getgrgid", known(set(rest)))
    assert draw().uid == second
    monkeypatch.setattr(grp, "getgrgid", known({second, *rest}))
    with pytest.raises(TrialError, match="all users from 60706 to 61183 are taken") as caught:
        draw()
    assert caught.value.code == "no-user"


@pytest.mark.parametrize(
    ("first", "port", "privileged"),
    [
        ("1024\n", 446, True),
        ("1024\n", 1024, False),
        ("400\n", 446, False),
        (None, 446, True),
        ("odd", 1024, False),
        ("1024\n", None, False),
    ],
)
def test_the_host_says_which_ports_take_a_right(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    first: str | None,
    port: int | None,
    *,
    privileged: bool,
) -> None:
    path = tmp_path / "ip_unprivileged_port_start"
    if first is not None:
        path.write_text(first)
    monkeypatch.setattr(serveruser, "_FIRST_FREE_PORT", path)
    assert serveruser.is_privileged(port) is privileged
    rights = "-all,+net_bind_service" if privileged else "-all"
    assert f"--ambient-caps={rights}" in USER.options(port)
    assert f"--inh-caps={rights}" in USER.options(port)


def test_a_program_really_runs_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serveruser, "_FIRST_FREE_PORT", Path("/dev/null"))
    script = "import sys; print(open('/proc/self/status').read())"
    for port, rights in ((80, 1 << 10), (8080, 0)):
        argv = ["setpriv", *USER.options(port), "--", sys.executable, "-I", "-S", "-c", script]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        lines = dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
        assert set(lines["Uid"].split() + lines["Gid"].split()) == {str(USER.uid)}
        assert lines["Groups"].split() == []
        for held in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(lines[held], 16) == rights
        assert lines["NoNewPrivs"].strip() == "1"


def test_why_it_cannot_be_is_the_host_s_own_word(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = serveruser.refusal.__wrapped__
    assert refusal() is None
    assert refusal(privileged=True) is None
    monkeypatch.setattr(ServerUser, "options", lambda _self, _port: ["--reuid=odd"])
    assert "odd" in str(refusal())
    monkeypatch.setattr(procfs, "users", lambda: set(serveruser.UIDS))
    assert refusal() == "all users from 60706 to 61183 are taken"
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "/nowhere")
    assert refusal() == "setpriv: No such file or directory"


# ---- what it gets ------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Two keys, and a place for what is lent."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "key.pem").write_text(f"key {name}")
        (tmp_path / name / "key.pem").chmod(0o600)
    (tmp_path / "shm").mkdir()
    monkeypatch.setattr(serveruser, "_MEMORY", tmp_path / "shm")
    return Store(tmp_path)


def server(store: Store, *names: str) -> ServerAdapter:
    programs = {name: FileRef(path=f"{store.root}/{name}/key.pem") for name in ("a", "b", "gone")}
    return replace(SERVER, programs=programs, lent=names)


def rights(path: Path) -> tuple[str, int, int]:
    about = path.stat()
    return stat.filemode(about.st_mode), about.st_uid, about.st_gid


def test_it_gets_copies_that_it_may_read_and_a_folder_that_it_may_write(store: Store) -> None:
    files = store.root / "files"
    (files / "deep").mkdir(parents=True)
    (files / "deep" / "start.sh").write_text("start")
    leftovers = Leftovers(store.root / "leftovers.json")
    loan = lend(USER, server(store, "a", "b"), store, files, leftovers)
    uid = USER.uid
    assert [Path(path).read_text() for path in loan.lent.values()] == ["key a", "key b"]
    assert list(loan.lent) == ["a", "b"]
    assert {rights(Path(path)) for path in loan.lent.values()} == {("-r--r-----", 0, uid)}
    assert rights(loan.folder) == ("drwx--x---", 0, uid)
    assert rights(loan.adapter / "deep") == ("drwxr-x---", 0, uid)
    assert rights(loan.adapter / "deep" / "start.sh") == ("-r--r-----", 0, uid)
    assert rights(loan.scratch) == ("drwx------", uid, uid)
    assert rights(store.root / "a" / "key.pem")[0] == "-rw-------"
    leftovers.remove()
    assert list((store.root / "shm").iterdir()) == []


def test_an_adapter_without_files_gets_an_empty_folder(store: Store) -> None:
    leftovers = Leftovers(store.root / "leftovers.json")
    loan = lend(USER, SERVER, store, store.root / "none", leftovers)
    assert (loan.lent, list(loan.adapter.iterdir())) == ({}, [])


def test_what_cannot_be_lent_is_told_and_nothing_stays(store: Store) -> None:
    leftovers = Leftovers(store.root / "leftovers.json")
    with pytest.raises(TrialError, match=r"could not be made: .*gone/key\.pem") as caught:
        lend(USER, server(store, "a", "gone"), store, store.root, leftovers)
    assert caught.value.code == "not-started"
    leftovers.remove()
    assert list((store.root / "shm").iterdir()) == []


def test_what_keeps_a_file_from_others(tmp_path: Path) -> None:
    base = Path("/dev/shm") / f"{tmp_path.parent.name}-{os.getpid()}"
    file = base / "deep" / "file"
    file.parent.mkdir(parents=True)
    file.touch()
    try:
        for path, mode in ((base, 0o755), (file.parent, 0o755), (file, 0o644)):
            path.chmod(mode)
        assert locked_out(file) is None
        for path, closed, opened in ((file, 0o640, 0o644), (base, 0o754, 0o755)):
            path.chmod(closed)
            assert locked_out(file) == path
            path.chmod(opened)
        link = base / "link"
        link.symlink_to(file)
        file.parent.chmod(0o700)
        assert locked_out(link) == file.parent
    finally:
        subprocess.run(["rm", "-r", str(base)], check=True)


# ---- what the kernel says ----------------------------------------------------------------------


def status(uid: int = 7, prm: str = "0", nnp: str = "1", groups: str = "") -> dict[str, str]:
    uids = "\t".join([str(uid)] * 4)
    fields = {"Uid": uids, "Gid": uids, "Groups": groups, "CapPrm": prm, "NoNewPrivs": nnp}
    return {**fields, "CapBnd": "000001ffffffffff"}


def test_processes_that_are_alike_are_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {
        1: status(),
        2: status(),
        3: status(prm="0000000000000400", nnp="0", groups="4 5"),
        4: status(0, prm="000001ffffffffff"),
        5: status(prm="0000060000000001"),
    }

    def read(pid: int) -> dict[str, str]:
        if pid not in known:
            raise ProcessLookupError
        return known[pid]

    monkeypatch.setattr(procfs, "status", read)
    entries = seen([1, 2, 3, 4, 5, 6])
    assert [entry["processes"] for entry in entries] == [2, 1, 1, 1]
    assert [entry["capabilities"] for entry in entries] == [
        [],
        ["net_bind_service"],
        ["all"],
        ["cap_0", "cap_41", "cap_42"],
    ]
    assert entries[0]["uids"] == [7, 7, 7, 7]
    assert (entries[1]["groups"], entries[1]["no_new_privs"]) == ([4, 5], False)
    assert flags("own", entries) == ["the server runs as root (1 of 5 processes)"]
    assert flags("root", entries) == []
    assert flags("own", entries[:2]) == []


def test_a_saved_user_of_root_is_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfs, "status", lambda _pid: {**status(), "Uid": "7\t7\t0\t7"})
    assert flags("own", seen([1])) == ["the server runs as root (1 of 1 processes)"]


# ---- what is left ------------------------------------------------------------------------------


def test_only_processes_since_the_server_s_start_are_ended() -> None:
    user = draw()
    argv = ["setpriv", *user.options(None), "--", "sleep", "600"]
    with subprocess.Popen(argv) as process, Loop() as loop:
        start = procfs.start_ticks(process.pid)
        assert start is not None
        assert loop.until(lambda: procfs.of_user(user.uid) == [process.pid], 10.0, 0.01)
        assert serveruser.end_stragglers(loop, user, start + 1) is None
        assert process.poll() is None
        said = serveruser.end_stragglers(loop, user, start)
        name = f"sleep (pid {process.pid})"
        assert said == f"processes of the server outlived it and were ended: {name}"
        assert process.wait(10) == -9


def test_one_of_another_pid_namespace_is_not_ours() -> None:
    user = draw()
    inner = ["setpriv", "--pdeathsig=KILL", *user.options(None), "--", "sleep", "600"]
    with subprocess.Popen(["unshare", "--pid", "--fork", *inner]) as process, Loop() as loop:
        assert loop.until(lambda: bool(procfs.of_user(user.uid)), 10.0, 0.01)
        assert user.stragglers(0) == []
        process.kill()
        assert loop.until(lambda: not procfs.of_user(user.uid), 10.0, 0.01)
