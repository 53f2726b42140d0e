"""uplab/setupplan.py: what tasks returned in check mode, as a host's plan; and how it reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from uplab import inventory, playbook, provision, setupplan, setupplan_text
from uplab.errors import HostError
from uplab.outcome import Outcome, Result
from uplab.setupplan import Build, HostPlan, Package, Packages

NOTHING: dict[str, Any] = {
    "added": [],
    "upgraded": [],
    "removed": [],
    "held": [],
    "kept_back": [],
    "protected": [],
    "download_bytes": 0,
    "units": {},
    "services": [],
    "sources": {"added": [], "removed": [], "switched_off": [], "restored": []},
    "refused": "",
    "problem": "",
}
WRK = {"name": "wrk", "version": "4.1.0-3", "bytes": 90_112}
CRON = {"name": "cron", "version": "3", "before": "2", "bytes": 1024}


def result(action: str, state: str = "changed", **returned: Any) -> Result:
    return Result("h1", "role", "A task", action, state, returned, 0.1)


def outcome(*results: Result, code: int = 0) -> Outcome:
    return Outcome(code, list(results), Path("/log/setup.log"))


def packages(**changes: Any) -> Result:
    return result("uplab_packages", plan={**NOTHING, **changes}, paths=["/opt/uplab/packages.json"])


def judged(*results: Result, code: int = 0) -> HostPlan:
    return setupplan.judge("h1", outcome(*results, code=code))


# --- judging --------------------------------------------------------------------------------------


def test_packages_are_what_the_module_says() -> None:
    sources = {"added": ["/a"], "removed": ["/b"], "switched_off": ["/c"], "restored": ["/d"]}
    found = judged(
        packages(
            added=[WRK],
            upgraded=[CRON],
            removed=[{"name": "exim4", "version": "4"}],
            download_bytes=91_136,
            held=["x"],
            units={"cron": ["cron.service"]},
            services=["wrk"],
            sources=sources,
            refused="apt would remove exim4",
        )
    )
    assert found.packages == Packages(
        added=(Package("wrk", "4.1.0-3", None, 90_112),),
        upgraded=(Package("cron", "3", "2", 1024),),
        removed=(Package("exim4", "4"),),
        held=("x",),
        download_bytes=91_136,
        sources_added=("/a",),
        sources_removed=("/b",),
        sources_switched_off=("/c",),
        sources_restored=("/d",),
        services=("wrk",),
        units={"cron": ["cron.service"]},
        refused="apt would remove exim4",
    )
    assert found.paths == ("/opt/uplab/packages.json",)
    assert (found.exit_code, found.against) == (1, ("apt would remove exim4",))


def test_builds_have_the_time_of_the_last_one() -> None:
    def one(**more: Any) -> dict[str, Any]:
        return {"changed": True, "hash": "0123456789ab", "log": "/opt/uplab/log/x.log", **more}

    builds = {
        "servers": one(),
        "gotrace": one(hash=None),
        "bpftime": one(changed=False),
    }
    found = judged(
        result("uplab_store", "ok", component="servers", last_build_s=19.3, ready=False),
        result("uplab_store", "ok", component="gotrace", last_build_s=None, ready=False),
        result("uplab_build", builds=builds),
    )
    assert found.builds == (Build("servers", 19.3), Build("gotrace", None))
    assert found.registered == ()
    assert found.paths == (
        "/opt/uplab/store/servers-0123456789ab",
        "/opt/uplab/current/servers",
        "/opt/uplab/log/x.log",
        "/opt/uplab/store/gotrace-<hash of its inputs>",
        "/opt/uplab/current/gotrace",
    )


def test_what_does_not_change_is_no_part_of_the_plan() -> None:
    found = judged(
        result("uplab_store", component="wrk", paths=["/opt/uplab/current/wrk"]),
        result("uplab_store", "ok", component="golang", paths=[]),
        result("uplab_store", "skipped", component="llvm", paths=["/x"]),
        result("uplab_certificate", paths=["/opt/uplab/tls/key.pem", "/opt/uplab/current/wrk"]),
    )
    assert found.registered == ("wrk",)
    assert found.paths == ("/opt/uplab/current/wrk", "/opt/uplab/tls/key.pem")
    assert found.packages == Packages()
    assert found.exit_code == 0


def test_a_task_that_fails_is_a_problem() -> None:
    found = judged(packages(), result("assert", "failed", msg="it is Ubuntu"), code=2)
    assert found.problems == ("h1: A task: it is Ubuntu",)
    assert (found.reached, found.exit_code) == (True, 1)


def test_a_host_that_is_lost_was_not_reached() -> None:
    found = judged(result("setup", "unreachable", msg="connection reset"), code=4)
    assert (found.reached, found.exit_code) == (False, 4)
    assert setupplan_text.as_text([found]) == "h1: h1: A task: connection reset"


def test_packages_that_cannot_be_planned_are_a_problem() -> None:
    found = judged(packages(problem="apt cannot install wrk: E: no"))
    assert (found.exit_code, found.against) == (1, ("apt cannot install wrk: E: no",))


# --- reading --------------------------------------------------------------------------------------


FULL = HostPlan(
    "h1",
    reached=True,
    packages=Packages(
        added=(Package("wrk", "4.1.0-3", None, 90_112), Package("libluajit", "2")),
        upgraded=(Package("cron", "3", "2", 1024),),
        removed=(Package("exim4", "4"),),
        held=("on-hold",),
        kept_back=("docker",),
        download_bytes=91_136,
        sources_switched_off=("/etc/apt/sources.list.d/pve.list",),
        services=("wrk",),
        units={"cron": ["cron.service"], "exim4": ["exim4.service"]},
        refused="apt would remove exim4 (4)\nreally",
    ),
    builds=(Build("servers", 19.26), Build("gotrace", None)),
    registered=("wrk",),
    paths=("/opt/uplab/manifest.json",),
    log="/log/setup.log",
)


def test_a_person_reads_all_of_it() -> None:
    assert setupplan_text.as_text([FULL]).splitlines() == [
        "h1: lab.setup would",
        "  add packages: 2, 89.0 KiB to download",
        "    wrk        4.1.0-3  88.0 KiB",
        "    libluajit  2",
        "  upgrade packages: 1",
        "    cron  2 -> 3  1.0 KiB",
        "  remove packages: 1",
        "    exim4  4",
        "  leave packages: 2",
        "    on-hold: on hold (apt-mark hold), and apt would have to change it",
        "    docker: kept back by apt",
        "  change sources of packages: 1",
        "    switch off a source in /etc/apt/sources.list.d/pve.list",
        "  build: 2",
        "    servers (the last build took 19.3 s)",
        "    gotrace (never built there: how long it takes is not known)",
        "  record what is installed: 1",
        "    wrk",
        "  write: 1",
        "    /opt/uplab/manifest.json",
        "  start or stop services:",
        "    wrk brings a service, which Debian starts when it is installed",
        "    cron.service of cron may be started anew",
        "    exim4.service of exim4 would be stopped",
        "    of 2 added packages 1 say so; which units the others have is not known before they "
        "are unpacked",
        "  reboot: never",
        "  it would not succeed: apt would remove exim4 (4) really",
        "h1: mend that first. Ansible's own output: /log/setup.log",
    ]


def test_nothing_to_do_reads_as_that() -> None:
    text = setupplan_text.as_text([judged(packages()), judged()])
    first, second = text.split("\n\n")
    assert first.count(": none") == 7
    assert second.endswith("h1: up to date, there is nothing to set up")


@pytest.mark.parametrize("more", [{"added": [WRK]}, {"sources_added": ["/etc/apt/x.sources"]}])
def test_anything_to_do_ends_with_the_command(more: dict[str, Any]) -> None:
    text = setupplan_text.as_text([judged(packages(**more))])
    assert text.endswith("h1: nothing was changed. Run: invoke lab.setup --host h1")


def test_a_host_s_texts_cannot_move_the_cursor() -> None:
    found = judged(packages(added=[{**WRK, "name": "a\x1b[2Jb"}], problem="x\x1b[1Ay"))
    assert "\x1b" not in setupplan_text.as_text([found])


def test_programs_read_all_of_it() -> None:
    decoded = json.loads(setupplan_text.as_json([FULL, judged()], 1))
    assert decoded["exit_code"] == 1
    first, second = decoded["hosts"]
    assert (first["exit_code"], second["exit_code"]) == (1, 0)
    assert first["packages"]["added"][0] == {
        "name": "wrk",
        "version": "4.1.0-3",
        "before": None,
        "download_bytes": 90_112,
    }
    assert first["builds"][0] == {"component": "servers", "last_build_s": 19.26}
    assert first["reboot"] is False


# --- asking ---------------------------------------------------------------------------------------


def test_one_host_that_cannot_be_asked_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def ready(_project: Path, name: str, _chosen: Path | None) -> None:
        if name == "h1":
            raise HostError("host h1: nothing listens there")

    asked: list[list[str]] = []

    def collect(_project: Path, argv: list[str], *, stock: bool) -> Outcome:
        assert not stock
        asked.append(argv)
        return outcome(packages())

    monkeypatch.setattr(inventory, "host", lambda *_: {})
    monkeypatch.setattr(provision, "digest", lambda *_: "d" * 64)
    monkeypatch.setattr(provision, "require_ready", ready)
    monkeypatch.setattr(playbook, "collect", collect)
    project = Path("/checkout")
    first, second = setupplan.make(project, ["h1", "h2"], allow_upgrade=True)
    assert (first.exit_code, first.problems) == (4, ("host h1: nothing listens there",))
    assert (second.host, second.exit_code) == ("h2", 0)
    (argv,) = asked
    assert "--check" in argv
    variables = json.loads(argv[argv.index("--extra-vars") + 1])
    assert variables == {"uplab_allow_upgrade": True, "uplab_digests": {"h2": "d" * 64}}
