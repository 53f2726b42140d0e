"""Userspace uprobes: whole runs under a stand-in for bpftime that really patches the server.

The servers, wrk, the kernel's uprobes and everything of uplab are the real ones. Where a real
bpftime is named (``UPLAB_TEST_BPFTIME_PREFIX``, or the store's), what must work runs on it, too.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import yaml

from tests.system.conftest import GO_BUILD
from tests.system.lab import ROOT, STANDINS, Lab, Outcome, Started, send, wait_gone
from uplab.hostside import elf, store
from uplab.plan import JudgedCell

if TYPE_CHECKING:
    from tests.system.conftest import Server, StartServer

HTTPS = "server=https,mode=userspace-uprobe"
CELL = "https-userspace-uprobe-standin-entries-12B"
ENTRIES = {"casgstatus", "tls_write", "tls_read"}
PLACEMENTS = ("hybrid", "entries", "hybrid-entries")
#: Where a probe belongs, and how its site looks there.
LOOKS = {
    "userspace": {"redirected"},
    "kernel": {"breakpoint", "kernel-call"},
    "untouched": {"original"},
}
#: Enough for what a real agent does on a goroutine's stack, without its JIT, too.
STACK_BYTES = 128 << 10


@pytest.fixture(scope="session")
def standin(readable_folder: Path) -> Path:
    """The stand-in for bpftime, built: a flat folder as bpftime's own, which servers can read."""
    prefix = readable_folder / "bpftime"
    prefix.mkdir()
    command = ["make", "-s", "-C", str(STANDINS / "bpftime"), f"PREFIX={prefix}"]
    subprocess.run(command, check=True)
    return prefix


@pytest.fixture
def misbehaving(standin: Path) -> Callable[[str], Path]:
    """A function from a word of the stand-in's sources to an installation that behaves so."""

    def make(word: str) -> Path:
        prefix = Path(f"{standin}-{word}")
        shutil.copytree(standin, prefix, dirs_exist_ok=True)
        (prefix / "behaviour").write_text(word)
        return prefix

    return make


@dataclass(frozen=True)
class Installed:
    """A bpftime: the stand-in with the stand-in tracer, or a real one with gotrace."""

    prefix: Path
    real: bool

    @property
    def tracer(self) -> str:
        return "gotrace" if self.real else "standin"

    def settings(self, lab: Lab) -> list[str]:
        """What puts it into a matrix."""
        if not self.real:
            return standin_settings(lab, self.prefix)
        lab.prefixes["bpftime"] = str(self.prefix)
        lab.write_manifest()
        stacks = [f"servers.{name}.stack_bytes={STACK_BYTES}" for name in ("https", "http")]
        return ["factors.tracer=[gotrace]", *stacks]


@pytest.fixture(params=["standin", "real"])
def bpftime(
    request: pytest.FixtureRequest, standin: Path, not_provided: Callable[[str], NoReturn]
) -> Installed:
    """Either bpftime; a test on the real one says so where there is none."""
    if request.param == "standin":
        return Installed(standin, real=False)
    named = os.environ.get("UPLAB_TEST_BPFTIME_PREFIX")
    installed = store.load(store.DEFAULT_ROOT).components.get("bpftime", {}).get("prefix")
    if not named and not installed:
        not_provided(
            f"no bpftime: UPLAB_TEST_BPFTIME_PREFIX names none, and {store.DEFAULT_ROOT} has none"
        )
    return Installed(Path(str(named or installed)), real=True)


def standin_settings(lab: Lab, prefix: Path, *behaviour: str, **changes: Any) -> list[str]:
    """The stand-ins for bpftime and for its tracer, which takes gotrace's arguments."""
    lab.prefixes["bpftime"] = str(prefix)
    lab.write_manifest()
    argv = ["{program}", "--pid", "{pid}", "--gotrace", "{gotrace}", *behaviour, "{mode_args}"]
    more = {
        "programs": {
            "program": {"component": "standins", "file": "bpftime/tracer.py"},
            "gotrace": {"component": "gotrace", "file": "bin/gotrace"},
        },
        "argv": argv,
        "env": {"PYTHONPATH": str(ROOT)},
        "hit_cost": [],
        "userspace_hit_cost": [],
        "modes": {"userspace-uprobe": userspace_mode()},
        **changes,
    }
    adapters = lab.adapter("tracer", "standin", more, base="gotrace")
    return [adapters, "factors.tracer=[standin]", "factors.placement=[entries]"]


