"""uplab/hostside/doctor.py: can a cell run here, by the host's own answers."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from uplab.hostside import doctor, serveruser
from uplab.hostside.doctor import AVAILABLE, NOT_APPLICABLE, NOT_AVAILABLE, judge, unmet
from uplab.hostside.spec import (
    Adapters,
    Cell,
    FileRef,
    LoadAdapter,
    ModeSpec,
    Parameter,
    Placing,
    RuntimeOptions,
    ServerAdapter,
    Site,
    TracerAdapter,
)
from uplab.hostside.store import Store

ROOT = Path(__file__).parents[3]
SERVER = ServerAdapter(
    1, "server", "s", "", ("{p}",), "http://127.0.0.1:{port}/", "ready", traits=("go",)
)
TRACER = TracerAdapter(
    1,
    "tracer",
    "t",
    "",
    ("{p}",),
    modes={"tracer-only": ModeSpec(), "userspace-uprobe": ModeSpec(needs=("component:agent",))},
    needs_traits=("go",),
    programs={"p": FileRef(component="tracer", file="bin/t")},
)
DURATION = {"duration_s": Parameter(1, 1, 9, "s", "how long")}
LOAD = LoadAdapter(1, "load", "l", "", "closed", ("{p}",), "adapter.py", parameters=DURATION)
CELL = Cell("s-tracer-only-t-12B", "s", "tracer-only", "t", 12, "l", {"duration_s": 1})
UNTRACED = replace(CELL, id="s-none-12B", mode="none", tracer=None)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The tracer is installed, the agent is not."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "t").write_text("")
    return Store(tmp_path, {"components": {"tracer": {"prefix": str(tmp_path)}}})


def adapters(
    server: ServerAdapter = SERVER, tracer: TracerAdapter = TRACER, load: LoadAdapter = LOAD
) -> Adapters:
    return Adapters({"s": server}, {"t": tracer}, {"l": load})


def test_a_cell_with_all_its_parts_is_available(store: Store) -> None:
    assert judge(CELL, adapters(), store) == (AVAILABLE, None)
    assert judge(UNTRACED, adapters(), store) == (AVAILABLE, None)


def test_a_server_without_the_tracer_s_traits_is_not_applicable(store: Store) -> None:
    plain = replace(SERVER, traits=("c",))
    assert judge(CELL, adapters(plain), store) == (
        NOT_APPLICABLE,
        "t needs a server that is go",
    )
    assert judge(UNTRACED, adapters(plain), store) == (AVAILABLE, None)


def test_a_mode_that_the_tracer_does_not_offer_is_not_applicable(store: Store) -> None:
    cell = replace(CELL, mode="kernel-uprobe")
    assert judge(cell, adapters(), store) == (NOT_APPLICABLE, "t does not offer kernel-uprobe")


def test_a_component_that_is_not_there_is_named(store: Store) -> None:
    cell = replace(CELL, mode="userspace-uprobe")
    assert judge(cell, adapters(), store) == (
        NOT_AVAILABLE,
        f"no agent on this host (no such component in {store.root})",
    )


def test_every_missing_program_is_named_once(store: Store) -> None:
    (store.root / "bin" / "t").unlink()
    load = replace(LOAD, programs={"p": FileRef(component="l", file="x")})
    server = replace(
        SERVER, programs={"p": FileRef(path="/nothing"), "q": FileRef(path="/nothing")}
    )
    status, reason = judge(CELL, adapters(server, load=load), store)
    assert status == NOT_AVAILABLE
    assert reason == (
        f"/nothing is missing; l is not installed (no such component in {store.root}); "
        f"{store.root}/bin/t is missing"
    )


def test_the_tracer_s_parts_do_not_matter_without_tracing(store: Store) -> None:
    (store.root / "bin" / "t").unlink()
    assert judge(UNTRACED, adapters(), store) == (AVAILABLE, None)


def test_a_port_in_use_is_told_with_its_owner(store: Store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        cell = replace(UNTRACED, server_parameters={"port": port})
        status, reason = judge(cell, adapters(), store)
    assert status == NOT_AVAILABLE
    assert reason is not None
    assert reason.startswith(f"port {port} is in use by ")
    assert f"(pid {os.getpid()})" in reason
    assert judge(cell, adapters(), store) == (AVAILABLE, None)


def test_an_unknown_need_is_told_with_the_known_ones(store: Store) -> None:
    assert unmet("magic", store) == (
        "the adapter needs 'magic', which is none of "
        "bpf, bpftime-daemon, btf, root, tracefs, uprobes"
    )


@pytest.mark.parametrize("need", ["root", "bpf", "btf", "uprobes", "tracefs"])
def test_what_this_machine_has_is_met(need: str, store: Store) -> None:
    """BPF and uprobes work where these tests run; `root` is why they can look."""
    evidence = {
        "root": os.geteuid() == 0,
        "bpf": os.geteuid() == 0,
        "btf": Path("/sys/kernel/btf/vmlinux").exists(),
        "uprobes": Path("/sys/bus/event_source/devices/uprobe").exists(),
        "tracefs": "\ttracefs\n" in Path("/proc/filesystems").read_text(),
    }
    assert (unmet(need, store) is None) == evidence[need]


def test_without_root_it_says_so_and_the_kernel_refuses_bpf() -> None:
    program = (
        "import json, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\n"
        "from uplab.hostside import doctor\n"
        "from uplab.hostside.spec import *\n"
        "from uplab.hostside.store import Store\n"
        "store = Store(Path('/nowhere'))\n"
        "server = ServerAdapter(1, 'server', 's', '', ('p',), 'http://h/', '')\n"
        "duration = {'duration_s': Parameter(1, 1, 9, 's', '')}\n"
        "load = LoadAdapter(1, 'load', 'l', '', 'closed', ('p',), 'a', parameters=duration)\n"
        "cell = Cell('c', 's', 'none', None, 12, 'l', {}, {'port': 1023})\n"
        "judged = doctor.judge(cell, Adapters({'s': server}, {}, {'l': load}), store)\n"
        "print(json.dumps([doctor.unmet('root', store), doctor.unmet('bpf', store), judged]))\n"
    )
    argv = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]
    argv += ["/usr/bin/python3", "-I", "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd="/")
    root, bpf, judged = json.loads(done.stdout)
    assert root == "not root on this host"
    restricted = Path("/proc/sys/kernel/unprivileged_bpf_disabled").read_text().strip() != "0"
    assert bpf == ("the kernel refuses BPF programs (EPERM)" if restricted else None)
    assert judged == [NOT_AVAILABLE, "port 1023: not root on this host"]


def test_a_bpf_program_that_was_tried_is_not_left_loaded(store: Store) -> None:
    before = set(os.listdir("/proc/self/fd"))
    assert doctor.need_bpf(store) is None or sys.platform != "linux"
    assert set(os.listdir("/proc/self/fd")) == before


# --- userspace cells ------------------------------------------------------------------------------

USERSPACE = ModeSpec(placement="userspace", placements={"all": Placing(userspace=("a",))})
IN_USERSPACE = replace(
    TRACER,
    modes={"userspace-uprobe": USERSPACE},
    sites=(Site("a", "a", "entry", ()),),
)
BPFTIME = ("bpftime", "bpftime_daemon", "libbpftime-agent.so", "libbpftime-syscall-server.so")


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files by the names of bpftime's programs."""
    # pytest's folders keep everybody out.
    monkeypatch.setattr(serveruser, "locked_out", lambda _path: None)
    folder = tmp_path / "prefix"
    folder.mkdir()
    for name in BPFTIME:
        (folder / name).write_text("")
    return folder


