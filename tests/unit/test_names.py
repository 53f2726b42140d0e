"""Names from people and hosts: they reach no shell unquoted, and no folder but their own.

Names of hosts, folders, adapters, runs and files, with all that a shell or a path could take for
something else, against a real hostside here and behind a real sshd.
"""

from __future__ import annotations

import json
import os
import shlex
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests import sshd
from tests.unit.test_adapters import GOOD, put
from tests.unit.test_campaign import matrix_of
from tests.unit.test_remote import REGISTRY, experiment, planned
from uplab import (
    adapters,
    arrival,
    checksums,
    comeback,
    detached,
    fetchrun,
    hostzip,
    matrix,
    plan,
    provision,
)
from uplab.cli import common
from uplab.detached import DetachedRun
from uplab.errors import EXIT_USAGE, HostError, UplabError, UsageError
from uplab.hostside import launch, pack
from uplab.hostside.export import is_run_id
from uplab.remote import Host, LocalHost
from uplab.ssh import SshHost
from uplab.sshconfig import endpoint
from uplab.unpacking import Arrived, Entry, Unpacking
from uplab.view import Screen

#: What a shell could do something with; whoever runs it leaves a file of that name.
CANARY = "uplab-canary"
ODD = (
    "a b",
    "it's",
    'a"b',
    f"$(touch {CANARY})",
    f"`touch {CANARY}`",
    f"a;touch {CANARY}",
    f"a&&touch {CANARY}",
    "${HOME}",
    "é→",
    "-x",
    "*",
    "#",
    "~root",
)
#: What must not be the name of anything.
NEVER = ("../x", "/x", "a/../../x", "..", ".", "", "a\nb", "a\0b", "\x1b[2J")
#: All of it at once.
FOLDER = 'it\'s "odd" $(touch uplab-canary) `touch uplab-canary`; ${HOME} *\né→ -x'
NOW = datetime(2026, 11, 22, 13, 17, 51, tzinfo=UTC)


@dataclass
class Spot:
    """A host whose places have an odd name, and the folder that they are in."""

    host: Host
    folder: Path

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def measured(self) -> DetachedRun:
        """A run that has ended."""
        running = detached.start(self.host, asdict(planned(self.host, experiment())), print)
        assert running.follow(lambda _: None).code == 0
        return running

    def bring(self, running: DetachedRun) -> Path:
        return arrival.bring(self.host, running.run_id, self.results, print)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Server]:
    with sshd.running(tmp_path_factory.mktemp("sshd")) as started:
        yield started


@pytest.fixture(params=["here", "there"])
def spot(request: pytest.FixtureRequest, tmp_path: Path, server: sshd.Server) -> Iterator[Spot]:
    """This machine, by itself and behind an sshd; afterwards no shell has run any of it."""
    folder = tmp_path / FOLDER
    zipapp = hostzip.write(REGISTRY, folder / "zips")
    options = tuple(f"--{name}={folder / name}" for name in ("root", "runs", "state"))
    if request.param == "here":
        yield Spot(LocalHost("local", zipapp, options), folder)
    else:
        variables = server.variables()
        yield Spot(SshHost("h1", endpoint("h1", variables), zipapp, options), folder)
    places = [Path.cwd(), Path.home(), Path("/"), tmp_path]
    assert [place for place in places if (place / CANARY).exists()] == []


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# --- folders and files ----------------------------------------------------------------------------


def test_a_run_whose_places_have_odd_names(spot: Spot) -> None:
    run_dir = spot.bring(spot.measured())
    assert run_dir.parent == spot.results
    assert len(list(run_dir.glob("trials/*/trial.json"))) == 2
    assert checksums.differences(run_dir) == []


def test_files_with_odd_names_arrive_as_they_are(spot: Spot) -> None:
    running = spot.measured()
    there = spot.runs / running.run_id
    for name in ODD:
        (there / name).write_text(name)
    # As if the run had made them itself.
    (there / "SHA256SUMS").unlink()
    run_dir = spot.bring(running)
    assert {name: (run_dir / name).read_text() for name in ODD} == {name: name for name in ODD}
    assert checksums.differences(run_dir) == []
    assert os.listdir(spot.results) == [running.run_id]


def test_a_file_whose_name_could_deceive_is_not_taken(spot: Spot) -> None:
    running = spot.measured()
    there = spot.runs / running.run_id
    for name in ("a\nb", "a\\b", "\x1b[2J", "a\x7fb"):
        (there / name).write_text("x")
        (there / "SHA256SUMS").unlink()
        with pytest.raises(HostError, match="which no run directory holds"):
            spot.bring(running)
        assert not (spot.results / running.run_id).exists()
        (there / name).unlink()
    (there / "SHA256SUMS").unlink()
    assert checksums.differences(spot.bring(running)) == []


def test_only_files_of_the_run_are_given_away(spot: Spot) -> None:
    running = spot.measured()
    secret = spot.folder / "secret"
    secret.write_text("mine")
    (spot.runs / running.run_id / "link").symlink_to(secret)
    for name in ("../../secret", str(secret), "trials/../../../secret", "link", ""):
        taken: list[bytes] = []
        request = {"run_id": running.run_id, "names": [name]}
        with pytest.raises(UplabError):
            spot.host.receive("pack", request, taken.append)
        assert b"mine" not in b"".join(taken)