def userspace_mode() -> dict[str, Any]:
    """gotrace's userspace mode, without its events: the stand-in's are the hits."""
    path = ROOT / "tracers" / "gotrace" / "adapter.yml"
    mode: dict[str, Any] = yaml.safe_load(path.read_text())["modes"]["userspace-uprobe"]
    placements = mode["placements"].values()
    for part in (mode, *placements):
        part.pop("events", None)
    return mode


def measure(lab: Lab, prefix: Path, *settings: str, only: str = HTTPS, **changes: Any) -> Outcome:
    """A short run under a stand-in."""
    given = standin_settings(lab, prefix, **changes)
    return lab.measure(*given, "warm_up_s=0", *settings, only=only)


def start_by_daemon(lab: Lab, *settings: str, only: str = HTTPS) -> Started:
    """A run by the stand-in's daemon, whatever this kernel has for the real one."""
    host, made, judged = lab.plan(*settings, "factors.loader=[daemon]", only=only)
    whole = replace(made, cells=tuple(entry.cell for entry in judged))
    return Started(lab, host.start(asdict(whole)), made.run_id)


def reasons(trial: dict[str, Any]) -> dict[str, str]:
    """What speaks against a trial: code, and all texts of it."""
    found: dict[str, str] = {}
    for reason in trial["verdict"]["reasons"]:
        found[reason["code"]] = found.get(reason["code"], "") + reason["text"] + "\n"
    return found


def assert_placed(trial: dict[str, Any]) -> None:
    """Every site is where the cell's placement has it, and was hit as often as it must be."""
    assert reasons(trial) == {}
    assert trial["attestation"]["grade"] == "proven"
    places = trial["runtime"]["places"]
    for when in ("before", "after"):
        for site in trial["attestation"][when]["sites"]:
            assert site["state"] in LOOKS[places[site["name"]]], site
    # A tracer may list the sites that it leaves alone, or not.
    untouched = {name: place for name, place in places.items() if place == "untouched"}
    listed = {site["name"]: site["placement"] for site in trial["hits"]["sites"]}
    assert untouched | listed == places
    hits = {name: row["per_request"] for name, row in trial["hits"]["by_name"].items()}
    assert hits["casgstatus"] > 2
    encrypted = trial["cell"]["server"] == "https"
    for name, each in (("tls_write", 1), ("tls_write_ret", 1), ("tls_read", 2)):
        expected = each if encrypted and name not in untouched else 0
        assert hits.get(name, 0) == pytest.approx(expected, rel=0.2), name


