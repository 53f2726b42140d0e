"""The adapter of DeepFlow's rust_sample, with a stand-in for the program, and with the real one.

The servers, wrk, the kernel's uprobes, the mounts and everything of uplab are real. Where a host
has the real program (``UPLAB_TEST_DEEPFLOW_TRACER``, or the store's), it is measured, too.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from tests.system.lab import QUICK, ROOT, STANDINS, Lab, Outcome, Started
from uplab import campaign, matrix
from uplab.errors import EXIT_USAGE, UsageError
from uplab.hostside import store

if TYPE_CHECKING:
    from tests.system.conftest import StartServer

NAME = "deepflow"
HERE = Path("/proc/self/mounts")
SITES = {"casgstatus", "tls_read", "tls_read_ret", "tls_write", "tls_write_ret"}


def install(lab: Lab, program: Path) -> None:
    """Make a program the store's rust_sample."""
    prefix = lab.folder / NAME
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin" / "rust_sample").symlink_to(program)
    lab.prefixes[NAME] = str(prefix)
    lab.write_manifest()


def standin(lab: Lab, behaviour: str) -> None:
    """The stand-in, which touches this lab's servers alone."""
    program = lab.folder / "rust_sample.sh"
    argv = f"{STANDINS / 'rust_sample.py'} {behaviour} {lab.prefixes['servers']}/"
    program.write_text(f"#!/bin/sh\nPYTHONPATH={ROOT} exec /usr/bin/python3 {argv}\n")
    program.chmod(0o755)
    install(lab, program)


def settings(mode: str) -> tuple[str, ...]:
    """What puts it into the matrix, in one mode, on the HTTPS server."""
    return (
        f"factors.tracer=[{NAME}]",
        f"factors.mode=[{mode}]",
        "factors.server=[https]",
        f"tracers.{NAME}.attached_timeout_s=30",
    )


def measure(lab: Lab, mode: str, *more: str) -> Outcome:
    return lab.measure(*settings(mode), *more)


def only_trial(outcome: Outcome) -> dict[str, Any]:
    (trial,) = outcome.trials
    return trial


def reasons(outcome: Outcome) -> dict[str, str]:
    found = only_trial(outcome)["verdict"]["reasons"]
    return {reason["code"]: reason["text"] for reason in found}


def log(outcome: Outcome) -> str:
    assert outcome.run_dir is not None
    (path,) = outcome.run_dir.glob("trials/*/tracer.log")
    return path.read_text(errors="replace")


# ---- the modes -----------------------------------------------------------------------------------


def check_kernel_uprobes(trial: dict[str, Any]) -> None:
    """All of its probes are where they belong, each with its hits, and its events add up."""
    assert trial["verdict"]["reasons"] == []
    assert trial["attestation"]["grade"] == "proven"
    sites = trial["attestation"]["after"]["sites"]
    assert {site["name"] for site in sites} == SITES
    assert {site["state"] for site in sites} == {"breakpoint"}
    returns = [site for site in sites if site["at"] == "ret"]
    assert len(returns) > 2
    assert {site["file_bytes"][:2] for site in returns} <= {"c3", "c2"}
    by_name = {name: part["per_request"] for name, part in trial["hits"]["by_name"].items()}
    assert set(by_name) == SITES
    assert by_name["tls_write"] == pytest.approx(1, abs=0.3)
    assert by_name["tls_write_ret"] == pytest.approx(by_name["tls_write"], abs=0.1)
    assert by_name["tls_read"] == pytest.approx(2, abs=0.5)
    assert trial["hits"]["events"]["per_request"] == pytest.approx(2, abs=0.4)


def check_tracer_only(trial: dict[str, Any]) -> None:
    """Nothing of the server was altered, by its bytes."""
    assert trial["verdict"]["reasons"] == []
    assert trial["attestation"]["grade"] == "proven"
    after = trial["attestation"]["after"]
    assert (after["sites"], after["altered_elsewhere"], after["uprobes_page"]) == ([], [], False)


