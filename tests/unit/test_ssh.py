"""uplab/ssh.py against a real sshd: who is spoken to, who gets in, what is said when it fails."""

from __future__ import annotations

import gc
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import proxy, sshd
from uplab import adapters, hostzip, ssh, sshlink
from uplab.errors import EXIT_HOST, HostError, UplabError
from uplab.ssh import SshHost
from uplab.sshconfig import endpoint

ADAPTERS = Path(__file__).parents[1] / "data" / "adapters"
CANARY = "canary-7f3a9e"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Server]:
    with sshd.running(tmp_path_factory.mktemp("sshd")) as started:
        yield started


@pytest.fixture(autouse=True)
def no_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.fixture(scope="module")
def zipapp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostzip.write(adapters.load([ADAPTERS]), tmp_path_factory.mktemp("zips"))


Connect = Callable[..., SshHost]


@pytest.fixture
def connect(server: sshd.Server, zipapp: Path, tmp_path: Path) -> Connect:
    """A host by the server's variables, some of them changed."""

    def make(to: sshd.Server = server, python: str = "/usr/bin/python3", **changes: Any) -> SshHost:
        variables = {**to.variables(), **changes}
        options = ("--root", str(tmp_path / "root"))
        return SshHost("h1", endpoint("h1", variables), zipapp, options, python)

    return make


def refusal(host: SshHost) -> str:
    """What is said where a host cannot be worked with: one line, exit code 4."""
    with pytest.raises(HostError) as caught:
        host.inspect({})
    assert caught.value.exit_code == EXIT_HOST
    assert "\n" not in caught.value.message
    assert caught.value.message.startswith("host h1: ")
    return caught.value.message


# --- what works -----------------------------------------------------------------------------------


def test_hostside_answers_over_ssh(connect: Connect) -> None:
    answer = connect().inspect({})
    assert answer.pop("root") is True
    assert answer.pop("touched") is None
    assert not any(answer.values())
    assert set(answer) == {"manifest", "cells", "artifacts", "untested"}


def test_what_the_host_offers(connect: Connect, server: sshd.Server) -> None:
    facts = connect().facts()
    assert (facts.user, facts.become) == ("root", "root")
    assert facts.key == f"ED25519 {server.fingerprint()}"
    assert facts.python is not None
    assert facts.python.startswith("3.")


def test_a_question_leaves_no_file_on_the_host(connect: Connect, tmp_path: Path) -> None:
    before = {folder: sorted(os.listdir(folder)) for folder in ("/root", "/var/lib", "/opt")}
    temporary = set(os.listdir("/tmp"))
    connect().ask("status", {})
    assert {folder: sorted(os.listdir(folder)) for folder in before} == before
    assert not [name for name in set(os.listdir("/tmp")) - temporary if "uplab" in name]
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    "odd", ["a b", "'", '"', "$(touch x)", "a\nb", "../x", "é→", "-x", "`id`", "a\\b", "*", "#"]
)
def test_every_word_reaches_the_host_as_it_is(connect: Connect, odd: str) -> None:
    host = connect()
    with host._linked() as link:
        program = "import json,sys; print(json.dumps(sys.argv[1:]))"
        argv = ["/usr/bin/python3", "-c", program, odd, ""]
        answer = ssh._execute(link.connection, argv, b"")
    assert (answer.code, json.loads(answer.stdout)) == (0, [odd, ""])


def test_a_host_that_is_held_is_connected_to_once(connect: Connect, tmp_path: Path) -> None:
    first = connect()
    with proxy.running((sshd.ADDRESS, first.endpoint.port)) as line:
        known = tmp_path / "known"
        _, _, key = first.endpoint.known_hosts[0].read_text().splitlines()[0].partition(" ")
        known.write_text(f"[{proxy.ADDRESS}]:{line.port} {key}\n")
        common = f"-F none -o UserKnownHostsFile={known} -o GlobalKnownHostsFile=none"
        host = connect(ansible_port=line.port, ansible_ssh_common_args=common)
        with host.held():
            for _ in range(3):
                host.ask("status", {})
            assert line.connections == 1
            assert [link.lives() for link in host._kept.waiting] == [True]
            with host.held():
                host.ask("status", {})
            assert line.connections == 1
            (link,) = host._kept.waiting
            line.cut()
            while link.lives():
                time.sleep(0.01)
            host.ask("status", {})
            assert line.connections == 2
        assert host._kept.waiting == []
        host.ask("status", {})
        assert line.connections == 3


def test_a_large_question_and_a_large_answer(connect: Connect) -> None:
    with connect()._linked() as link:
        program = (
            "import sys; d=sys.stdin.buffer.read(); sys.stderr.write('e'*300000); print(len(d))"
        )
        answer = ssh._execute(
            link.connection, ["/usr/bin/python3", "-c", program], b"x" * 5_000_000
        )
    assert (answer.code, answer.stdout, len(answer.stderr)) == (0, b"5000000\n", 300_000)