@pytest.fixture(autouse=True)
def leaves_no_files(tmp_path: Path) -> Iterator[None]:
    """Fails a test after which a trial's shared memory is there, or a file of the stand-in's."""
    yield
    records = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/trials/*/trial.json")]
    names = [record["runtime"]["shared_memory"] for record in records if record.get("runtime")]
    assert [name for name in names if Path("/dev/shm", name).exists()] == []
    assert list(Path("/tmp").glob("bpftime-mock.s-*")) == []


# ---- what must work ----------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["https", "http"])
def test_every_placement_is_proven(lab: Lab, bpftime: Installed, server: str) -> None:
    placements = f"factors.placement=[{','.join(PLACEMENTS)}]"
    only = f"server={server},mode=userspace-uprobe"
    outcome = lab.measure(*bpftime.settings(lab), placements, only=only)
    assert outcome.code == 0, outcome.stderr
    assert len(outcome.trials) == len(PLACEMENTS)
    for placement in PLACEMENTS:
        trial = outcome.trial(f"{server}-userspace-uprobe-{bpftime.tracer}-{placement}-12B")
        assert_placed(trial)
        agents = trial["attestation"]["after"]["agents"]
        assert agents == [str(bpftime.prefix / "libbpftime-agent.so")]


def test_the_daemon_gets_the_tracer_and_the_sites_of_the_placement(
    lab: Lab, bpftime: Installed, not_provided: Callable[[str], NoReturn]
) -> None:
    settings = [*bpftime.settings(lab), f"factors.placement=[{','.join(PLACEMENTS)}]"]
    if bpftime.real:
        _, _, (judged, *_) = lab.plan(*settings, "factors.loader=[daemon]", only=HTTPS)
        if judged.status != "available":
            not_provided(str(judged.reason))
    outcome = start_by_daemon(lab, *settings).finish()
    assert outcome.code == 0, outcome.stderr
    for placement in PLACEMENTS:
        cell = f"https-userspace-uprobe-{bpftime.tracer}-{placement}-daemon-12B"
        trial = outcome.trial(cell)
        assert_placed(trial)
        wanted = {
            name for name, place in trial["runtime"]["places"].items() if place == "userspace"
        }
        assert set(trial["runtime"]["whitelist"]["offsets"]) == wanted


def test_the_library_before_the_whole_tracer(lab: Lab, standin: Path) -> None:
    mode = userspace_mode()
    preload = mode["args"].index("--preload")
    mode |= {"preload": "tracer", "args": mode["args"][:preload]}
    outcome = measure(lab, standin, modes={"userspace-uprobe": mode})
    assert_placed(outcome.trial(CELL))


def test_the_factors_of_the_runtime_reach_both_processes(lab: Lab, bpftime: Installed) -> None:
    # Without its JIT a real one may hang a Go server.
    jit = bpftime.real
    settings = [*bpftime.settings(lab), "factors.placement=[entries]", "factors.shm_mb=[64]"]
    settings += [f"factors.jit=[{jit}]".lower(), f"factors.bpftime_prefix=[{bpftime.prefix}]"]
    started = lab.start(*settings, "warm_up_s=0", only=HTTPS)
    started.wait_for_step("measure")
    started.child("load")
    environments = [environment(started.child(name)) for name in ("server", "tracer")]
    name = environments[0]["BPFTIME_GLOBAL_SHM_NAME"]
    for seen in environments:
        assert seen["BPFTIME_GLOBAL_SHM_NAME"] == name
        assert seen["BPFTIME_SHM_MEMORY_MB"] == "64"
        assert ("BPFTIME_DISABLE_JIT" in seen) is not jit
    assert Path("/dev/shm", name).stat().st_size == 64 << 20
    outcome = started.finish()
    named = "entries" if jit else "entries-nojit"
    cell = f"https-userspace-uprobe-{bpftime.tracer}-{named}-shm64-bpftime1-12B"
    assert outcome.trial(cell)["runtime"]["prefix"] == str(bpftime.prefix)
    assert reasons(outcome.trial(cell)) == {}


def environment(pid: int) -> dict[str, str]:
    words = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(word.split("=", 1) for word in words if "=" in word)


def test_events_are_held_against_the_requests(lab: Lab, standin: Path) -> None:
    mode = userspace_mode()
    mode["placements"]["entries"]["events"] = [{"minimum": 500, "maximum": 1000}]
    mode["placements"]["hybrid"]["events"] = [{"minimum": 3, "maximum": 100}]
    settings = standin_settings(lab, standin, modes={"userspace-uprobe": mode})
    outcome = lab.measure(*settings, "factors.placement=[entries,hybrid]", only=HTTPS)
    assert list(reasons(outcome.trial(CELL))) == ["events"]
    assert_placed(outcome.trial(CELL.replace("entries", "hybrid")))


def test_a_tracer_that_floods_its_output(lab: Lab, standin: Path) -> None:
    settings = standin_settings(lab, standin, "--behaviour", "flood")
    outcome = lab.measure(*settings, "warm_up_s=0", only=HTTPS)
    assert_placed(outcome.trial(CELL))
    assert outcome.run_dir is not None
    (log,) = outcome.run_dir.glob("trials/*/tracer.log")
    assert log.stat().st_size < 17 << 20


# ---- which cells can run -----------------------------------------------------------------------


def judge(lab: Lab, *settings: str, only: str = HTTPS) -> JudgedCell:
    _, _, (judged,) = lab.plan(*settings, only=only)
    return judged


def test_a_server_that_is_linked_statically(lab: Lab, standin: Path, tmp_path: Path) -> None:
    flags = "-ldflags=-buildid= -linkmode external -extldflags -static"
    built = build_server(ROOT / "servers" / "https", tmp_path / "static", flags)
    lab.prefixes["servers"] = str(built)
    judged = judge(lab, *standin_settings(lab, standin))
    assert judged.status == "not available here"
    assert "is not dynamically linked" in str(judged.reason)
    _, _, cells = lab.plan(only="server=https,mode=kernel-uprobe")
    assert [cell.status for cell in cells] == ["available"]


