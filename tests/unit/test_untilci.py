"""uplab/untilci.py and relabel.py: blocks are added until overheads are known, or a cap is met."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests import runs
from tests.unit.test_campaign import host_of, matrix_of
from uplab import (
    attend,
    campaign,
    checksums,
    fleet,
    provision,
    relabel,
    results,
    resume,
    untilci,
)
from uplab.adapters import Registry
from uplab.detached import DetachedRun
from uplab.errors import HostError, InvalidError, UplabError, UsageError
from uplab.hostside import sums
from uplab.hostside.spec import Adapters, Cell, Limits, Plan, Repeat
from uplab.measured import Sequential
from uplab.remote import LocalHost
from uplab.report.model import Report
from uplab.sequential import look
from uplab.untilci import Until, read
from uplab.view import Screen, View

RUN_ID = "20261122T131751Z-local-seed"
MODES = ("none", "none-again", "kernel-uprobe")
TRIAL_S = 12.4


def plan_of(modes: tuple[str, ...] = MODES, **changes: Any) -> Plan:
    """The plan of a synthetic run's cells, six blocks of them."""
    spec = runs.Spec(servers=("https",), modes=modes)
    kept = ("id", "server", "mode", "tracer", "body_bytes", "load", "load_parameters")
    cells = tuple(Cell(**{name: cell[name] for name in kept}) for cell in runs.cells_of(spec))
    made = Plan(
        schema=1,
        run_id=RUN_ID,
        seed=1,
        blocks=6,
        warm_up_s=2,
        plan_sha256=runs.PLAN_SHA256,
        cells=cells,
        limits=Limits(),
        repeat=Repeat(),
        adapters=Adapters({}, {}, {}),
        artifacts={},
        header={"host": "local", "matrix": {"name": "seed"}},
    )
    return replace(made, **changes)


@dataclass
class Lab:
    """A stand-in for a host: its runs have a known truth, its clock is the test's.

    `parts` are the plans that were started; at the part with number `breaks_at` the host is lost.
    """

    folder: Path
    noise: float = 0.02
    invalid: dict[tuple[str, int, int], str] = field(default_factory=dict)
    breaks_at: int | None = None
    breaks_with: BaseException = field(default_factory=lambda: HostError("host local: no answer"))
    parts: list[Plan] = field(default_factory=list)
    now_s: float = 0.0
    host: LocalHost = field(default_factory=lambda: LocalHost("local", Path("no-zipapp")))

    def start(self, _host: LocalHost, made: Plan, _view: View) -> Plan:
        self.parts.append(made)
        if len(self.parts) == self.breaks_at:
            raise self.breaks_with
        return made

    def to_the_end(self, _running: Plan, made: Plan, folder: Path, _view: View) -> Report:
        run_dir = folder / made.run_id
        before = len(list(run_dir.glob("trials/*"))) if run_dir.exists() else 0
        if run_dir.exists():
            shutil.rmtree(run_dir)
        runs.make_run(
            run_dir,
            servers=("https",),
            modes=tuple(cell.mode for cell in made.cells),
            blocks=made.blocks,
            noise=self.noise,
            invalid=self.invalid,
            histogram_buckets=10,
            logs=False,
        )
        runs.edit_json(run_dir / "run.json", sequential=made.header["sequential"])
        sums.write(run_dir)
        self.now_s += TRIAL_S * (len(list(run_dir.glob("trials/*"))) - before)
        return attend.reported(run_dir)

    def measure(self, until: Until, first: Plan | None = None, **more: Any) -> Report:
        host, plan = self.host, first or plan_of()
        return untilci.measure(
            host, plan, self.folder, Screen(), until, clock=lambda: self.now_s, **more
        )

    @property
    def looks(self) -> list[int]:
        return [part.blocks for part in self.parts]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    made = Lab(tmp_path / "results")
    monkeypatch.setattr(attend, "start", made.start)
    monkeypatch.setattr(attend, "to_the_end", made.to_the_end)
    return made


