"""Tracers, servers and loads that know nothing of uplab, measured and judged like its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.system.lab import ROOT, Lab, Outcome, free_port

MATRIX = ROOT / "tests" / "data" / "matrices" / "openssl.yml"
ADAPTERS = ROOT / "tests" / "data" / "adapters"


def measure(lab: Lab, *settings: str, only: str | None = None) -> Outcome:
    """Run the matrix on a port of its own."""
    port = f"servers.nginx.port={free_port()}"
    return lab.measure(port, *settings, only=only, name=str(MATRIX))


def closed(connections: int) -> str:
    """The setting that puts the closed loop into the matrix."""
    return f"load={{name: h2load-closed, connections: {connections}, duration_s: 1}}"


def tracer(lab: Lab, script: str, **changes: Any) -> str:
    """Another tracer: a shell script; out: the settings that put it into the matrix."""
    folder = lab.folder / "more" / "tracers" / "theirs"
    folder.mkdir(parents=True)
    adapter = {
        "schema": 1,
        "kind": "tracer",
        "name": "theirs",
        "summary": "somebody's own",
        "needs_traits": ["openssl"],
        "argv": ["/bin/sh", "-c", script],
        "ready_line": "^ready",
        "modes": {"as-shipped": {"placement": "any"}},
        **changes,
    }
    (folder / "adapter.yml").write_text(yaml.safe_dump(adapter))
    return f"adapters=[{ADAPTERS}, {lab.folder / 'more'}]"


def test_it_joins_the_matrix_without_a_change_of_uplab(lab: Lab) -> None:
    outcome = measure(lab)
    assert outcome.code == 0, outcome.stderr
    for trial in outcome.trials:
        assert trial["verdict"]["reasons"] == []
        assert trial["load"]["requests"] > 0
    assert outcome.trial("nginx-none-12B")["hits"] is None
    declared = outcome.trial("nginx-kernel-uprobe-bpftrace-12B")
    shipped = outcome.trial("nginx-as-shipped-bpftrace-12B")
    assert [trial["attestation"]["grade"] for trial in (declared, shipped)] == ["proven"] * 2
    for trial in (declared, shipped):
        counted = trial["hits"]["by_name"]
        assert counted["ssl_read"]["per_request"] == pytest.approx(2, abs=1)
        assert counted["ssl_write"]["per_request"] == pytest.approx(1, abs=0.5)
        assert "libssl.so.3" in str(trial["attestation"]["after"])


def test_what_it_altered_is_found_and_listed_in_every_process(lab: Lab) -> None:
    outcome = measure(lab, only="mode=as-shipped")
    trial = outcome.trial("nginx-as-shipped-bpftrace-12B")
    altered = trial["attestation"]["after"]["altered_elsewhere"]
    assert {Path(site["file"]).name for site in altered} == {"libssl.so.3"}
    assert {site["state"] for site in altered} <= {"breakpoint", "kernel-call"}
    # A master and two workers, each with both sites.
    assert len({site["pid"] for site in altered}) == 3
    assert len({site["offset"] for site in altered}) == 2


def test_a_tracer_that_does_nothing_is_no_measurement_of_tracing(lab: Lab) -> None:
    settings = tracer(lab, "echo ready; exec sleep 600")
    outcome = measure(lab, settings, "factors.tracer=[theirs]", only="mode=as-shipped")
    assert outcome.codes("nginx-as-shipped-theirs-12B") == ["site-unchanged"]


def test_one_that_probes_something_else_is_of_a_lower_grade(lab: Lab) -> None:
    program = "tracepoint:syscalls:sys_enter_sendto { @ = count(); }"
    script = f"echo ready; exec bpftrace -e '{program}'"
    outcome = measure(lab, tracer(lab, script), "factors.tracer=[theirs]", only="mode=as-shipped")
    trial = outcome.trial("nginx-as-shipped-theirs-12B")
    assert trial["verdict"]["reasons"] == []
    assert trial["attestation"]["grade"] == "links only"


def test_one_that_never_says_that_it_is_ready_is_told(lab: Lab) -> None:
    settings = tracer(lab, "echo hello; exec sleep 600", attached_timeout_s=0.5)
    outcome = measure(lab, settings, "factors.tracer=[theirs]", only="mode=as-shipped")
    (reason,) = outcome.trial("nginx-as-shipped-theirs-12B")["verdict"]["reasons"]
    assert reason["code"] == "tracer-not-ready"
    assert reason["text"] == "tracer printed no line like '^ready' within 0.5 s"


def test_probes_elsewhere_than_declared_are_no_evidence(lab: Lab) -> None:
    sites = [{"name": "s", "symbol": "SSL_peek", "at": "entry", "file": "libssl.so.3", "hits": []}]
    modes = {"kernel-uprobe": {"placement": "kernel"}}
    folder = ADAPTERS / "tracers" / "bpftrace"
    script = f"exec sh {folder}/start.sh bpftrace {folder}/ssl.bt {{pid}}"
    more = {"sites": sites, "modes": modes, "ready_line": "^Attaching", "attached_timeout_s": 4}
    settings = tracer(lab, script, **more)
    outcome = measure(lab, settings, "factors.tracer=[theirs]", only="mode=kernel-uprobe")
    assert set(outcome.codes("nginx-kernel-uprobe-theirs-12B")) == {"bytes", "site-unchanged"}


def test_an_open_loop_keeps_its_rate_whatever_a_request_costs(lab: Lab) -> None:
    outcome = measure(lab, "load.rate_per_s=500", only="mode=none,mode=kernel-uprobe")
    assert outcome.code == 0, outcome.stderr
    trials = [outcome.trial(f"nginx-{mode}-12B") for mode in ("none", "kernel-uprobe-bpftrace")]
    for trial in trials:
        assert trial["verdict"]["reasons"] == []
        assert trial["load"]["requests_per_s"] == pytest.approx(500, rel=0.1)
        latency_us = trial["load"]["latency_us"]
        assert 0 < latency_us["min"] <= latency_us["p50"] <= latency_us["p99"] <= latency_us["max"]
        assert trial["cpu"]["server_us_per_request"] > 0


def test_a_closed_loop_waits_for_each_answer(lab: Lab) -> None:
    outcome = measure(lab, closed(4), only="mode=none,mode=kernel-uprobe")
    assert outcome.code == 0, outcome.stderr
    for trial in outcome.trials:
        assert trial["verdict"]["reasons"] == []
        assert trial["cell"]["load"] == "h2load-closed"
        # Its four connections each have one request on the way, and never more.
        load = trial["load"]
        assert 1 < load["requests_per_s"] * load["latency_us"]["avg"] / 1e6 <= 4.1


def test_a_rate_that_nobody_could_keep_is_no_measurement(lab: Lab) -> None:
    outcome = measure(lab, "load.rate_per_s=1000000", only="mode=none")
    (reason,) = outcome.trial("nginx-none-12B")["verdict"]["reasons"]
    assert reason["code"] == "load"
    assert reason["text"].startswith("asked for 1000000 requests/s, sent were ")
    assert "lower rate_per_s" in reason["text"]


def test_a_log_of_requests_that_would_fill_the_disk_ends_the_load(lab: Lab) -> None:
    folder = lab.folder / "more" / "loads" / "h2load-brief"
    shutil.copytree(ADAPTERS / "loads" / "h2load", folder)
    text = (folder / "adapter.yml").read_text().replace("name: h2load", "name: h2load-brief")
    (folder / "adapter.yml").write_text(text.replace("268435456", "4096"))
    settings = (f"adapters=[{ADAPTERS}, {lab.folder / 'more'}]", "load.name=h2load-brief")
    outcome = measure(lab, *settings, only="mode=none")
    first, *_ = outcome.trial("nginx-none-12B")["verdict"]["reasons"]
    assert first["text"].startswith("h2load's log of requests is full: ")