def test_a_bpftime_that_is_not_there_or_not_whole(lab: Lab, standin: Path, tmp_path: Path) -> None:
    settings = standin_settings(lab, standin)
    partial = tmp_path / "partial"
    shutil.copytree(standin, partial)
    (partial / "libbpftime-agent.so").unlink()
    judged = judge(lab, *settings, f"factors.bpftime_prefix=[{partial}]")
    assert judged.status == "not available here"
    assert f"{partial}/libbpftime-agent.so is missing" in str(judged.reason)
    del lab.prefixes["bpftime"]
    lab.write_manifest()
    judged = judge(lab, *settings)
    assert judged.status == "not available here"
    assert "bpftime is not installed" in str(judged.reason)


def test_what_the_server_s_own_user_cannot_read(
    lab: Lab, standin: Path, misbehaving: Callable[[str], Path], tmp_path: Path
) -> None:
    closed = misbehaving("closed")
    agent = closed / "libbpftime-agent.so"
    agent.chmod(0o750)
    settings = standin_settings(lab, closed)
    judged = judge(lab, *settings)
    assert judged.status == "not available here"
    assert f"{agent} cannot be read by the server's own user" in str(judged.reason)
    hidden = tmp_path / "hidden"
    shutil.copytree(lab.prefixes["servers"], hidden)
    hidden.chmod(0o750)
    lab.prefixes |= {"bpftime": str(standin), "servers": str(hidden)}
    lab.write_manifest()
    judged = judge(lab, *settings)
    assert judged.status == "not available here"
    assert f"cannot reach {hidden}/bin/go-server: /" in str(judged.reason)


def test_the_daemon_is_judged_by_the_kernel(lab: Lab, standin: Path) -> None:
    judged = judge(lab, *standin_settings(lab, standin), "factors.loader=[daemon]")
    if not Path("/sys/bus/event_source/devices/kprobe/type").exists():
        assert judged.status == "not available here"
        assert "bpftime_daemon needs kprobes" in str(judged.reason)
    else:
        refused = "bpftime_daemon needs bpf_probe_write_user" in str(judged.reason)
        assert refused == (judged.status == "not available here")


# ---- what lies, fails or dies ------------------------------------------------------------------


def test_success_is_claimed_and_nothing_touched(
    lab: Lab, misbehaving: Callable[[str], Path]
) -> None:
    trial = measure(lab, misbehaving("untouched")).trial(CELL)
    assert "probe site unchanged: tls_read" in reasons(trial)["site-unchanged"]
    assert not trial["verdict"]["valid"]


def test_only_some_of_the_sites_are_patched(lab: Lab, misbehaving: Callable[[str], Path]) -> None:
    trial = measure(lab, misbehaving("partly")).trial(CELL)
    assert "probe site unchanged: tls_read" in reasons(trial)["site-unchanged"]
    states = {site["name"]: site["state"] for site in trial["attestation"]["after"]["sites"]}
    assert sorted(states.values()) == ["original", "original", "redirected"]


def test_one_site_that_is_refused_loses_all(lab: Lab, misbehaving: Callable[[str], Path]) -> None:
    trial = measure(lab, misbehaving("refuses")).trial(CELL)
    unchanged = reasons(trial)["site-unchanged"]
    assert "probe site unchanged: tls_read" in unchanged
    assert "GUM_ATTACH_WRONG_SIGNATURE" in unchanged
    states = {site["state"] for site in trial["attestation"]["after"]["sites"]}
    assert states == {"original"}
    assert trial["attestation"]["after"]["agents"] != []