def label_of(report: Report) -> Sequential:
    """What run.json says, read again from the disk and with every digest checked."""
    found = results.load(report.run.path).sequential
    assert found is not None
    return found


# --- what is asked for ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "width_pp"), [("2", 2.0), ("2pp", 2.0), ("1.5pp", 1.5), ("0.25 pp", 0.25)]
)
def test_a_width_is_percentage_points(text: str, width_pp: float) -> None:
    assert read(text) == Until(width_pp, 100, None)


@pytest.mark.parametrize(
    "text", ["", "0", "0pp", "0.0", "-1", "2%", "pp", "nan", "inf", "1e3", "100", "2 p p", "2\n"]
)
def test_what_is_no_width_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"above 0 and below 100, such as 2pp"):
        read(text)


@pytest.mark.parametrize(
    ("most", "minutes", "expected"),
    [
        (5, None, "--max-blocks 5: from 6, where the first look is, to 100000"),
        (-1, None, "--max-blocks -1: from 6"),
        (100_001, None, "--max-blocks 100001: from 6"),
        (None, 0.0, "--max-minutes 0: above 0"),
        (None, -3.0, "--max-minutes -3: above 0"),
        (None, float("nan"), "--max-minutes nan: above 0"),
        (None, float("inf"), "--max-minutes inf: above 0"),
    ],
)
def test_caps_that_make_no_sense_are_refused(
    most: int | None, minutes: float | None, expected: str
) -> None:
    with pytest.raises(UsageError) as caught:
        read("2pp", most, minutes)
    assert caught.value.message.startswith(expected)


def test_flags_that_do_not_go_together_are_refused() -> None:
    assert read(None) is None
    for most, minutes in ((50, None), (None, 5.0)):
        with pytest.raises(UsageError, match=r"^--max-.* belongs to --until-ci, which is not"):
            read(None, most, minutes)
    with pytest.raises(UsageError, match=r"^--detach and --until-ci exclude each other"):
        read("2pp", detach=True)
    with pytest.raises(UsageError, match=r"^--set blocks and --until-ci exclude each other"):
        untilci.first_settings(["load.duration_s=3", "blocks=9"])
    more = resume.Request(Path("no"), "r", more_blocks=2, until=Until(2))
    with pytest.raises(UsageError, match=r"^--more-blocks and --until-ci exclude each other"):
        resume.resume(more)


# --- until it is known ----------------------------------------------------------------------------


