"""Whole runs with the real servers, wrk, tracer and kernel uprobes."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, replace

import pytest

from tests.system.lab import Lab
from uplab import checksums

CELLS = {"none", "none-again", "tracer-only", "kernel-uprobe"}
PROBES = 18


def test_every_mode_of_both_servers_is_measured_and_proven(lab: Lab) -> None:
    outcome = lab.measure()
    assert outcome.code == 0, outcome.stderr
    assert outcome.run["outcome"] == "complete"
    assert len(outcome.trials) == 2 * len(CELLS)
    for trial in outcome.trials:
        assert trial["verdict"]["reasons"] == []
        assert trial["load"]["requests"] > 0
        assert trial["cpu"]["server_us_per_request"] > 0
        assert trial["attestation"]["before"]["compared_bytes"] > 1 << 20


def test_bytes_and_hits_tell_the_modes_apart(lab: Lab) -> None:
    outcome = lab.measure(only="server=https")
    traced = outcome.trial("https-kernel-uprobe-gotrace-12B")
    for when in ("before", "after"):
        sites = traced["attestation"][when]["sites"]
        assert len(sites) == PROBES
        assert {site["state"] for site in sites} <= {"breakpoint", "kernel-call"}
    per_request = {name: row["per_request"] for name, row in traced["hits"]["by_name"].items()}
    assert per_request["tls_write"] == pytest.approx(1.0, rel=0.2)
    assert per_request["tls_read"] == pytest.approx(2.0, rel=0.2)
    assert per_request["casgstatus"] > 2
    idle = outcome.trial("https-tracer-only-gotrace-12B")
    assert {site["state"] for site in idle["attestation"]["after"]["sites"]} == {"original"}
    assert {row["hits"] for row in idle["hits"]["by_name"].values()} == {0}
    assert idle["hits"]["events"]["emitted"] > 0
    untraced = outcome.trial("https-none-12B")
    assert untraced["attestation"]["after"]["sites"] == []
    assert untraced["hits"] is None


def test_the_run_directory_is_what_the_reference_says(lab: Lab) -> None:
    outcome = lab.measure(only="server=http,mode=none,mode=kernel-uprobe")
    assert outcome.run_dir is not None
    assert checksums.differences(outcome.run_dir) == []
    top = {path.name for path in outcome.run_dir.iterdir()}
    assert top == {"run.json", "host.json", "events.jsonl", "trials", "SHA256SUMS"}
    traced = next(outcome.run_dir.glob("trials/*-http-kernel-uprobe-gotrace-12B-b01"))
    assert {path.name for path in traced.iterdir()} == {
        "trial.json",
        "load.txt",
        "load.hist",
        "server.log",
        "tracer.log",
    }
    plain = next(outcome.run_dir.glob("trials/*-http-none-12B-b01"))
    assert "tracer.log" not in {path.name for path in plain.iterdir()}
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=outcome.run_dir, check=True)
    events = [
        json.loads(line) for line in (outcome.run_dir / "events.jsonl").read_text().splitlines()
    ]
    assert events[-1]["event"] == "run-end"
    times = [event["monotonic_ns"] for event in events]
    assert times == sorted(times)
    host = json.loads((outcome.run_dir / "host.json").read_text())
    assert host["before"]["kernel"]["release"] == host["after"]["kernel"]["release"]


def test_every_mode_goes_through_the_same_steps(lab: Lab) -> None:
    outcome = lab.measure(only="server=http,mode=none,mode=kernel-uprobe")
    common = ["fence", "start", "ready", "attest", "warm-up", "measure", "check", "stop", "fence"]
    steps = {
        trial["cell"]["mode"]: [step["step"] for step in trial["times"]["steps"]]
        for trial in outcome.trials
    }
    assert steps["none"] == common
    assert steps["kernel-uprobe"] == [*common[:3], "attach", "attached", *common[3:]]


def test_the_cost_of_a_probe_hit_is_drawn_for_each_class_of_instruction(lab: Lab) -> None:
    outcome = lab.measure(only="server=http,mode=kernel-uprobe")
    classes = {cost["class"]: cost for cost in outcome.run["hit_cost"]}
    assert set(classes) == {"emulated", "nop5", "single-stepped", "return"}
    for cost in classes.values():
        assert cost["error"] is None
        assert cost["ns_per_hit"] > 0
        assert cost["hits"] == cost["calls"]


def test_blocks_follow_the_seed(lab: Lab) -> None:
    host, first, _ = lab.plan("blocks=3")
    _, again, _ = lab.plan("blocks=5")
    _, other, _ = lab.plan("seed=2")
    assert host.name == "local"
    assert first.plan_sha256 == again.plan_sha256
    assert first.plan_sha256 != other.plan_sha256
    outcome = lab.measure("blocks=2", only="server=http,mode=none,mode=none-again")
    assert [trial["block"] for trial in outcome.trials] == [1, 1, 2, 2]
    assert [trial["position"] for trial in outcome.trials] == [1, 2, 1, 2]


def test_a_cell_whose_parts_are_missing_is_listed_with_the_reason(lab: Lab) -> None:
    _, _, judged = lab.plan()
    (missing,) = {(e.status, e.reason) for e in judged if e.cell.mode == "userspace-uprobe"}
    assert missing[0] == "not available here"
    assert "bpftime is not installed" in str(missing[1])


def test_a_load_generator_that_is_missing_makes_every_cell_unavailable(lab: Lab) -> None:
    lab.prefixes["wrk"] = str(lab.folder)
    lab.write_manifest()
    _, made, judged = lab.plan()
    assert made.cells == ()
    assert {e.status for e in judged} == {"not available here"}
    assert all(f"{lab.folder}/bin/wrk is missing" in str(e.reason) for e in judged)


def test_an_artifact_that_was_rebuilt_since_the_plan_is_refused(lab: Lab) -> None:
    host, made, _ = lab.plan(only="server=http,mode=none")
    name = "servers/bin/go-server-http"
    other = replace(made, artifacts={**made.artifacts, name: "0" * 64})
    running = host.start(asdict(other))
    assert list(running.events()) == []
    code, stderr = running.finish()
    assert code == 4
    assert "is not the file that was planned for. Run: invoke lab.setup" in stderr