@given(name=st.text(max_size=40) | st.sampled_from(NEVER + ODD))
def test_what_is_taken_stays_in_its_folder(name: str) -> None:
    folder = Path("/results/.part-run")
    try:
        (entry,) = fetchrun._checked([{"name": name, "size": 0, "sha256": ""}])
    except HostError:
        return
    target = Path(os.path.normpath(folder / entry.name))
    assert target.is_relative_to(folder)
    assert target != folder
    assert entry.name.isprintable()


@pytest.mark.parametrize("name", [*NEVER, "other", "run.json/x"])
def test_what_was_not_asked_for_is_not_written(tmp_path: Path, name: str) -> None:
    """A host that lies: its list was good, and its pack holds something else."""
    part = tmp_path / "results" / ".part-run"
    part.mkdir(parents=True)
    wanted = {"run.json": Entry("run.json", 4, "0")}
    frame = json.dumps({"name": name, "size": 4}).encode() + b"\nevil"
    with (
        pytest.raises(HostError, match="which was not asked for"),
        Unpacking(part, wanted, Arrived()) as taking,
    ):
        taking(pack.MARK + b"zlib\n" + zlib.compress(frame))
    assert files(tmp_path) == ["results", "results/.part-run"]


# --- runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["describe", "stop", "forget-run", "launch"])
def test_what_is_no_run_reaches_no_folder(spot: Spot, command: str) -> None:
    made = asdict(planned(spot.host, experiment()))
    spot.folder.joinpath("x").mkdir()
    before = files(spot.folder)
    with spot.host.held():
        for name in ("../x", "/x", "", "a\nb", "$(x)", "x" * 300):
            with pytest.raises(UplabError, match="is not the name of a run") as caught:
                spot.host.ask(command, {"run_id": name, "plan": {**made, "run_id": name}})
            assert caught.value.exit_code == EXIT_USAGE
    assert files(spot.folder) == before


@pytest.mark.parametrize("command", ["follow", "list", "pack"])
def test_of_what_is_no_run_nothing_is_given_away(spot: Spot, command: str) -> None:
    with spot.host.held():
        for name in ("../x", "/etc", "", "a\nb", "$(x)"):
            request = {"run_id": name, "from": 0, "names": ["passwd"]}
            with pytest.raises(UplabError, match="is not the name of a run"):
                spot.host.receive(command, request, lambda _: None)


@dataclass
class Liar:
    """A stand-in for a host that says what it likes."""

    says: dict[str, Any]
    name: str = "h1"

    def ask(self, _command: str, _request: dict[str, Any]) -> dict[str, Any]:
        return self.says


@pytest.mark.parametrize("name", [*NEVER, "a b"])
def test_a_run_that_a_host_names_cannot_lie_elsewhere(tmp_path: Path, name: str) -> None:
    host: Any = Liar({"runs": [{"run_id": name, "state": "finished"}]})
    with pytest.raises(HostError, match=r"^host h1: .* is not the name of a run$") as caught:
        comeback.listed(host)
    assert caught.value.message.isprintable()
    with pytest.raises(HostError, match="is not the name of a run"):
        arrival.bring(host, name, tmp_path / "results", print)
    assert os.listdir(tmp_path) == []


def test_a_host_that_starts_another_run_is_not_followed() -> None:
    host: Any = Liar({"run_id": "of-somebody-else"})
    with pytest.raises(HostError, match="asked to start mine, it started 'of-somebody-else'"):
        detached.start(host, {"run_id": "mine"}, print)


def test_no_host_adds_to_what_another_one_measured(spot: Spot) -> None:
    running = spot.measured()
    theirs = spot.results / running.run_id
    theirs.mkdir(parents=True)
    (theirs / "run.json").write_text('{"host": "h2"}')
    said = f"is here already, measured on h2, and host {spot.host.name} has a run of the same name"
    with pytest.raises(HostError, match=said):
        spot.bring(running)
    assert files(theirs) == ["run.json"]
    assert (spot.runs / running.run_id).is_dir()


def test_a_run_that_a_person_names_cannot_lie_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").mkdir()
    monkeypatch.setattr(comeback, "listed", lambda _: [])
    place = comeback.Place(tmp_path, "local")
    with pytest.raises(UsageError, match=r"no run \.\./x on host local"):
        comeback._collect(LocalHost("local", Path("z")), place, "../x")


def test_what_a_host_says_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    text = comeback.as_text("h1", [{"run_id": "r", "state": "\x1b[2J", "trials": "\r\b"}])
    Screen().say(f"{text}\n\x1b]0;title\x07")
    common._say("host h1: \x1b[2J\rdone")
    captured = capsys.readouterr()
    lines = (captured.out + captured.err).splitlines()
    assert [line for line in lines if not line.isprintable()] == []
    assert lines[-1] == "host h1: ?[2J?done"


