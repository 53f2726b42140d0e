"""uplab/loadfrom.py: a host and the second machine that loads it, asked as one host."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from uplab import loadfrom, matrix, plan
from uplab.campaign import Request, require_one_host
from uplab.errors import HostError, UplabError, UsageError
from uplab.hostside.doctor import AVAILABLE, NOT_AVAILABLE
from uplab.hostside.spec import LoadFrom
from uplab.loadfrom import PairedHost
from uplab.measured import LoadHost
from uplab.remote import Facts, Query, Take
from uplab.report import sentences

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "5ec2e7" * 8
RUN = "20260102T030405Z-near-m"


@dataclass
class Asked:
    """A host that answers what it was told to, and keeps what it was asked."""

    name: str
    answers: dict[str, Any]
    python: str = "/usr/bin/python3"
    chosen: Path | None = None
    seen: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def facts(self) -> Facts:
        return Facts("", "root", "root", "3.11.2")

    def held(self) -> AbstractContextManager[None]:
        return nullcontext()

    def inspect(self, request: dict[str, Any]) -> dict[str, Any]:
        return self.ask("inspect", request)

    def ask(self, command: str, request: Query, *, become: bool = True) -> dict[str, Any]:
        assert become
        self.seen.append((command, request))
        answer = self.answers[command]
        if isinstance(answer, Exception):
            raise answer
        found: dict[str, Any] = answer
        return found

    def receive(
        self, command: str, request: Query, take: Take, *, silence_s: float | None = None
    ) -> None:
        self.seen.append((command, request))
        take(str(silence_s).encode())

    def request(self, wanted: str) -> dict[str, Any]:
        (found,) = [request for command, request in self.seen if command == wanted]
        return found

    @property
    def commands(self) -> list[str]:
        return [command for command, _ in self.seen]


def cell(name: str, load: str = "l", port: int = 8080) -> dict[str, Any]:
    return {"id": name, "load": load, "server_parameters": {"port": port}}


def inspected(*cells: dict[str, Any], url: str = "http://{address}:{port}/") -> dict[str, Any]:
    loads = {"l": {"programs": {"program": {"path": "/l"}}}, "m": {"programs": {}}}
    return {"adapters": {"servers": {"s": {"url": url}}, "loads": loads}, "cells": list(cells)}


def pair(**changes: Any) -> tuple[PairedHost, Asked, Asked]:
    cells = {"a": [AVAILABLE, None], "b": [AVAILABLE, None], "c": [NOT_AVAILABLE, "why"]}
    near = {"inspect": {"cells": cells}, "load-reach": {"problem": None}, "launch": {"run_id": RUN}}
    near |= {"forget-run": {}, "stop": {}}
    far: dict[str, Any] = {"load-look": {"missing": {}, "artifacts": {"/l": "00"}}, "load-stop": {}}
    far |= {"load-start": {"port": 7, "token": TOKEN, "pid": 1}}
    hosts = Asked("near", near), Asked("far", far)
    for command, answer in changes.items():
        name = command.replace("_", "-")
        (hosts[0] if name in near else hosts[1]).answers[name] = answer
    whole = PairedHost(hosts[0], hosts[1], "192.0.2.1", "192.0.2.2", port=9)
    return whole, *hosts


def test_the_load_is_looked_for_on_the_second_machine_alone() -> None:
    whole, near, far = pair()
    answer = whole.inspect(inspected(cell("a"), cell("b", port=81), cell("c", port=82)))
    asked = near.request("inspect")
    assert {load["programs"] == {} for load in asked["adapters"]["loads"].values()} == {True}
    assert far.request("load-look")["loads"]["l"]["programs"] == {"program": {"path": "/l"}}
    assert answer["load_from"] == LoadFrom("far", "192.0.2.2", "192.0.2.1", {"/l": "00"})
    # Only what can run is tried to be reached, and nothing stays of that.
    reach = near.request("load-reach")
    assert (reach["server_ports"], reach["token"], reach["port"]) == ([81, 8080], TOKEN, 7)
    assert far.request("load-start")["port"] == 9
    assert far.commands[-1] == "load-stop"


def test_what_asks_for_no_cells_asks_the_host_alone() -> None:
    whole, near, far = pair()
    whole.inspect({})
    assert (near.commands, far.commands) == (["inspect"], [])


def test_cells_whose_load_is_missing_there_cannot_run() -> None:
    missing = {"missing": {"l": "no /l"}, "artifacts": {}}
    whole, near, _ = pair(load_look=missing)
    answer = whole.inspect(inspected(cell("a"), cell("b", load="m"), cell("c")))
    assert answer["cells"] == {
        "a": [NOT_AVAILABLE, "load host far: no /l"],
        "b": [AVAILABLE, None],
        "c": [NOT_AVAILABLE, "why"],
    }
    whole.inspect(inspected(cell("a")))
    assert near.commands.count("load-reach") == 1, "where nothing can run, nothing is tried"


def test_a_port_that_is_not_reached_is_one_line() -> None:
    whole, _, far = pair(load_reach={"problem": "it does not reach 192.0.2.1 port 80: timed out"})
    with pytest.raises(HostError) as caught:
        whole.inspect(inspected(cell("a")))
    assert caught.value.message == (
        "load host far, for host near: it does not reach 192.0.2.1 port 80: timed out. "
        "Run: invoke lab.check --host far"
    )
    assert far.commands[-1] == "load-stop"


def test_a_server_that_listens_on_its_own_machine_alone_is_refused() -> None:
    whole, near, _ = pair()
    with pytest.raises(UsageError, match=r"server s cannot be told where to listen: .*\{address\}"):
        whole.inspect(inspected(cell("a"), url="http://127.0.0.1:{port}/"))
    assert near.seen == []


PLAN = {"run_id": RUN, "load_from": {"artifacts": {"/l": "00"}}, "adapters": {"loads": {"l": {}}}}


def test_a_run_is_launched_with_its_agent_and_the_token_beside_the_plan() -> None:
    whole, near, far = pair()
    assert whole.ask("launch", {"plan": PLAN}) == {"run_id": RUN}
    assert far.request("load-start") == {
        "run_id": RUN,
        "address": "192.0.2.2",
        "port": 9,
        "server_address": "192.0.2.1",
        "loads": {"l": {}},
        "artifacts": {"/l": "00"},
    }
    launched = near.request("launch")
    assert launched == {"plan": PLAN, "load_agent": {"port": 7, "token": TOKEN}}
    assert TOKEN not in str(launched["plan"])
    assert "load-stop" not in far.commands
    whole.ask("forget-run", {"run_id": RUN})
    assert far.request("load-stop") == {"run_id": RUN}


def test_a_run_that_does_not_start_leaves_no_agent() -> None:
    whole, _, far = pair(launch=UplabError("host near: this host is busy", exit_code=4))
    with pytest.raises(UplabError, match="busy"):
        whole.ask("launch", {"plan": PLAN})
    assert far.commands == ["load-start", "load-stop"]


def test_an_answer_that_was_lost_may_have_started_it() -> None:
    whole, _, far = pair(launch=HostError("host near: the connection is gone"))
    with pytest.raises(HostError):
        whole.ask("launch", {"plan": PLAN})
    assert far.commands == ["load-start"]


def test_a_machine_that_is_busy_is_named_as_the_load_s() -> None:
    busy = UplabError("host far: this host is busy: run x", exit_code=4)
    whole, near, _ = pair(load_start=busy)
    with pytest.raises(UplabError, match="load host far: this host is busy: run x") as caught:
        whole.ask("launch", {"plan": PLAN})
    assert caught.value.exit_code == 4
    assert "launch" not in near.commands


def test_all_else_is_the_host_s() -> None:
    whole, near, far = pair()
    whole.ask("stop", {"run_id": RUN})
    taken: list[bytes] = []
    whole.receive("follow", {}, taken.append, silence_s=3)
    assert (taken, near.commands, far.commands) == ([b"3"], ["stop", "follow"], [])
    assert (whole.name, whole.python, whole.facts()) == ("near", near.python, near.facts())
    with whole.held():
        pass


LOCAL = {"ansible_connection": "local"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"ansible_host": "192.0.2.7"}, "192.0.2.7"),
        ({"ansible_host": "192.0.2.7", "uplab_address": "198.51.100.1"}, "198.51.100.1"),
        ({**LOCAL, "uplab_address": "198.51.100.1"}, "198.51.100.1"),
        ({"ansible_host": "localhost"}, "127.0.0.1"),
    ],
)
def test_the_address_in_the_network_that_the_load_goes_through(
    variables: dict[str, Any], expected: str
) -> None:
    assert loadfrom.address("h", variables) == expected


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (LOCAL, "it has none in the inventory"),
        ({"uplab_address": "2001:db8::1"}, "'2001:db8::1' is none"),
        ({"uplab_address": "no such name"}, "'no such name' is none"),
    ],
)
def test_a_host_without_one_is_told_how_to_get_one(variables: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=rf"host h: .*{said}\. Put .* uplab_address: 192\.0\.2\.7"):
        loadfrom.address("h", variables)


def test_one_machine_loads_one_host_at_a_time() -> None:
    require_one_host(Request(Path()), ["a", "b"])
    with pytest.raises(UsageError, match="--load-from c: one machine loads one host at a time"):
        require_one_host(Request(Path(), load_from="c"), ["a", "b"])


def test_which_machine_loads_is_part_of_the_plan_s_hash_and_its_address_is_not() -> None:
    experiment = matrix.load("smoke", ROOT, (), "server=http")
    cells = list(experiment.cells)

    def sha256(load_from: LoadFrom | None) -> str:
        return plan.sha256(plan.matter(experiment, cells, 1, {}, load_from=load_from))

    far = LoadFrom("far", "192.0.2.2", "192.0.2.1", {"/l": "00"})
    assert sha256(far) == sha256(LoadFrom("far", "192.0.2.3", "192.0.2.4", {"/l": "00"}))
    others = [None, LoadFrom("other", "", "", {"/l": "00"}), LoadFrom("far", "", "", {"/l": "01"})]
    assert len({sha256(each) for each in (far, *others)}) == 4


def test_the_report_says_where_the_load_came_from() -> None:
    far = LoadHost("far", "192.0.2.1", 80.04, 123.46, -0.0000021, 0.00004, 10_000, None)
    assert sentences.load_from(far) == (
        "The load came from a second machine, far, to 192.0.2.1; it took no CPU of the server's "
        "host. Before the first trial: round trip of a message 123.5 us in the median, at least "
        "80.0 us; its clock ahead of the host's by -2.1 us (+/- 40.0 us). Speed of the link: the "
        "server's host 10,000 Mbit/s, the load's not known to its kernel"
    )
    unknown = LoadHost("far", "192.0.2.1", None, None, None, None, None, None)
    assert "round trip of a message - us" in sentences.load_from(unknown)
    assert "by not known." in sentences.load_from(unknown)