def test_its_probes_are_proven_one_by_one(lab: Lab) -> None:
    standin(lab, "works")
    mounts = HERE.read_text()
    outcome = measure(lab, "kernel-uprobe")
    check_kernel_uprobes(only_trial(outcome))
    assert HERE.read_text() == mounts, "a mount of start.sh's is seen outside"


def test_it_sees_itself_and_this_server_alone(lab: Lab, start_server: StartServer) -> None:
    start_server("http")
    standin(lab, "works")
    outcome = measure(lab, "kernel-uprobe")
    seen = re.search(r"sees \[(\d+), (\d+)\], is (\d+), NO_UPROBE (\w+)", log(outcome))
    assert seen is not None, log(outcome)[:500]
    server = only_trial(outcome)["attestation"]["after"]["pids"]
    assert {int(seen[1]), int(seen[2])} == {*server, int(seen[3])}
    assert seen[4] == "None"


def test_without_its_probes_it_does_not_even_see_the_server(lab: Lab) -> None:
    standin(lab, "works")
    outcome = measure(lab, "tracer-only")
    check_tracer_only(only_trial(outcome))
    seen = re.search(r"sees \[(\d+)\], is (\d+), NO_UPROBE 1", log(outcome))
    assert seen is not None, log(outcome)[:500]
    assert seen[1] == seen[2]


# ---- what goes wrong -----------------------------------------------------------------------------


def test_one_that_probes_in_tracer_only_all_the_same_is_seen_by_the_bytes(lab: Lab) -> None:
    standin(lab, "works")
    # In which a tracer may still take off what does not belong there.
    host, made, _ = lab.plan(*settings("tracer-only"), f"tracers.{NAME}.attached_timeout_s=8")
    # Only now: a self-test would show it up before.
    program = lab.folder / "rust_sample.sh"
    program.write_text(program.read_text().replace(" works ", " defiant "))
    made = replace(made, artifacts={})
    outcome = Started(lab, host.start(asdict(made)), made.run_id).finish()
    found = reasons(outcome)
    assert set(found) >= {"bytes"}
    assert "is no declared probe site" in found["bytes"] or "[uprobes]" in found["bytes"]


def test_one_that_only_says_that_it_is_ready_has_traced_nothing(lab: Lab) -> None:
    standin(lab, "idle")
    outcome = measure(lab, "kernel-uprobe", f"tracers.{NAME}.attached_timeout_s=2")
    found = reasons(outcome)
    assert found["site-unchanged"]
    assert "events" in found
    assert outcome.code == 0


def test_one_that_never_says_it_is_ready_is_not_waited_for_in_a_run(lab: Lab) -> None:
    standin(lab, "silent")
    _, _, (judged,) = lab.plan(*settings("kernel-uprobe"), f"tracers.{NAME}.attached_timeout_s=1")
    assert judged.status == "not available here"
    assert judged.reason is not None
    assert judged.reason.startswith(f"{NAME} does not start here: not ready within 1 s, last line:")


def test_one_that_stops_being_ready_after_the_plan_is_told(lab: Lab) -> None:
    standin(lab, "works")
    host, made, _ = lab.plan(*settings("kernel-uprobe"), f"tracers.{NAME}.attached_timeout_s=8")
    program = lab.folder / "rust_sample.sh"
    program.write_text(program.read_text().replace(" works ", " silent "))
    made = replace(made, artifacts={})
    outcome = Started(lab, host.start(asdict(made)), made.run_id).finish()
    assert "within 8 s" in reasons(outcome)["tracer-not-ready"]


def test_one_that_cannot_start_here_is_not_available_with_its_reason(lab: Lab) -> None:
    standin(lab, "memlock")
    for mode in ("tracer-only", "kernel-uprobe"):
        _, made, (judged,) = lab.plan(*settings(mode))
        assert judged.status == "not available here"
        assert judged.reason is not None
        assert judged.reason.startswith(
            f"{NAME} does not start here: exit code 1, last line: "
            'bpf_tracer_init() file:"/var/log/deepflow-ebpf.log" error (it could not raise '
        )
        assert "ulimit -l unlimited" in judged.reason
        assert made.cells == ()