def in_userspace(prefix: Path | str, **changes: Any) -> Cell:
    options = RuntimeOptions(bpftime_prefix=str(prefix))
    changes = {"placement": "all", "loader": "syscall-server", "runtime": options, **changes}
    return replace(CELL, mode="userspace-uprobe", **changes)


def test_a_userspace_cell_with_all_its_parts_is_available(store: Store, prefix: Path) -> None:
    cell = in_userspace(prefix)
    assert judge(cell, adapters(tracer=IN_USERSPACE), store) == (AVAILABLE, None)


def test_without_bpftime_it_says_so(store: Store) -> None:
    status, reason = judge(in_userspace(""), adapters(tracer=IN_USERSPACE), store)
    assert status == NOT_AVAILABLE
    assert reason == f"bpftime is not installed (no such component in {store.root})"


@pytest.mark.parametrize("name", ["bpftime", "libbpftime-agent.so"])
def test_a_prefix_that_lacks_a_program_is_told(name: str, store: Store, prefix: Path) -> None:
    (prefix / name).unlink()
    status, reason = judge(in_userspace(prefix), adapters(tracer=IN_USERSPACE), store)
    assert (status, reason) == (NOT_AVAILABLE, f"{prefix}/{name} is missing")


def test_a_placement_that_the_tracer_does_not_know(store: Store, prefix: Path) -> None:
    cell = in_userspace(prefix, placement="odd")
    assert judge(cell, adapters(tracer=IN_USERSPACE), store) == (
        NOT_APPLICABLE,
        "t has no placement odd (there are: all)",
    )