@pytest.mark.parametrize(
    ("word", "code", "text"),
    [
        ("attach-fails", "attach-failed", "exit code 3, last line: stand-in: Failed to inject"),
        ("attach-hangs", "attach-failed", "bpftime attach did not end within 3 s"),
        ("no-shm", "no-shared-memory", "is not there after 3 s"),
        ("aborts", "server-died", "SIGABRT, last line: stand-in agent: unexpected return pc"),
        ("segfaults", "server-died", "SIGSEGV, last line: stand-in agent: unexpected return pc"),
        ("breaks-later", "server-died", "exit code 2, SIGILL: illegal instruction, last line: "),
    ],
)
def test_it_is_told_and_the_next_trial_goes_on(
    lab: Lab, misbehaving: Callable[[str], Path], word: str, code: str, text: str
) -> None:
    only = "server=https,mode=userspace-uprobe,mode=none"
    prefix = misbehaving(word)
    outcome = measure(lab, prefix, "blocks=2", only=only, attached_timeout_s=3.0)
    told = [trial for trial in outcome.trials if trial["cell"]["id"] == CELL]
    assert len(told) == 2
    for trial in told:
        assert list(reasons(trial)) == [code]
        assert text in reasons(trial)[code]
    others = [trial for trial in outcome.trials if trial["cell"]["id"] != CELL]
    assert [trial["verdict"]["valid"] for trial in others] == [True, True]


def test_a_tracer_that_dies_in_mid_trial(lab: Lab, standin: Path) -> None:
    started = lab.start(*standin_settings(lab, standin), "load.duration_s=2", only=HTTPS)
    started.wait_for_step("measure")
    started.child("load")
    send(started.child("tracer"), "SIGKILL")
    (trial,) = started.finish().trials
    assert "SIGKILL" in reasons(trial)["tracer-died"]


def test_a_bystander_is_attached_too(
    lab: Lab, misbehaving: Callable[[str], Path], programs: Path, start_server: StartServer
) -> None:
    bystander = start_server("https", binary=programs / "bin" / "go-server")
    trial = measure(lab, misbehaving("everybody")).trial(CELL)
    assert f"is in go-server (pid {bystander.pid}), too" in reasons(trial)["bystander"]


def test_a_daemon_that_the_kernel_refuses(lab: Lab, misbehaving: Callable[[str], Path]) -> None:
    settings = standin_settings(lab, misbehaving("daemon-refused"))
    outcome = start_by_daemon(lab, *settings).finish()
    (trial,) = outcome.trials
    assert list(reasons(trial)) == ["daemon-died"]
    assert "cannot use helper bpf_probe_write_user" in reasons(trial)["daemon-died"]


@pytest.mark.parametrize("mode", ["none", "tracer-only"])
def test_an_agent_in_a_server_that_should_have_none(
    lab: Lab, misbehaving: Callable[[str], Path], mode: str
) -> None:
    prefix = misbehaving("agent-only")
    started = lab.start("load.duration_s=2", only=f"server=https,mode={mode}")
    started.wait_for_step("measure")
    started.child("load")
    run_bpftime(prefix, "attach", str(started.child("server")))
    (trial,) = started.finish().trials
    assert "a userspace tracing agent is in the server" in reasons(trial)["bytes"]


# ---- the whitelist -----------------------------------------------------------------------------


def build_server(source: Path, prefix: Path, *flags: str) -> Path:
    """Build go-server anew; out: the prefix that holds it."""
    command = [*GO_BUILD, *flags, "-o", str(prefix / "bin" / "go-server"), "."]
    built = subprocess.run(
        command,
        cwd=source,
        env={**os.environ, "CGO_ENABLED": "1"},
        check=False,
        capture_output=True,
    )
    assert built.returncode == 0, built.stderr
    return prefix


def test_the_whitelist_follows_a_server_that_was_built_anew(
    lab: Lab, standin: Path, tmp_path: Path, readable_folder: Path
) -> None:
    shutil.copytree(ROOT / "servers", tmp_path / "servers")
    source = tmp_path / "servers" / "https"
    (source / "more.go").write_text('package main\n\nimport _ "archive/zip"\n')
    lists = []
    settings = standin_settings(lab, standin)
    for prefix in (lab.prefixes["servers"], build_server(source, readable_folder / "anew")):
        lab.prefixes["servers"] = str(prefix)
        lab.write_manifest()
        outcome = start_by_daemon(lab, *settings, "warm_up_s=0").finish()
        (trial,) = outcome.trials
        assert_placed(trial)
        listed = trial["runtime"]["whitelist"]
        binary = Path(prefix, "bin", "go-server")
        digest = subprocess.run(["sha256sum", binary], check=True, capture_output=True, text=True)
        assert listed["sha256"] == digest.stdout.split()[0]
        assert listed["binary"] == str(binary)
        table = elf.symbols(binary, ["runtime.casgstatus"])["runtime.casgstatus"]
        assert int(listed["offsets"]["casgstatus"], 16) == table.offset
        lists.append(listed)
    assert set(lists[0]["offsets"]) == set(lists[1]["offsets"]) == ENTRIES
    assert not set(lists[0]["offsets"].values()) & set(lists[1]["offsets"].values())