def test_its_output_is_always_read_and_kept_to_a_limit(lab: Lab) -> None:
    standin(lab, "flood")
    outcome = measure(lab, "tracer-only")
    check_tracer_only(only_trial(outcome))
    assert outcome.run_dir is not None
    (path,) = outcome.run_dir.glob("trials/*/tracer.log")
    said = path.read_bytes()
    more = re.search(rb"\[uplab: (\d+) further bytes were not kept\]", said[-200:])
    assert more is not None
    assert len(said) < 17 << 20
    # It was never kept waiting: all that it could print in the seconds of the load.
    assert int(more[1]) > 20 << 20


# ---- other Go programs ---------------------------------------------------------------------------


def as_shipped(lab: Lab) -> tuple[campaign.Request, matrix.Experiment]:
    ports = [f"servers.{name}.port={port}" for name, port in lab.ports.items()]
    chosen = [*QUICK, *ports, *settings("as-shipped")]
    return campaign.Request(ROOT, "local", "smoke"), matrix.load("smoke", ROOT, chosen)


def test_other_go_programs_are_not_touched_unasked(lab: Lab, start_server: StartServer) -> None:
    other = start_server("http")
    standin(lab, "works")
    request, experiment = as_shipped(lab)
    with pytest.raises(UsageError) as caught:
        campaign.make_plan(request, experiment, lab.host(experiment.registry))
    assert caught.value.exit_code == EXIT_USAGE
    listed = f"(pid {other.pid}, {Path(f'/proc/{other.pid}/exe').readlink()})"
    assert listed in caught.value.message
    assert caught.value.message.endswith("measure with --touch-others")
    # The host has the last word: one may have been started since.
    host, made, _ = lab.plan(*settings("as-shipped"))
    outcome = Started(lab, host.start(asdict(made)), made.run_id).finish()
    assert (outcome.code, outcome.run_dir) == (EXIT_USAGE, None)
    assert listed in outcome.stderr


def test_with_leave_it_is_measured_as_it_was_shipped_and_the_run_says_so(
    lab: Lab, start_server: StartServer
) -> None:
    other = start_server("http")
    standin(lab, "works")
    request, experiment = as_shipped(lab)
    host = lab.host(experiment.registry)
    made, _ = campaign.make_plan(replace(request, touch_others=True), experiment, host)
    outcome = Started(lab, host.start(asdict(made)), made.run_id).finish()
    trial = only_trial(outcome)
    assert trial["verdict"]["reasons"] == []
    assert trial["attestation"]["grade"] in ("proven", "sites only")
    assert len(trial["attestation"]["after"]["altered_elsewhere"]) > 5
    assert outcome.run["touch_others"] is True
    assert other.pid in [process["pid"] for process in outcome.run["touched"]["processes"]]
    # The other one runs, and its probes are gone with the tracer.
    assert other.process.poll() is None
    assert "[uprobes]" not in Path(f"/proc/{other.pid}/maps").read_text() or (
        json.dumps(trial["tracer"]["end"]) == "null"
    )


# ---- the real one --------------------------------------------------------------------------------


@pytest.fixture
def real(lab: Lab, not_provided: Callable[[str], NoReturn]) -> Lab:
    """A lab with the real rust_sample, where this host has one that starts."""
    named = os.environ.get("UPLAB_TEST_DEEPFLOW_TRACER")
    if not named:
        installed = store.load(store.DEFAULT_ROOT).components.get(NAME)
        named = f"{installed['prefix']}/bin/rust_sample" if installed else None
    if named is None:
        not_provided(
            "no rust_sample: UPLAB_TEST_DEEPFLOW_TRACER names none, "
            f"and {store.DEFAULT_ROOT} has none"
        )
    install(lab, Path(named))
    _, _, (judged,) = lab.plan(*settings("tracer-only"))
    if judged.reason is not None:
        not_provided(judged.reason)
    return lab


def test_the_real_one_s_probes_are_proven_one_by_one(real: Lab) -> None:
    check_kernel_uprobes(only_trial(measure(real, "kernel-uprobe")))


def test_the_real_one_touches_nothing_in_tracer_only(real: Lab) -> None:
    check_tracer_only(only_trial(measure(real, "tracer-only")))