# --- hosts ----------------------------------------------------------------------------------------


def test_every_host_gives_a_run_a_name(spot: Spot) -> None:
    wanted = experiment()
    answer = spot.host.inspect(plan.inspect_request(wanted))
    hosts = [*ODD, *NEVER, "lab1", "rack-1.example.net", "a b c", "x" * 300, "\ud800"]
    ids = {host: plan.make(wanted, host, answer, NOW)[0].run_id for host in hosts}
    assert all(is_run_id(run_id) for run_id in ids.values()), ids
    assert len(set(ids.values())) == len(hosts)
    assert ids["lab1"] == "20261122T131751Z-lab1-mini"
    assert ids["rack-1.example.net"] == "20261122T131751Z-rack-1.example.net-mini"
    assert ids["a b"].startswith("20261122T131751Z-a-b-")


@pytest.mark.parametrize("name", ODD)
def test_commands_to_copy_name_the_host_as_one_word(name: str, tmp_path: Path) -> None:
    host = LocalHost(name, tmp_path / "z")
    way_back = DetachedRun(host, "run", print).way_back()
    assert shlex.split(way_back)[-4:] == ["--host", name, "--run", "run"]
    runs = [{"run_id": "r", "state": "running"}, {"run_id": "s", "state": "finished"}]
    _, _, *commands = comeback.as_text(name, runs).splitlines()
    assert [shlex.split(line)[-2:] for line in commands] == [["--host", name]] * 2


@pytest.mark.parametrize("name", ["h1", "a b"])
def test_commands_to_copy_name_the_inventory_that_was_chosen(name: str, tmp_path: Path) -> None:
    chosen = Path("/srv/our lab/$hosts.yml")
    words = ["--host", name, "--inventory", str(chosen)]
    host = LocalHost(name, tmp_path / "z", chosen=chosen)
    way_back = DetachedRun(host, "run", print).way_back()
    assert shlex.split(way_back)[-6:] == [*words, "--run", "run"]
    runs = [{"run_id": "r", "state": "running"}, {"run_id": "s", "state": "finished"}]
    _, _, *commands = comeback.as_text(name, runs, chosen).splitlines()
    assert [shlex.split(line)[-4:] for line in commands] == [words] * 2


def test_hosts_know_the_inventory_that_they_were_found_in(tmp_path: Path) -> None:
    chosen = tmp_path / "hosts.yml"
    here: dict[str, Any] = {"ansible_connection": "local"}
    away = {"ansible_host": "127.0.0.1", "ansible_ssh_common_args": "-F none"}
    chosen.write_text(yaml.safe_dump({"uplab": {"hosts": {"here": here, "away": away}}}))
    for name in ("here", "away"):
        host = provision.host_for(Path(__file__).parents[2], name, REGISTRY, chosen)
        assert host.chosen == chosen
    assert isinstance(host, SshHost)
    assert host._lost("").message.endswith(f"lab.check --host away --inventory {chosen}")


@pytest.mark.parametrize("word", ["$HOME", "${HOME}", "$$", "a $x b", "$(id)", "%h", "it's"])
def test_systemd_gives_every_word_as_it_is(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for systemd-run notes its words; two dollars are one for systemd."""
    program = tmp_path / "systemd-run"
    program.write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" > {tmp_path}/words\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    argv = ["/usr/bin/python3", "-I", "z", "--root", word]
    command, output = ["run-detached", "run"], tmp_path / "output"
    assert launch._start_unit(argv, command, "uplab-run.service", {"A": "b"}, output)
    words = (tmp_path / "words").read_text().split("\0")[:-1]
    given = words[words.index("--") + 1 :]
    # Without its pairs no dollar is left that systemd would put a value in for.
    assert not any("$" in each.replace("$$", "") for each in given)
    said = [each.replace("$$", "$") for each in given]
    assert said == [*argv, "run-detached", "run", "--unit", "uplab-run.service"]


# --- adapters and matrices ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("name", [*(odd for odd in ODD if odd != "#"), "#", "a\nb", ".x", "x" * 99])
def test_an_adapter_with_an_odd_name_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    path = put(tmp_path, kind, {**GOOD[kind], "name": name}, name)
    with pytest.raises(UsageError) as caught:
        adapters.load([tmp_path])
    assert "name: allowed are letters, digits, '.', '_' and '-', found " in caught.value.message
    assert path.exists()


@pytest.mark.parametrize("name", [*ODD, *NEVER, "a\n", "x" * 99])
def test_a_matrix_with_an_odd_name_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "m.yml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(matrix_of()), "name": name}))
    with pytest.raises(UsageError, match="name: "):
        matrix.load(str(path), tmp_path)


@pytest.mark.parametrize("value", [*ODD, "../x", "a\nb"])
def test_a_value_that_is_no_number_reaches_no_command(tmp_path: Path, value: str) -> None:
    path = tmp_path / "m.yml"
    path.write_text(matrix_of())
    for field in ("servers.echo.port", "load.duration_s", "blocks", "factors.server"):
        with pytest.raises(UsageError):
            matrix.load(str(path), tmp_path, [f"{field}={value}"])