def test_a_loader_that_the_tracer_does_not_run_under(store: Store, prefix: Path) -> None:
    mode = replace(USERSPACE, loaders=("daemon",))
    tracer = replace(IN_USERSPACE, modes={"userspace-uprobe": mode})
    assert judge(in_userspace(prefix), adapters(tracer=tracer), store) == (
        NOT_APPLICABLE,
        "t does not run under the loader syscall-server",
    )


def test_the_daemon_needs_more_of_the_kernel(store: Store, prefix: Path) -> None:
    """The same answer as the need by itself, whatever this machine's kernel says."""
    cell = in_userspace(prefix, loader="daemon")
    status, reason = judge(cell, adapters(tracer=IN_USERSPACE), store)
    assert reason == unmet("bpftime-daemon", store)
    assert status == (AVAILABLE if reason is None else NOT_AVAILABLE)


def test_no_agent_comes_into_a_static_server(store: Store, prefix: Path, tmp_path: Path) -> None:
    server = replace(SERVER, programs={"p": FileRef(path=str(static_program(tmp_path)))})
    status, reason = judge(in_userspace(prefix), adapters(server, IN_USERSPACE), store)
    assert status == NOT_AVAILABLE
    assert reason == (
        f"{tmp_path}/static is not dynamically linked: bpftime cannot be attached to it"
    )
    dynamic = replace(SERVER, programs={"p": FileRef(path=sys.executable)})
    assert judge(in_userspace(prefix), adapters(dynamic, IN_USERSPACE), store)[0] == AVAILABLE


def test_the_agent_works_as_the_server_s_user(
    store: Store, prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, agent = Path(sys.executable), prefix / "libbpftime-agent.so"
    server = replace(SERVER, programs={"p": FileRef(path=str(program))})
    asking = replace(server, user="root")
    cell = in_userspace(prefix)
    monkeypatch.setattr(serveruser, "locked_out", {program: Path("/root")}.get)
    text = f"bpftime's agent, as the server's own user, cannot reach {program}: /root"
    assert judge(cell, adapters(server, IN_USERSPACE), store) == (NOT_AVAILABLE, text)
    assert judge(cell, adapters(asking, IN_USERSPACE), store)[0] == AVAILABLE
    agent.chmod(0o640)
    status, reason = judge(cell, adapters(server, IN_USERSPACE), store)
    assert status == NOT_AVAILABLE
    assert str(reason).startswith(f"{agent} cannot be read by the server's own user. There, run: ")
    assert judge(cell, adapters(asking, IN_USERSPACE), store)[0] == AVAILABLE


def static_program(folder: Path) -> Path:
    source = folder / "static.c"
    source.write_text("int main(void) { return 0; }")
    argv = ["gcc", "-static", "-o", str(folder / "static"), str(source)]
    subprocess.run(argv, check=True)
    return folder / "static"


# --- tracers that are started to see whether they do ----------------------------------------------


class Refusing:
    """A stand-in for the self-tests that notes whom it was asked about."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def refusal(self, tracer: TracerAdapter) -> str:
        self.asked.append(tracer.name)
        return f"{tracer.name} does not start here: no"


def test_a_tracer_that_does_not_start_is_not_available(store: Store) -> None:
    tests: Any = Refusing()
    refused = (NOT_AVAILABLE, "t does not start here: no")
    assert judge(CELL, adapters(), store, tests) == refused
    assert judge(UNTRACED, adapters(), store, tests) == (AVAILABLE, None)
    assert tests.asked == ["t"]


def test_a_tracer_is_not_started_where_something_else_is_missing(store: Store) -> None:
    (store.root / "bin" / "t").unlink()
    tests: Any = Refusing()
    judge(CELL, adapters(), store, tests)
    assert tests.asked == []


def test_a_server_that_gets_no_user_of_its_own_is_not_started(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refusal(*, privileged: bool = False) -> str:
        asked.append(privileged)
        return "setpriv: refused"

    monkeypatch.setattr(serveruser, "refusal", refusal)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    reason = "no user of its own for the server: setpriv: refused"
    assert judge(UNTRACED, adapters(), store) == (NOT_AVAILABLE, reason)
    low = replace(UNTRACED, server_parameters={"port": 1})
    monkeypatch.setattr(serveruser, "is_privileged", lambda port: port == 1)
    assert judge(low, adapters(), store) == (NOT_AVAILABLE, reason)
    assert asked == [False, True]
    assert judge(UNTRACED, adapters(replace(SERVER, user="root")), store) == (AVAILABLE, None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert judge(UNTRACED, adapters(), store) == (AVAILABLE, None)
