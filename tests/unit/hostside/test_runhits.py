"""uplab/hostside/runhits.py: the kernel's counts, by the probe site that each program serves."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from uplab.hostside import runcounts, runhits
from uplab.hostside.attest import ExpectedSite
from uplab.hostside.runcounts import PROBE_PROGRAM, Link, Probe, Program
from uplab.hostside.runhits import ALL, Look


@pytest.fixture
def server(tmp_path: Path) -> Path:
    path = tmp_path / "go-server"
    path.touch()
    return path


def site(server: Path, name: str, offset: int) -> ExpectedSite:
    return ExpectedSite(name, name.upper(), "entry", str(server), offset, "kernel", "return")


def probe(program: int, file: Path, offset: int) -> Probe:
    return Probe(program, "uprobe", f"/named/{file.name}", file, offset)


def look(runs: dict[int, int], *probes: Probe, unplaced: frozenset[int] = frozenset()) -> Look:
    programs = {number: Program(number, PROBE_PROGRAM, count, 0) for number, count in runs.items()}
    return Look(programs, probes, unplaced)


def test_each_site_has_the_runs_of_its_program(server: Path) -> None:
    sites = [site(server, "read", 16), site(server, "exit", 32), site(server, "exit", 40)]
    probes = [probe(1, server, 16), probe(2, server, 32), probe(2, server, 40)]
    before, after = look({1: 5, 2: 0, 9: 0}, *probes), look({1: 25, 2: 30, 9: 99}, *probes)
    found = runhits.hits(before, after, sites, 10)
    # Program 9 is on no userspace probe.
    assert found["by_name"] == {
        "read": {"hits": 20, "per_request": 2.0},
        "exit": {"hits": 30, "per_request": 3.0},
    }
    rows = [(row["name"], row["offset"], row["places"], row["hits"]) for row in found["sites"]]
    assert rows == [("read", 16, 1, 20), ("exit", 32, 2, 30)]
    assert (found["elsewhere"], found["warm_up_requests"]) == (False, 10)


def test_a_site_that_no_program_serves_has_no_hits(server: Path) -> None:
    found = runhits.hits(look({}), look({}), [site(server, "read", 16)], 10)
    assert found["by_name"] == {"read": {"hits": 0, "per_request": 0.0}}


def test_a_site_in_userspace_is_not_the_kernel_s_to_count(server: Path) -> None:
    hot = replace(site(server, "hot", 8), placement="userspace")
    probes = [probe(1, server, 16)]
    sites = [hot, site(server, "read", 16)]
    found = runhits.hits(look({1: 0}, *probes), look({1: 20}, *probes), sites, 10)
    assert found["by_name"] == {"read": {"hits": 20, "per_request": 2.0}}


@pytest.mark.parametrize("requests", [0, None])
def test_without_requests_nothing_is_per_request(server: Path, requests: int | None) -> None:
    found = runhits.hits(look({}), look({}), [site(server, "read", 16)], requests)
    assert found["by_name"]["read"]["per_request"] is None


def test_one_program_for_two_sites_leaves_their_sum(server: Path) -> None:
    sites = [site(server, "read", 16), site(server, "write", 32)]
    probes = [probe(1, server, 16), probe(1, server, 32)]
    found = runhits.hits(look({1: 0}, *probes), look({1: 8}, *probes), sites, 4)
    assert found["by_name"] == {ALL: {"hits": 8, "per_request": 2.0}}
    assert found["sites"] == []


def test_a_probe_that_nobody_declared_leaves_the_sum(server: Path) -> None:
    probes = [probe(1, server, 16), probe(2, server, 17)]
    sites = [site(server, "read", 16)]
    found = runhits.hits(look({1: 0, 2: 0}, *probes), look({1: 8, 2: 2}, *probes), sites, 10)
    assert found["by_name"] == {ALL: {"hits": 10, "per_request": 1.0}}


def test_programs_that_run_for_other_files_too_are_told(server: Path, tmp_path: Path) -> None:
    other = tmp_path / "containerd"
    other.touch()
    probes = [probe(1, server, 16), probe(1, other, 16)]
    found = runhits.hits(look({1: 0}, *probes), look({1: 8}, *probes), [site(server, "r", 16)], 4)
    assert (found["elsewhere"], list(found["by_name"])) == (True, [ALL])
    gone = Probe(1, "uprobe", "/gone", tmp_path / "gone", 16)
    assert runhits.hits(look({}), look({}, gone), [site(server, "r", 16)], 4)["elsewhere"]


def test_a_file_is_the_same_by_any_path(server: Path) -> None:
    link = server.with_name("also")
    os.link(server, link)
    before, after = look({1: 0}, probe(1, link, 16)), look({1: 8}, probe(1, link, 16))
    found = runhits.hits(before, after, [site(server, "read", 16)], 4)
    assert found["by_name"]["read"]["hits"] == 8


def test_programs_on_many_uprobes_at_once_are_counted_by_their_link(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    links = {
        1: Link(1, "uprobe_multi", 11, None, None),
        2: Link(2, "kprobe_multi", 12, None, None),
        3: Link(3, "uretprobe_multi", 13, None, None),
    }
    programs = {number: Program(number, PROBE_PROGRAM, 0, 0) for number in (11, 12, 13)}
    monkeypatch.setattr(runcounts, "links", lambda _pids: links)
    monkeypatch.setattr(runcounts, "programs", lambda _pids: programs)
    seen = runhits.look([os.getpid()])
    assert seen.on_probes == {11, 13}
    later = Look({n: Program(n, PROBE_PROGRAM, 5, 0) for n in programs}, (), seen.unplaced)
    assert runhits.hits(seen, later, [], 10)["by_name"] == {ALL: {"hits": 10, "per_request": 1.0}}
