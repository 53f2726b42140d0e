"""Two builds of one tracer in one run: the same blocks, real probes, a gate on the difference."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from tests.system.lab import Lab, Outcome
from uplab import gates, results
from uplab.errors import UsageError
from uplab.measured import Run

GATE = "overhead(pr)-overhead(main)<=20pp"
# It stops the server, whose pid is the second argument, for most of the time that the tracer lives;
# the tracer has the script's own process. However busy the machine is, that costs most req/s.
HANDICAP = """#!/bin/sh
while kill -0 $$ 2>/dev/null; do
    kill -STOP "$2"
    sleep 0.45
    kill -CONT "$2"
    sleep 0.05
done 2>/dev/null &
exec "{program}" "$@"
"""


def builds(programs: Path, folder: Path, pr: str | None = None) -> list[str]:
    """Two copies of gotrace; `pr` is a script in the second's place. Out: settings of a matrix."""
    paths = {name: folder / name / "gotrace" for name in ("main", "pr")}
    for path in paths.values():
        path.parent.mkdir()
        shutil.copy(programs / "bin" / "gotrace", path)
    if pr is not None:
        paths["pr"].write_text(pr.format(program=programs / "bin" / "gotrace"))
    tracers = {name: {"adapter": "gotrace", "path": str(path)} for name, path in paths.items()}
    return [f"tracers={json.dumps(tracers)}", "factors.tracer=[main, pr]"]


def measured(outcome: Outcome) -> Run:
    assert outcome.code == 0, outcome.stderr
    assert outcome.run_dir is not None
    return results.load(outcome.run_dir)


ONLY = "server=http,mode=none,mode=kernel-uprobe"


def test_two_builds_share_their_blocks(lab: Lab, programs: Path, tmp_path: Path) -> None:
    """A against A: whatever the machine does, a gate of 20 points cannot fail."""
    settings = builds(programs, tmp_path)
    outcome = lab.measure(*settings, "blocks=3", "warm_up_s=0", only=ONLY)
    run = measured(outcome)
    names = {"http-none-12B", "http-kernel-uprobe-main-12B", "http-kernel-uprobe-pr-12B"}
    by_block = [{t.cell.cell_id for t in run.trials if t.block == b} for b in (1, 2, 3)]
    assert by_block == [names] * 3
    assert all(trial.valid for trial in run.trials)
    assert {t.attestation_grade for t in run.trials if t.cell.tracer} == {"proven"}
    (judged,) = gates.judge(run, [gates.parse(GATE)])
    assert judged.cell == "http-kernel-uprobe-pr-12B - http-kernel-uprobe-main-12B"
    assert judged.outcome in (gates.PASSED, gates.UNDECIDED)
    assert judged.estimate is not None
    assert judged.estimate.n == 3


def test_each_build_is_fingerprinted_and_is_the_plan_s(
    lab: Lab, programs: Path, tmp_path: Path
) -> None:
    settings = builds(programs, tmp_path)
    _, before, judged = lab.plan(*settings, only=ONLY)
    assert [entry.status for entry in judged] == ["available"] * 3
    paths = [tmp_path / name / "gotrace" for name in ("main", "pr")]
    for path in paths:
        assert before.artifacts[str(path)] == hashlib.sha256(path.read_bytes()).hexdigest()
    with paths[1].open("ab") as file:
        file.write(b"another build")
    _, after, _ = lab.plan(*settings, only=ONLY)
    assert after.plan_sha256 != before.plan_sha256


def test_a_build_that_is_not_there_is_not_available(
    lab: Lab, programs: Path, tmp_path: Path
) -> None:
    settings = builds(programs, tmp_path)
    (tmp_path / "pr" / "gotrace").unlink()
    _, made, judged = lab.plan(*settings, only=ONLY)
    assert [cell.id for cell in made.cells] == ["http-none-12B", "http-kernel-uprobe-main-12B"]
    (missing,) = [entry for entry in judged if entry.status != "available"]
    assert missing.reason == f"{tmp_path / 'pr' / 'gotrace'} is missing"


def test_a_build_with_a_handicap_is_seen_in_the_same_blocks(
    lab: Lab, programs: Path, tmp_path: Path
) -> None:
    settings = builds(programs, tmp_path, HANDICAP)
    limits = ("limits.foreign_pct=100", "limits.steal_pct=100")
    only = "server=http,mode=none,mode=tracer-only"
    run = measured(lab.measure(*settings, *limits, "blocks=3", "warm_up_s=0", only=only))
    assert all(trial.valid for trial in run.trials), [t.reasons for t in run.trials]
    (judged,) = gates.judge(run, [gates.parse("overhead(pr)-overhead(main)<=1pp")])
    assert judged.estimate is not None
    assert judged.estimate.value > 1
    assert judged.outcome != gates.PASSED


def test_a_gate_on_a_build_that_is_not_there_is_refused(
    lab: Lab, programs: Path, tmp_path: Path
) -> None:
    _, made, _ = lab.plan(*builds(programs, tmp_path), only=ONLY)
    with pytest.raises(UsageError, match="no tracer 'prr' in this matrix; did you mean pr"):
        gates.check([gates.parse("overhead(prr)<=5%")], made.cells)