def test_only_a_known_rsa_key_is_enough(
    connect: Connect, server: sshd.Server, tmp_path: Path
) -> None:
    """The server prefers another kind of key; the known one is what is asked for."""
    known = tmp_path / "with space"
    known.write_text(f"{server.key_name} {server.public_key('rsa')}\n")
    facts = connect(**server.variables(known)).facts()
    assert facts.key == f"RSA {server.fingerprint('rsa')}"


def test_names_that_are_hashed_or_patterns_are_known(
    connect: Connect, server: sshd.Server, tmp_path: Path
) -> None:
    hashed = tmp_path / "hashed"
    hashed.write_text(server.known_hosts.read_text())
    subprocess.run(["ssh-keygen", "-H", "-f", str(hashed)], check=True, capture_output=True)
    assert sshd.ADDRESS not in hashed.read_text()
    assert connect(**server.variables(hashed)).facts().user == "root"
    pattern = tmp_path / "pattern"
    pattern.write_text(f"[127.0.0.*]:{server.port} {server.public_key()}\n")
    assert connect(**server.variables(pattern)).facts().user == "root"


def test_a_jump_is_held_to_its_own_key(
    connect: Connect, server: sshd.Server, tmp_path: Path
) -> None:
    with sshd.running(tmp_path / "inner") as inner:
        both = tmp_path / "both"
        both.write_text(inner.known_hosts.read_text() + server.known_hosts.read_text())
        # The jump has no key of its own on the command line, so OpenSSH's configuration has it.
        config = tmp_path / "config"
        config.write_text(
            f"Host 127.0.0.1\n IdentityFile {server.client_key}\n"
            f" UserKnownHostsFile {both}\n GlobalKnownHostsFile none\n"
        )
        jump = f"root@127.0.0.1:{server.port}"
        (tmp_path / "inner" / "authorized_keys").write_text(
            (server.folder / "client.pub").read_text()
        )
        arguments = f"-F {config} -o ProxyJump={jump}"
        changes = {
            "ansible_host": "localhost",
            "ansible_port": inner.port,
            "ansible_ssh_private_key_file": str(server.client_key),
            "ansible_ssh_common_args": f"{arguments} -o HostKeyAlias={inner.key_name} "
            f"-o UserKnownHostsFile={both} -o GlobalKnownHostsFile=none",
        }
        assert connect(**changes).facts().key == f"ED25519 {inner.fingerprint()}"


def test_a_proxy_command_is_ended_with_the_connection(
    connect: Connect, server: sshd.Server, tmp_path: Path
) -> None:
    proxy = sshd.write_program(
        tmp_path / "proxy",
        f"#!{sys.executable}\n"
        "import os, socket, sys, threading\n"
        "s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "def back():\n"
        "    while data := s.recv(65536): os.write(1, data)\n"
        "threading.Thread(target=back, daemon=True).start()\n"
        "while data := os.read(0, 65536): s.sendall(data)\n",
    )
    arguments = server.variables()["ansible_ssh_common_args"]
    changes = {"ansible_ssh_common_args": f"{arguments} -o 'ProxyCommand={proxy} %h %p'"}
    assert connect(**changes).facts().user == "root"
    # pytest turns a process or pipe that is left into an error.
    gc.collect()


# --- whose key is not known -----------------------------------------------------------------------


def test_an_unknown_key_is_refused_with_its_fingerprint(
    connect: Connect, server: sshd.Server, tmp_path: Path
) -> None:
    message = refusal(connect(**server.variables(tmp_path / "empty")))
    assert f"root@127.0.0.1:{server.port} shows an unknown key: ED25519 " in message
    assert server.fingerprint() in message
    # The command that accepts it is one, and names the same place and file.
    command = shlex.split(message.rpartition("Run: ")[2])
    assert command[:3] == ["ssh", "-p", str(server.port)]
    assert command[-2:] == ["root@127.0.0.1", "true"]
    assert str(tmp_path / "empty") in " ".join(command)
    assert not (tmp_path / "empty").exists()


def test_another_key_than_before_is_refused_with_both(
    connect: Connect, server: sshd.Server, tmp_path: Path
) -> None:
    other = sshd.make_key(tmp_path / "other").with_suffix(".pub").read_text().split()
    known = tmp_path / "known_hosts"
    known.write_text(f"{server.key_name} {other[0]} {other[1]}\n")
    message = refusal(connect(**server.variables(known)))
    assert f"shows another key than before: ED25519 {server.fingerprint()}, but {known}" in message
    assert "Somebody may be in between" in message
    assert message.endswith(f"ssh-keygen -R '{server.key_name}' -f {known}")