# ---- what a crash leaves -----------------------------------------------------------------------


@pytest.fixture
def somebodys() -> Iterator[list[Path]]:
    """Shared memory of another program, under names as ours and as bpftime's own."""
    paths = [Path("/dev/shm/uplab-0123456789abcdef"), Path("/dev/shm/bpftime_maps_shm")]
    for path in paths:
        path.touch(exist_ok=False)
    yield paths
    for path in paths:
        path.unlink()


@pytest.mark.parametrize("loader", ["syscall-server", "daemon"])
@pytest.mark.parametrize("step", ["attach", "attached", "measure"])
def test_a_run_that_is_interrupted_leaves_nothing(
    lab: Lab, standin: Path, step: str, loader: str
) -> None:
    settings = standin_settings(lab, standin)
    by_daemon = loader == "daemon"
    started = start_by_daemon(lab, *settings) if by_daemon else lab.start(*settings, only=HTTPS)
    started.wait_for_step(step)
    pids = list(started.children().values())
    started.running.process.send_signal(signal.SIGINT)
    outcome = started.finish()
    assert outcome.code == 130
    assert outcome.trials == []
    assert wait_gone(pids, 5.0) == []
    assert noted(lab) == []


def noted(lab: Lab) -> list[str]:
    """The files that hostside knows to be its own."""
    paths: list[str] = json.loads((lab.state / "leftovers.json").read_text())
    return paths


def test_a_run_that_was_killed_is_cleaned_up_by_the_next_one(
    lab: Lab, standin: Path, somebodys: list[Path]
) -> None:
    settings = standin_settings(lab, standin)
    started = lab.start(*settings, only=HTTPS)
    started.wait_for_step("measure")
    load = started.child("load")
    pids = [*started.children().values(), load]
    ours = noted(lab)
    assert [Path(path).parent for path in ours] == [Path("/dev/shm")] * 2 + [Path("/tmp")]
    started.running.process.send_signal(signal.SIGKILL)
    started.finish_reading()
    started.running.finish()
    assert wait_gone(pids, 5.0) == []
    assert all(Path(path).exists() for path in ours)
    again = lab.measure(*settings, only=HTTPS)
    assert_placed(again.trial(CELL))
    (removed,) = [event["files"] for event in again.events if event["event"] == "leftovers-removed"]
    assert removed == ours
    assert not any(Path(path).exists() for path in ours)
    assert all(path.exists() for path in somebodys)
    assert noted(lab) == []


# ---- the stand-in itself -----------------------------------------------------------------------


class ByHand:
    """The stand-in tracer and the stand-in for bpftime on one server, without hostside."""

    def __init__(self, prefix: Path, server: Server, gotrace: Path, sites: set[str]) -> None:
        self.prefix, self.server = prefix, server
        command = [str(STANDINS / "bpftime" / "tracer.py"), "--pid", str(server.pid)]
        command += ["--gotrace", str(gotrace / "gotrace"), "--userspace", ",".join(sorted(sites))]
        command += ["--preload", str(prefix / "libbpftime-syscall-server.so")]
        environment = {**os.environ, **BY_HAND, "PYTHONPATH": str(ROOT)}
        self.tracer = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, text=True, stderr=subprocess.PIPE
        )
        self.sites = self.read()["sites"]

    def read(self) -> dict[str, Any]:
        assert self.tracer.stdout is not None
        line = self.tracer.stdout.readline()
        assert line, self.tracer.communicate()[1]
        message: dict[str, Any] = json.loads(line)
        return message

    def hits(self) -> dict[str, int]:
        self.tracer.send_signal(signal.SIGUSR1)
        return {site["name"]: site["hits"] for site in self.read()["sites"]}

    def bytes(self) -> list[bytes]:
        """The first of each site, in the process."""
        found = []
        with Path(f"/proc/{self.server.pid}/mem").open("rb", buffering=0) as memory:
            for site in self.sites:
                # The servers are linked to fixed addresses.
                memory.seek(TEXT_AT + site["offset"])
                found.append(memory.read(1))
        return found

    def bpftime(self, *arguments: str) -> None:
        run_bpftime(self.prefix, *arguments)

    def stop(self) -> None:
        self.tracer.terminate()
        self.tracer.communicate(timeout=10)
        command = [str(self.prefix / "bpftimetool"), "remove"]
        subprocess.run(command, check=True, env={**os.environ, **BY_HAND})
        for mock in Path("/tmp").glob("bpftime-mock.s-*"):
            mock.unlink()