def test_what_is_quiet_is_known_at_the_first_look(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    report = lab.measure(Until(10))
    assert lab.looks == [6]
    assert label_of(report) == Sequential(
        half_width_pp=10,
        looks=(6,),
        reached=("https-none-again-12B", "https-kernel-uprobe-gotrace-12B"),
        stopped="every overhead is known that well",
    )
    assert report.run.sequential == label_of(report)
    out = capsys.readouterr().out.splitlines()
    assert out == [
        "adding blocks until every overhead is known to 10pp (half of its 95 % interval), "
        "up to 100 blocks",
        "no earlier run tells how many blocks it takes; the first 6 will",
        "look at 6 blocks: 2 of 2 overheads are known to 10 pp",
        "no further blocks: every overhead is known that well",
    ]


def test_blocks_are_added_until_every_overhead_is_known(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    report = lab.measure(Until(1.5))
    label = label_of(report)
    assert tuple(lab.looks) == label.looks
    assert len(label.looks) > 1
    assert label.not_reached == ()
    widths = {
        cell.cell.cell_id: (cell.overhead_pct.interval.high - cell.overhead_pct.interval.low) / 2
        for _, cell in report.rows()
        if cell.overhead_pct and cell.overhead_pct.interval
    }
    assert set(widths) == set(label.reached)
    assert max(widths.values()) <= 1.5
    out = capsys.readouterr().out
    assert "look at 6 blocks: 1 of 2 overheads are known to 1.5 pp\n" in out
    assert "  https-none-again-12B: " in out
    assert "  blocks to expect: about " in out
    assert f"next look at {label.looks[1]} blocks" in out


def test_a_part_measures_new_blocks_alone_and_carries_the_looks_before_it(lab: Lab) -> None:
    lab.measure(Until(1.5))
    first, second, *_ = lab.parts
    assert first.earlier.skip == ()
    assert (second.run_id, second.plan_sha256) == (first.run_id, first.plan_sha256)
    ids = {cell.id for cell in first.cells}
    assert set(second.earlier.skip) == {f"{b}/{cell}" for b in range(1, 7) for cell in ids}
    assert second.earlier.number == 18
    assert first.header["sequential"]["looks"] == ()
    assert second.header["sequential"]["looks"] == (6,)
    assert second.header["sequential"]["not_reached"] == ("https-none-again-12B",)


def test_blocks_that_were_repeated_count_against_the_cap_of_the_run(lab: Lab) -> None:
    lab.invalid = {("https-none-again-12B", 2, 1): "it died"}
    lab.measure(Until(1.5))
    assert [part.repeat.per_run for part in lab.parts[:2]] == [3, 2]


# --- caps -----------------------------------------------------------------------------------------


def test_the_cap_in_blocks_ends_it_and_says_what_is_not_known(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.noise = 0.3
    report = lab.measure(Until(2, max_blocks=20))
    assert lab.looks == [6, 12, 20]
    label = label_of(report)
    assert label.stopped == "--max-blocks 20"
    assert "https-none-again-12B" in label.not_reached
    assert "no further blocks: --max-blocks 20" in capsys.readouterr().out
    # Every cell has valid trials: that is no error, with exit code 0.
    campaign.conclude(report)
    out = capsys.readouterr().out
    assert "Not known to 2 pp: https-none-again-12B" in " ".join(out.split())


def test_the_cap_in_minutes_ends_it(lab: Lab) -> None:
    lab.noise = 0.3
    block_s = 3 * TRIAL_S
    report = lab.measure(Until(2, max_minutes=(8 * block_s + 1) / 60))
    assert lab.looks == [6, 8]
    assert (label_of(report).stopped or "").startswith("--max-minutes ")


def test_a_cap_that_leaves_no_room_for_a_look_is_refused_before_anything_is_measured(
    lab: Lab,
) -> None:
    with pytest.raises(UsageError) as caught:
        lab.measure(Until(2, max_minutes=2))
    assert caught.value.message == (
        "--max-minutes 2: 6 blocks, before the first look, take about 3 min 43 s"
    )
    assert lab.parts == []


@pytest.mark.parametrize("modes", [("none",), ("none-again", "kernel-uprobe")])
def test_nothing_to_pair_is_refused_before_anything_is_measured(
    lab: Lab, modes: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError, match=r"^--until-ci: no overhead can be paired, because"):
        lab.measure(Until(2), plan_of(modes))
    assert lab.parts == []


def test_a_cell_without_a_valid_trial_is_not_waited_for(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = "https-kernel-uprobe-gotrace-12B"
    lab.invalid = {(broken, block, 1): "it died" for block in range(1, 101)}
    lab.invalid |= {(broken, block, 2): "it died" for block in range(1, 101)}
    lab.invalid |= {(broken, block, 3): "it died" for block in range(1, 101)}
    report = lab.measure(Until(10))
    assert lab.looks == [6]
    label = label_of(report)
    assert (label.reached, label.not_reached) == (("https-none-again-12B",), (broken,))
    assert f"  {broken}: no interval yet, n = 0" in capsys.readouterr().out
    with pytest.raises(InvalidError, match=f"no valid trial of {broken}"):
        campaign.conclude(report)


# --- before it starts -----------------------------------------------------------------------------


def test_a_noisy_host_is_told_before_it_starts(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    """An earlier run of the matrix on this host tells; it had a fixed number of blocks."""
    name = "20260101T000000Z-local-seed"
    runs.make_run(lab.folder / name, servers=("https",), modes=MODES, noise=0.3, blocks=6)
    runs.edit_json(lab.folder / name / "run.json", run_id=name)
    lab.measure(Until(2, max_blocks=6))
    line, warning = capsys.readouterr().out.splitlines()[1:3]
    assert line.startswith(f"by the spread of run {name}: blocks to expect: about ")
    assert 100 < int(line.split("about ")[1].split(", ")[0].replace(",", "")) < 10_000
    assert warning.startswith("that is more than --max-blocks 6, where it ends, known or not. ")


@pytest.mark.parametrize("change", ["host", "load", "damaged"])
def test_a_run_of_something_else_tells_nothing(lab: Lab, change: str) -> None:
    host = "other" if change == "host" else "local"
    run_dir = lab.folder / f"20260101T000000Z-{host}-seed"
    runs.make_run(run_dir, servers=("https",), modes=MODES, blocks=6)
    first = plan_of()
    if change == "load":
        cells = (replace(c, load_parameters={"duration_s": 3}) for c in first.cells)
        first = replace(first, cells=tuple(cells))
    if change == "damaged":
        (run_dir / "run.json").write_text("{")
    said = untilci.foretold(first, lab.folder, Until(2))
    assert said == "no earlier run tells how many blocks it takes; the first 6 will"


def test_more_than_anybody_waits_for_is_not_counted() -> None:
    ratios = {"a": [-1.0, 1.0, -1.0, 1.0, -1.0, 1.0]}
    lines = list(untilci.told(look(ratios, 6, 0.001), 10.0))
    assert lines[-1] == "  blocks to expect: more than 1,000,000, for a"
    assert list(untilci.told(look({"a": [-1.0]}, 6, 2), 10.0))[-1] == (
        "  too few pairs to tell how many blocks it takes"
    )


# --- broken in the middle -------------------------------------------------------------------------


@pytest.mark.parametrize("end", [HostError("host local: no answer"), KeyboardInterrupt()])
def test_an_end_in_the_middle_costs_nothing_that_was_measured(
    lab: Lab, capsys: pytest.CaptureFixture[str], end: BaseException
) -> None:
    lab.breaks_at, lab.breaks_with = 2, end
    with pytest.raises(type(end)):
        lab.measure(Until(1.5))
    run = results.load(lab.folder / RUN_ID)
    assert len(run.trials) == 18
    assert run.sequential is not None
    out = capsys.readouterr().out
    assert out.endswith(f"to go on later, run: invoke bench.resume {RUN_ID} --until-ci 1.5pp\n")
    # Taken up again: nothing is lacking, so it looks at once, and goes on.
    skip = tuple(f"{b}/{cell.id}" for b in range(1, 7) for cell in plan_of().cells)
    earlier = replace(plan_of().earlier, number=18, skip=skip)
    report = lab.measure(Until(1.5), plan_of(earlier=earlier), earlier=run)
    assert lab.looks[:2] == [6, label_of(report).looks[1]]
    assert label_of(report).not_reached == ()
    assert label_of(report).looks[0] == 6 < label_of(report).looks[1]
    again = lab.measure(Until(1.5), lab.parts[-1], earlier=report.run)
    assert label_of(again).looks == label_of(report).looks
    assert len(report.run.trials) == 3 * label_of(report).looks[-1]
    assert f"by the spread of run {RUN_ID}: " in capsys.readouterr().out


def test_an_end_before_anything_is_here_has_no_way_back(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.breaks_at = 1
    with pytest.raises(HostError):
        lab.measure(Until(1.5))
    assert "to go on later" not in capsys.readouterr().out


# --- the label ------------------------------------------------------------------------------------


class PowerCut(Exception):
    """Nothing that comes after it is done."""


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_power_cut_while_the_label_is_written_leaves_a_run_that_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    run_dir = runs.make_run(tmp_path / "run", blocks=1, histogram_buckets=10)
    replace_, done = Path.replace, 0

    def cut(path: Path, target: Path) -> Path:
        nonlocal done
        if done == renames:
            raise PowerCut
        done += 1
        return replace_(path, target)

    label = Sequential(2.0, (6,), ("a",), ("b",), "--max-blocks 6")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", cut)
        if renames < 2:
            with pytest.raises(PowerCut):
                relabel.write(run_dir, label)
        else:
            relabel.write(run_dir, label)
    relabel.finish(run_dir)
    assert checksums.differences(run_dir) == []
    assert results.load(run_dir).sequential == (label if renames else None)
    relabel.write(run_dir, label)
    assert results.load(run_dir).sequential == label
    assert not (run_dir / ".part-labelled-SHA256SUMS").exists()


def test_a_label_that_cannot_be_written_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    run_dir = runs.make_run(tmp_path / "run", blocks=1, histogram_buckets=10)
    (run_dir / ".part-labelled-SHA256SUMS").mkdir()
    with pytest.raises(HostError, match=r"run\.json cannot be written"):
        relabel.write(run_dir, Sequential(2.0))
    assert checksums.differences(run_dir) == []


@pytest.mark.parametrize(
    "label",
    [
        {"half_width_pp": None},
        {"half_width_pp": 0},
        {"half_width_pp": float("inf")},
        {"half_width_pp": 2, "looks": 6},
        {"half_width_pp": 2, "looks": ["6"]},
        {"half_width_pp": 2, "looks": [True]},
        {"half_width_pp": 2, "looks": [-1]},
        {"half_width_pp": 2, "looks": [6], "reached": "a"},
        {"half_width_pp": 2, "looks": [6], "stopped": 6},
        [],
    ],
)
def test_a_forged_label_is_one_error_that_names_its_place(tmp_path: Path, label: Any) -> None:
    run_dir = runs.make_run(tmp_path / "run", blocks=1, histogram_buckets=10)
    runs.edit_json(run_dir / "run.json", sequential=label)
    with pytest.raises(UsageError, match=r"^run/run\.json, sequential: "):
        results.load(run_dir, strict=False)


# --- the whole way, with a real hostside ----------------------------------------------------------


@pytest.fixture
def request_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Until], Any]:
    """Requests of a project in the test's folder, whose host is this machine."""

    def connect(
        _project: Path, name: str, registry: Registry, _chosen: Path | None = None
    ) -> LocalHost:
        return host_of(tmp_path, name, registry)

    monkeypatch.setattr(provision, "connect", connect)
    path = tmp_path / "m.yml"
    path.write_text(matrix_of(blocks=2))

    def request(until: Until) -> campaign.Request:
        return campaign.Request(tmp_path, "local", str(path), setup=False, until=until)

    return request


def test_parts_of_a_real_run_become_one(
    request_: Callable[[Until], campaign.Request], capsys: pytest.CaptureFixture[str]
) -> None:
    """No trial of a few requests is known to a hundredth of a point: the cap ends it."""
    run_dir = campaign.run(request_(Until(0.01, max_blocks=7)))
    run = results.load(run_dir)
    assert (run.outcome, run.blocks, len(run.trials)) == ("complete", 7, 14)
    assert sorted({trial.block for trial in run.trials}) == list(range(1, 8))
    assert [trial.number for trial in run.trials] == list(range(1, 15))
    assert run.sequential is not None
    assert (run.sequential.looks, run.sequential.stopped) == ((6, 7), "--max-blocks 7")
    assert run.sequential.not_reached == ("echo-tracer-only-mute-12B",)
    assert len(json.loads((run_dir / "run.json").read_text())["parts"]) == 2
    out = capsys.readouterr().out
    assert "2 of 2 cells x 6 blocks = 12 trials" in out
    assert "look at 6 blocks: 0 of 1 overheads are known to 0.01 pp" in out
    # More blocks by hand: it stays what it was made as.
    request = resume.Request(run_dir.parents[1], run_dir.name, more_blocks=1)
    report = resume.resume(request)
    assert report is not None
    assert report.run.sequential == run.sequential
    # And with another width and cap, from where it is.
    report = resume.resume(replace(request, more_blocks=0, until=Until(99, max_blocks=9)))
    assert report is not None
    label = label_of(report)
    assert (label.half_width_pp, label.looks[:3]) == (99, (6, 7, 8))
    assert len(report.run.trials) == 2 * report.run.blocks == 2 * label.looks[-1]
    with pytest.raises(UplabError):
        resume.resume(replace(request, until=Until(2)))


def test_a_run_that_is_too_short_to_look_at_is_brought_to_the_first_look(
    request_: Callable[[Until], campaign.Request],
) -> None:
    run_dir = campaign.run(replace(request_(Until(2)), until=None))
    assert len(results.load(run_dir).trials) == 4
    until = Until(99, max_blocks=6)
    report = resume.resume(resume.Request(run_dir.parents[1], run_dir.name, until=until))
    assert report is not None
    assert (label_of(report).looks, report.run.blocks, len(report.run.trials)) == ((6,), 6, 12)


def test_a_part_that_is_stopped_in_the_middle_is_gone_on_with(
    request_: Callable[[Until], campaign.Request], capsys: pytest.CaptureFixture[str]
) -> None:
    """As by Ctrl-C in the second part; nothing is measured twice."""

    class Stopping(Screen):
        started_before = 0

        def started(self, running: DetachedRun) -> None:
            self.started_before += 1
            if self.started_before == 2:
                running.stop()

    until = Until(0.01, max_blocks=12)
    request = request_(until)
    parsed = campaign.experiment(request)
    host = provision.connect(request.project, "local", parsed.registry)
    with pytest.raises(KeyboardInterrupt):
        campaign.measure(request, parsed, host, Stopping())
    assert "to go on later, run: invoke bench.resume " in capsys.readouterr().out
    (run_dir,) = (request.project / "results").glob("*")
    run = results.load(run_dir)
    assert (run.outcome, run.blocks) == ("interrupted", 12)
    assert 12 <= len(run.trials) < 24
    assert run.sequential is not None
    assert (run.sequential.looks, run.sequential.stopped) == ((6,), None)
    report = resume.resume(resume.Request(request.project, run_dir.name, until=until))
    assert report is not None
    assert label_of(report).looks == (6, 12)
    places = [(trial.block, trial.cell.cell_id) for trial in report.run.trials]
    assert len(places) == len(set(places)) == 24


# --- several hosts --------------------------------------------------------------------------------


def test_each_of_several_hosts_is_looked_at_by_itself(
    request_: Callable[[Until], campaign.Request], capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.run(request_(Until(0.01, max_blocks=7)), ["local"])
    out = capsys.readouterr().out
    assert "local: look at 6 blocks: 0 of 1 overheads are known to 0.01 pp" in out
    assert "local:   12/12  echo-" in out
    assert "local:   13/14  echo-" in out
    assert "local: no further blocks: --max-blocks 7" in out


def test_a_part_that_starts_after_ctrl_c_is_stopped() -> None:
    """Ctrl-C came while the figures were looked at, when there was no run to be stopped."""
    stopped: list[str] = []

    class Running(DetachedRun):
        def stop(self) -> dict[str, Any]:
            stopped.append(self.run_id)
            return {}

    lane = fleet.Lane("one", lambda _: None)
    host = LocalHost("one", Path("no-zipapp"))
    lane.started(Running(host, "first", lane.say))
    assert stopped == []
    fleet._stop(lane)
    lane.started(Running(host, "second", lane.say))
    assert stopped == ["first", "second"]