def test_a_revoked_key_is_refused(connect: Connect, server: sshd.Server, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    line = f"{server.key_name} {server.public_key()}"
    known.write_text(f"{line}\n@revoked {line}\n")
    assert f"which {known} revokes" in refusal(connect(**server.variables(known)))


def test_no_option_makes_an_unknown_key_good(
    connect: Connect, server: sshd.Server, tmp_path: Path
) -> None:
    variables = server.variables(tmp_path / "empty")
    variables["ansible_ssh_common_args"] += " -o StrictHostKeyChecking=no"
    assert "shows an unknown key" in refusal(connect(**variables))


def test_a_server_with_an_unknown_key_is_not_logged_in_to(
    connect: Connect, server: sshd.Server, tmp_path: Path
) -> None:
    log = server.folder / "sshd.log"
    before = log.read_text().count("Accepted publickey")
    refusal(connect(**server.variables(tmp_path / "empty")))
    assert log.read_text().count("Accepted publickey") == before


# --- who does not get in, and what is not there ---------------------------------------------------


def test_a_login_that_is_refused(connect: Connect, server: sshd.Server, tmp_path: Path) -> None:
    key = sshd.make_key(tmp_path / "stranger")
    message = refusal(connect(ansible_ssh_private_key_file=str(key)))
    place = f"root@127.0.0.1:{server.port}"
    assert f"{place} refuses to log us in (tried: {key}). Run: ssh-copy-id " in message


def test_a_key_that_is_locked(connect: Connect, tmp_path: Path) -> None:
    key = sshd.make_key(tmp_path / "locked", passphrase=CANARY)
    message = refusal(connect(ansible_ssh_private_key_file=str(key)))
    assert message.endswith("is locked by a passphrase. Run: ssh-add")


def test_nobody_listens(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    message = refusal(connect(ansible_port=port))
    assert f"nothing listens on 127.0.0.1:{port} (connection refused)" in message


def test_a_name_that_has_no_address(connect: Connect) -> None:
    message = refusal(connect(ansible_host="r720.example.invalid"))
    assert "the name r720.example.invalid has no address" in message


def test_something_that_is_not_ssh(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def answer() -> None:
            connection, _ = listening.accept()
            with connection, suppress(OSError):
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 200)

        thread = threading.Thread(target=answer)
        thread.start()
        message = refusal(connect(ansible_port=port))
        thread.join()
    assert f"127.0.0.1:{port} does not speak SSH as we do" in message


def test_a_server_that_never_answers(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host = connect(ansible_port=listening.getsockname()[1])
        message = refusal(replace(host, endpoint=replace(host.endpoint, timeout_s=1)))
    assert "host h1: " in message


def test_a_host_without_python(connect: Connect) -> None:
    message = refusal(connect(python="/no/python"))
    assert message == ("host h1: no Python at /no/python. There, run: apt-get install python3")


def test_a_host_with_an_old_python(connect: Connect, tmp_path: Path) -> None:
    python = sshd.write_program(tmp_path / "python3", "#!/bin/sh\necho 3.9.2\n")
    message = refusal(connect(python=str(python)))
    assert f"Python 3.9.2 at {python}, wanted 3.11 or newer" in message


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that anybody may look into; pytest's own are closed."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_user_without_sudo(connect: Connect, open_folder: Path, tmp_path: Path) -> None:
    with sshd.running(tmp_path / "sshd", sshd.as_nobody(open_folder)) as other:
        host = replace(connect(other), options=("--root", str(open_folder / "root")))
        message = refusal(host)
        assert message.startswith("host h1: user nobody is not root, and there is no sudo. ")
        # What takes no root is answered all the same.
        assert host.ask("status", {}, become=False)["set_up"] is False


def test_a_user_whose_sudo_asks(connect: Connect, open_folder: Path, tmp_path: Path) -> None:
    sshd.write_program(open_folder / "sudo", "#!/bin/sh\nexit 1\n")
    with sshd.running(tmp_path / "sshd", sshd.as_nobody(open_folder)) as other:
        message = refusal(connect(other))
    assert message.startswith("host h1: sudo wants a password of user nobody. There, run: visudo")


def test_a_user_who_may_become_root(connect: Connect, open_folder: Path, tmp_path: Path) -> None:
    noted = open_folder / "noted"
    noted.touch()
    noted.chmod(0o666)
    sshd.write_program(
        open_folder / "sudo",
        f'#!/bin/sh\necho "$1 $2" >> {noted}\nshift 2\nexec "$@"\n',
    )
    with sshd.running(tmp_path / "sshd", sshd.as_nobody(open_folder)) as other:
        host = replace(connect(other), options=("--root", str(open_folder / "root")))
        assert host.facts().become == "sudo"
        # The made-up sudo lets it stay nobody, so hostside is what says that it is not root.
        assert host.inspect({})["root"] is False
    assert set(noted.read_text().splitlines()) == {"-n --"}


def test_a_login_that_runs_nothing(connect: Connect, tmp_path: Path) -> None:
    with sshd.running(tmp_path / "sshd", "ForceCommand echo nothing here") as other:
        message = refusal(connect(other))
    assert "lets us in but runs no command" in message


def test_what_a_login_shell_prints_does_not_matter(connect: Connect, tmp_path: Path) -> None:
    login = sshd.write_program(
        tmp_path / "login", '#!/bin/sh\necho Welcome\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    with sshd.running(tmp_path / "sshd", f"ForceCommand {login}") as other:
        assert connect(other).inspect({})["root"] is True


# --- what hostside says ---------------------------------------------------------------------------


def test_what_hostside_refuses_is_told_with_its_exit_code(connect: Connect, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "manifest.json").write_text("{")
    with pytest.raises(UplabError, match=r"host h1: hostside: ValueError: .* is damaged"):
        connect().inspect({})
    with pytest.raises(UplabError) as caught:
        connect().ask("no-such-command", {})
    assert caught.value.exit_code == 2


def test_a_zipapp_that_is_none(connect: Connect, tmp_path: Path) -> None:
    (tmp_path / "z.pyz").write_text("no zip")
    with pytest.raises(UplabError) as caught:
        replace(connect(), zipapp=tmp_path / "z.pyz").inspect({})
    assert caught.value.message.startswith("host h1: ")
    assert "\n" not in caught.value.message


def test_a_hostside_that_takes_too_long_is_ended_on_the_host(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "_ANSWER_TIMEOUT_S", 1)
    with zipfile.ZipFile(tmp_path / "slow.pyz", "w") as archive:
        archive.writestr("__main__.py", "import time; time.sleep(60)")
    message = refusal(replace(connect(), zipapp=tmp_path / "slow.pyz"))
    assert "did not end by itself" in message


@pytest.mark.parametrize("text", ["print('hello')", "pass", "print('[1]')"])
def test_an_answer_that_is_none_is_told(connect: Connect, tmp_path: Path, text: str) -> None:
    with zipfile.ZipFile(tmp_path / "odd.pyz", "w") as archive:
        archive.writestr("__main__.py", text)
    assert "hostside answered b'" in refusal(replace(connect(), zipapp=tmp_path / "odd.pyz"))


def test_a_password_is_shown_nowhere(
    connect: Connect, server: sshd.Server, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    caplog.set_level(0)
    host = connect(ansible_password=CANARY, ansible_ssh_private_key_file="")
    message = refusal(host)
    captured = capfd.readouterr()
    shown = [message, repr(host), repr(host.endpoint), captured.out, captured.err, caplog.text]
    shown.append((server.folder / "sshd.log").read_text())
    assert [text for text in shown if CANARY in text] == []
    assert host.endpoint.password == CANARY


def test_paramiko_prints_nothing_of_its_own() -> None:
    """In a process of its own: pytest has handlers that would hide it."""
    program = (
        "import socket, threading\n"
        "from pathlib import Path\n"
        "from uplab import ssh\n"
        "from uplab.sshconfig import Endpoint\n"
        "s = socket.create_server(('127.0.0.1', 0))\n"
        "def close():\n"
        "    c, _ = s.accept(); c.sendall(b'no\\r\\n'); c.close()\n"
        "threading.Thread(target=close).start()\n"
        "e = Endpoint('127.0.0.1', s.getsockname()[1], 'root', 'x', timeout_s=2)\n"
        "try: ssh.SshHost('h', e, Path('z')).facts()\n"
        "except ssh.HostError: print('refused')\n"
    )
    argv = [sys.executable, "-c", program]
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, cwd=ADAPTERS.parents[2]
    )
    assert (done.stdout, done.stderr) == ("refused\n", "")


# --- the keys of a server that nobody knows yet ---------------------------------------------------


def test_all_keys_of_a_server_are_shown(connect: Connect, server: sshd.Server) -> None:
    keys = sshlink.offered_keys("h1", connect().endpoint)
    assert [key.short for key in keys] == [
        f"ED25519 {server.fingerprint()}",
        f"RSA {server.fingerprint('rsa')}",
    ]


def test_looking_at_keys_logs_nobody_in(connect: Connect, server: sshd.Server) -> None:
    log = server.folder / "sshd.log"
    before = log.read_text().count("Accepted publickey")
    sshlink.offered_keys("h1", connect().endpoint)
    assert log.read_text().count("Accepted publickey") == before


def test_a_server_that_is_not_there_shows_no_keys(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(HostError, match="nothing listens on"):
        sshlink.offered_keys("h1", connect(ansible_port=port).endpoint)