def run_bpftime(prefix: Path, *arguments: str) -> None:
    command = [str(prefix / "bpftime"), "-i", str(prefix), *arguments]
    subprocess.run(command, check=True, env={**os.environ, **BY_HAND}, capture_output=True)


TEXT_AT = 0x400000
BY_HAND = {"BPFTIME_GLOBAL_SHM_NAME": f"uplab-by-hand-{os.getpid()}", "BPFTIME_SHM_MEMORY_MB": "1"}
IN_ENVIRONMENT = ["env", *(f"{name}={value}" for name, value in BY_HAND.items())]


@pytest.fixture
def by_hand(
    standin: Path, start_server: StartServer, gotrace_binaries: Path
) -> Iterator[Callable[..., ByHand]]:
    """A function from a kind of server and site names to the stand-ins on it, not yet attached."""
    started: list[ByHand] = []

    def start(kind: str, sites: set[str]) -> ByHand:
        server = start_server(kind, prefix=IN_ENVIRONMENT)
        started.append(ByHand(standin, server, gotrace_binaries, sites))
        return started[-1]

    yield start
    for one in started:
        one.stop()


def run_wrk(url: str, duration_s: int) -> int:
    """Load a server by 20 connections; out: the requests that were answered, all without error."""
    command = ["wrk", "-t1", "-c20", f"-d{duration_s}s", url]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Socket errors" not in text, text
    found = re.search(r"(\d+) requests in", text)
    assert found, text
    return int(found[1])


@pytest.mark.parametrize("kind", ["https", "http"])
def test_it_counts_every_hit_and_the_server_lives(
    by_hand: Callable[..., ByHand], kind: str
) -> None:
    one = by_hand(kind, ENTRIES)
    assert b"\xe9" not in one.bytes()
    for _ in range(2):
        one.bpftime("attach", str(one.server.pid))
        assert one.bytes() == [b"\xe9"] * 3
    requests = run_wrk(one.server.url, 3)
    hits = one.hits()
    encrypted = kind == "https"
    assert hits["tls_read"] == pytest.approx(2 * requests * encrypted, rel=0.02)
    assert hits["tls_write"] == pytest.approx(requests * encrypted, rel=0.02)
    assert hits["casgstatus"] > 2 * requests
    assert one.server.process.poll() is None
    one.bpftime("detach")
    assert b"\xe9" not in one.bytes()
    counted = one.hits()
    run_wrk(one.server.url, 1)
    assert one.hits() == counted
    assert one.server.process.poll() is None


def test_it_comes_and_goes_under_load(by_hand: Callable[..., ByHand]) -> None:
    one = by_hand("https", ENTRIES)
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(run_wrk, one.server.url, 3)
        while not load.done():
            one.bpftime("attach", str(one.server.pid))
            assert one.bytes() == [b"\xe9"] * 3
            one.bpftime("detach")
            assert b"\xe9" not in one.bytes()
        assert load.result() > 0
    assert one.server.process.poll() is None
    assert min(one.hits().values()) > 0


def test_load_passes_on_how_the_tracer_ended(standin: Path) -> None:
    shared = Path("/dev/shm", BY_HAND["BPFTIME_GLOBAL_SHM_NAME"])
    script = f"test $(stat -c %s {shared}) = 1048576 && exit 7"
    command = [str(standin / "bpftime"), "-i", str(standin), "load", "/bin/sh", "-c", script]
    environment = {**os.environ, **BY_HAND}
    assert subprocess.run(command, check=False, env=environment).returncode == 7
    subprocess.run([str(standin / "bpftimetool"), "remove"], check=True, env=environment)
    assert not shared.exists()
    for mock in Path("/tmp").glob("bpftime-mock.s-*"):
        mock.unlink()
