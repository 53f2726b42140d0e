"""Reading a run directory: all of it, nothing beside it, and one clear error for what is wrong."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.runs import Traced, edit_json, make_run
from uplab import checksums, fields, results
from uplab.errors import GateError, UplabError, UsageError
from uplab.hostside import sums
from uplab.hostside.spec import HitsRule
from uplab.measured import DeclaredSite
from uplab.results import load, newest, trial_directory


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", servers=("https",), blocks=2)


def first_trial(run_dir: Path) -> Path:
    return sorted((run_dir / "trials").iterdir())[0] / "trial.json"


def edit_trial(run_dir: Path, **changes: Any) -> None:
    edit_json(first_trial(run_dir), **changes)
    sums.write(run_dir)


def test_a_run_is_read_whole(run_dir: Path) -> None:
    run = load(run_dir)
    assert run.verified
    assert (run.host, run.matrix_name, run.seed, run.blocks) == ("local", "seed", 20231104, 2)
    assert run.provenance == "synthetic"
    assert [trial.number for trial in run.trials] == list(range(1, 9))
    assert {cell.cell.mode for cell in run.cells} == {
        "none",
        "none-again",
        "tracer-only",
        "kernel-uprobe",
    }
    assert run.fingerprint_before["kernel"]["release"] == "6.18.5"
    assert [cost.ns_per_hit for cost in run.hit_costs] == [640.1, 410.0, 5200.0, 12300.5, 180.0]
    assert run.loops == {"wrk": "closed"}
    kernel = run.declared["https-kernel-uprobe-gotrace-12B"]
    assert list(kernel.sites) == ["casgstatus", "tls_write", "tls_read"]
    assert kernel.sites["tls_read"] == DeclaredSite("kernel", HitsRule(1, 2.1, 10))
    assert kernel.events == HitsRule(1, 1, 5)


def test_a_userspace_cell_is_read_with_how_it_was_traced(tmp_path: Path) -> None:
    traced = Traced("hybrid", "daemon", {"jit": False}, "daemon-nojit")
    modes = ("none", "userspace-uprobe")
    run = load(make_run(tmp_path / "run", modes=modes, traced=(traced,), blocks=1))
    trial = next(t for t in run.trials if t.cell.mode == "userspace-uprobe")
    assert (trial.cell.loader, trial.cell.placement) == ("daemon", "hybrid")
    assert (trial.cell.runtime["jit"], trial.cell.runtime["shm_mb"]) == (False, 50)
    assert trial.hits is not None
    assert {site.name: site.placement for site in trial.hits.sites} == {
        "casgstatus": "userspace",
        "tls_write": "kernel",
        "tls_read": "kernel",
    }
    assert trial.hits.by_name["casgstatus"] == next(site.hits for site in trial.hits.sites)


def test_a_run_of_an_earlier_uplab_is_read_as_far_as_it_says(run_dir: Path) -> None:
    edit_json(run_dir / "run.json", loads=..., declared=...)
    for path in run_dir.glob("trials/*/trial.json"):
        document = json.loads(path.read_text())
        del document["cell"]["runtime"]
        for site in (document["hits"] or {}).get("sites", []):
            del site["placement"]
        edit_json(path, cell=document["cell"], hits=document["hits"])
    sums.write(run_dir)
    run = load(run_dir)
    assert (run.loops, run.declared) == ({}, {})
    assert all(trial.cell.runtime == {} for trial in run.trials)
    places = {site.placement for trial in run.trials if trial.hits for site in trial.hits.sites}
    assert places == {None}


def test_what_the_kernel_cannot_count_is_missing_not_zero(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", modes=("userspace-uprobe",), servers=("https",), blocks=1)
    hits = json.loads(first_trial(run_dir).read_text())["hits"]
    hits |= {"counted": "by the kernel, in the warm-up", "warm_up_requests": 100}
    hits["by_name"]["casgstatus"] = {"hits": 0, "per_request": 0.0}
    edit_trial(run_dir, hits=hits)
    (trial,) = load(run_dir).trials
    assert trial.hits is not None
    assert sorted(trial.hits.by_name) == ["tls_read", "tls_write"]
    in_userspace = [site for site in trial.hits.sites if site.placement == "userspace"]
    assert [(site.name, site.hits_per_request) for site in in_userspace] == [("casgstatus", None)]


def test_a_measurement_of_hit_cost_that_failed_as_a_whole_is_read(run_dir: Path) -> None:
    """The host writes no class where the program ended before it could name one."""
    edit_json(run_dir / "run.json", hit_cost=[{"tracer": "gotrace", "error": "exit code 1"}])
    sums.write(run_dir)
    (cost,) = load(run_dir).hit_costs
    assert (cost.instruction_class, cost.error) == (None, "exit code 1")


def test_a_trial_is_read_with_its_figures(run_dir: Path) -> None:
    run = load(run_dir)
    trial = next(t for t in run.trials if t.cell.mode == "kernel-uprobe")
    assert trial.load is not None
    assert trial.load.requests_per_s == pytest.approx((trial.load.requests or 0) / 10.06)
    assert trial.load.socket_errors == {"connect": 0, "read": 0, "write": 0, "timeout": 0}
    assert trial.cpu is not None
    assert trial.cpu.cores == 2
    assert trial.hits is not None
    assert trial.hits.per_request_by_name == {"casgstatus": 13, "tls_write": 1, "tls_read": 2}
    assert trial.attestation_grade == "proven"
    assert (trial_directory(run, trial) / "load.hist").is_file()


def test_unknown_fields_are_ignored(run_dir: Path) -> None:
    edit_trial(run_dir, something_new={"a": 1})
    assert load(run_dir).verified


def test_parts_that_were_not_measured_are_none(run_dir: Path) -> None:
    edit_trial(run_dir, load=None, cpu=None, hits=None, attestation=None)
    trial = load(run_dir).trials[0]
    assert (trial.load, trial.cpu, trial.hits, trial.attestation_grade) == (None, None, None, None)


def test_not_a_number_is_a_missing_figure(run_dir: Path) -> None:
    text = first_trial(run_dir).read_text()
    document = json.loads(text)
    document["load"]["requests_per_s"] = float("nan")
    document["load"]["elapsed_s"] = float("inf")
    first_trial(run_dir).write_text(
        json.dumps(document).replace('"wall_s": 12.4', '"wall_s": 1e999')
    )
    sums.write(run_dir)
    trial = load(run_dir).trials[0]
    assert trial.load is not None
    assert (trial.load.requests_per_s, trial.load.elapsed_s, trial.wall_s) == (None, None, None)


# ------------------------------------------------------------------------------------- SHA256SUMS


def test_the_sums_are_read_by_sha256sum(run_dir: Path) -> None:
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"],
        cwd=run_dir,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_derived_report_is_not_vouched_for(run_dir: Path) -> None:
    (run_dir / "report").mkdir()
    (run_dir / "report" / "report.md").write_text("derived")
    assert load(run_dir).verified
    assert "report/" not in (run_dir / "SHA256SUMS").read_text()


def test_each_changed_missing_and_extra_file_is_named(run_dir: Path) -> None:
    trial = first_trial(run_dir).parent
    (trial / "load.txt").write_text("better figures")
    (trial / "server.log").unlink()
    (run_dir / "notes.txt").write_text("extra")
    inside = trial.relative_to(run_dir)
    found = [f"changed: {inside}/load.txt", f"missing: {inside}/server.log", "extra: notes.txt"]
    assert checksums.differences(run_dir) == found
    with pytest.raises(GateError) as error:
        load(run_dir)
    assert all(line in error.value.message for line in found)
    assert "--unverified" in error.value.message


def test_a_changed_run_is_read_on_demand_and_says_so(run_dir: Path) -> None:
    (run_dir / "events.jsonl").write_text("changed\n")
    run = load(run_dir, strict=False)
    assert not run.verified
    assert run.not_verified_because == ("changed: events.jsonl",)


def test_many_differences_are_counted(run_dir: Path) -> None:
    for number in range(30):
        (run_dir / f"extra-{number:02d}").write_text("")
    with pytest.raises(GateError, match="and 10 more"):
        load(run_dir)


@pytest.mark.parametrize("outcome", ["running", "interrupted", "failed"])
def test_an_unfinished_run_without_sums_is_read_and_flagged(run_dir: Path, outcome: str) -> None:
    (run_dir / "SHA256SUMS").unlink()
    edit_json(run_dir / "run.json", outcome=outcome, ended_utc=None)
    run = load(run_dir)
    assert not run.verified
    assert run.not_verified_because == (f"no SHA256SUMS (the run is {outcome})",)


def test_a_finished_run_without_sums_is_refused(run_dir: Path) -> None:
    (run_dir / "SHA256SUMS").unlink()
    with pytest.raises(GateError, match="nothing vouches"):
        load(run_dir)
    assert not load(run_dir, strict=False).verified


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0" * 64 + "  ../../etc/passwd", "leads outside"),
        ("0" * 64 + "  /etc/passwd", "leads outside"),
        ("0" * 64 + "  trials/../../x", "leads outside"),
        ("abc  run.json", "line 1: expected"),
        ("0" * 64 + "  a\n" + "0" * 64 + "  a", "line 2: a is listed twice"),
    ],
)
def test_malformed_sums_are_refused(run_dir: Path, line: str, reason: str) -> None:
    (run_dir / "SHA256SUMS").write_text(line + "\n")
    with pytest.raises(UsageError, match=reason):
        load(run_dir)


def test_an_unfinished_trial_is_left_out(run_dir: Path) -> None:
    (run_dir / "trials" / ".part-0009-x").mkdir()
    (run_dir / "trials" / ".part-0009-x" / "server.log").write_text("")
    assert len(load(run_dir).trials) == 8
    sums.write(run_dir)
    assert ".part-" not in (run_dir / "SHA256SUMS").read_text()


# ------------------------------------------------------------------------------ what leads outside


def test_a_symbolic_link_is_refused(run_dir: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (run_dir / "trials" / "link").symlink_to(secret)
    with pytest.raises(UsageError, match="trials/link is a symbolic link"):
        load(run_dir)


def test_a_linked_trial_is_refused(run_dir: Path, tmp_path: Path) -> None:
    trial = first_trial(run_dir).parent
    shutil.move(trial, tmp_path / "elsewhere")
    trial.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is a symbolic link"):
        load(run_dir)


def test_a_fifo_is_refused_and_not_waited_for(run_dir: Path) -> None:
    os.mkfifo(run_dir / "pipe")
    with pytest.raises(UsageError, match="pipe is neither"):
        load(run_dir)


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31mb", "a\\b"])
def test_a_name_with_control_characters_is_refused(run_dir: Path, name: str) -> None:
    (run_dir / name).write_text("")
    with pytest.raises(UsageError, match="control character") as error:
        load(run_dir)
    assert "\x1b" not in error.value.message


# ------------------------------------------------------------------------------------ wrong content


Change = Callable[[Path], None]
NONE_DECLARED = {"minimum": 0, "maximum": 0, "per_connection": 0}


def in_run(**changes: Any) -> Change:
    return lambda run_dir: edit_json(run_dir / "run.json", **changes)


def in_trial(**changes: Any) -> Change:
    return lambda run_dir: edit_json(first_trial(run_dir), **changes)


def raw(content: bytes) -> Change:
    def change(run_dir: Path) -> None:
        (run_dir / "run.json").write_bytes(content)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (raw(b"{"), "run/run.json is not valid JSON"),
        (raw(b"[]"), r"expected an object, got \[\]"),
        (raw(b"\xff"), "not UTF-8"),
        (raw(b'{"a":' * 100_000), "not valid JSON"),
        (raw(b'{"seed":' + b"9" * 5000 + b"}"), "not valid JSON"),
        (in_run(schema=2), "schema 2, this uplab reads 1"),
        (in_run(schema=True), "schema True"),
        (in_run(schema=...), "schema None"),
        (in_run(host=...), "`host` is missing, expected a text"),
        (in_run(host=7), "`host` must be a text, got 7"),
        (in_run(seed=-1), "`seed` must be a whole number of at least 0"),
        (in_run(seed=True), "`seed` must be"),
        (in_run(seed=2**65), "`seed` must be"),
        (in_run(outcome="great"), "`outcome` must be complete or"),
        (in_run(cells={}), "`cells` must be a list"),
        (in_run(cells=[1]), r"cells\[0\]: expected an object"),
        (in_run(matrix=None), "matrix: expected an object"),
        (in_run(error=1), "`error` must be a text or null"),
        (in_run(pins=[]), "`pins` must be an object"),
        (in_trial(schema=2), "schema 2"),
        (in_trial(trial="0001-other"), "`trial` must be the directory's name"),
        (in_trial(plan_sha256="d" * 64), "another plan"),
        (in_trial(block=0), "`block` must be"),
        (in_trial(cell=...), "cell: expected an object, got None"),
        (in_trial(verdict={}), "verdict: `valid` is missing, expected true or false"),
        (in_trial(verdict={"valid": 1}), "`valid` must be true or false"),
        (in_trial(verdict={"valid": True, "flags": [1]}), "`flags` must be a list of texts"),
        (in_trial(verdict={"valid": False, "reasons": [{}]}), "`code` is missing"),
        (in_trial(load={"requests_per_s": "fast"}), "`requests_per_s` must be a number"),
        (in_trial(load={"requests": 1.5}), "`requests` must be a whole number"),
        (in_trial(cpu=[]), "cpu: expected an object"),
        (in_trial(hits={"by_name": {"x": 1}}), "by_name.x: expected an object"),
        (in_trial(position=2**70), "`position` must be"),
        (in_run(loads={"wrk": {"loop": "round"}}), "`loop` must be closed or open"),
        (in_run(declared={"c": {"sites": [{}]}}), "`name` is missing"),
        (in_run(declared={"c": {"events": {"minimum": 2, "maximum": 1}}}), "`minimum` must be"),
        (in_run(declared={"c": {"events": {"minimum": None}}}), "`minimum` must be"),
        (
            in_run(declared={"c": {"events": dict(NONE_DECLARED, per_connection=-1)}}),
            "`per_connection` must be",
        ),
    ],
)
def test_wrong_content_is_one_error_with_its_place(
    run_dir: Path, change: Change, reason: str
) -> None:
    change(run_dir)
    sums.write(run_dir)
    with pytest.raises(UsageError, match=reason):
        load(run_dir)


def test_two_meanings_of_one_cell_are_an_error(run_dir: Path) -> None:
    document = json.loads(first_trial(run_dir).read_text())
    edit_trial(run_dir, cell=document["cell"] | {"body_bytes": 13})
    with pytest.raises(UsageError, match="the same as in the other trials"):
        load(run_dir)


def test_a_directory_that_is_no_trial_is_an_error(run_dir: Path) -> None:
    (run_dir / "trials" / "0009-x").mkdir()
    with pytest.raises(UsageError, match="0009-x is not a trial"):
        load(run_dir)


def test_oversized_documents_are_refused(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "MAX_JSON_BYTES", 100)
    with pytest.raises(UsageError, match=r"run.json is larger than 100 bytes"):
        load(run_dir)


def test_too_many_trials_are_refused(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "MAX_TRIALS", 7)
    with pytest.raises(UsageError, match="holds 8 trials, at most 7"):
        load(run_dir)


def test_too_many_files_are_refused(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "MAX_FILES", 7)
    with pytest.raises(UsageError, match="at most 7 are read"):
        load(run_dir)


def test_what_is_no_run_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Run: invoke bench\.all"):
        load(tmp_path / "absent")
    with pytest.raises(UsageError, match=r"holds no run\.json"):
        load(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


def message_of(act: Callable[[], object]) -> str:
    """What an act says when it fails in the one way it may."""
    try:
        act()
    except UplabError as error:
        return error.message
    return ""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_no_change_of_a_field_ends_in_a_traceback(run_dir: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from([run_dir / "run.json", first_trial(run_dir)]))
    original = path.read_bytes()
    document = json.loads(original)
    place: Any = document
    key = data.draw(st.sampled_from(sorted(place)))
    while isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place)))
    place[key] = data.draw(JSON)
    path.write_text(json.dumps(document))
    try:
        said = message_of(lambda: load(run_dir, strict=False))
    finally:
        path.write_bytes(original)
    assert "\n" not in said


# ---------------------------------------------------------------------------------------- newest


def test_the_newest_run_is_the_last_by_time(tmp_path: Path) -> None:
    for name in ("20261122T131751Z-a-seed", "20261123T010000Z-a-seed", ".part-9", "notes"):
        (tmp_path / name).mkdir()
    for name in ("20261122T131751Z-a-seed", "20261123T010000Z-a-seed", ".part-9"):
        (tmp_path / name / "run.json").write_text("{}")
    assert newest(tmp_path).name == "20261123T010000Z-a-seed"


@pytest.mark.parametrize("name", ["", "absent"])
def test_no_run_at_all_says_what_to_do(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"no run in .* Run: invoke bench\.all"):
        newest(tmp_path / name)
