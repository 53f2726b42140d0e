"""What --tune did, read from run.json and said in the report."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.runs import make_run, write_json
from uplab import results, tuned
from uplab.errors import UsageError
from uplab.hostside import sums
from uplab.hostside.knobs import NotTunable, Wish
from uplab.hostside.tuning import Applied, Failed, Restored
from uplab.hostside.tuning_journal import Entry, Left, Noted
from uplab.report import markdown, model
from uplab.tuned import Change

ASLR, GOVERNOR = "/proc/sys/kernel/randomize_va_space", "/sys/devices/cpu0/scaling_governor"
ENTRY = Entry("governor", GOVERNOR, "powersave", "performance", "2026-01-02T03:04:05Z", "b")


def record(**restored: Any) -> dict[str, Any]:
    """As hostside writes it."""
    wish, refused = Wish("aslr", ASLR, "0"), NotTunable("turbo", "no cpufreq here")
    applied = Applied(Noted(), changed=[ENTRY], already=[wish], not_tunable=[refused])
    return applied.as_json() | {"restored": Restored("r", **restored).as_json()}


def run_with(directory: Path, tuning: Any) -> Path:
    make_run(directory, modes=("none", "none-again"), blocks=1, sums=False)
    document = json.loads((directory / "run.json").read_text())
    write_json(directory / "run.json", document | {"tuning": tuning})
    sums.write(directory)
    return directory


def test_what_was_tuned_is_read_as_hostside_wrote_it(tmp_path: Path) -> None:
    found = results.load(run_with(tmp_path / "run", record(put_back=[ENTRY]))).tuned
    assert found is not None
    assert found.changes == (
        Change(GOVERNOR, "performance", "powersave"),
        Change(ASLR, "0", None),
    )
    assert found.refused == (("turbo", "no cpufreq here"),)
    assert found.not_restored == ()


def test_the_report_says_it_and_only_of_a_tuned_run(tmp_path: Path) -> None:
    text = markdown.render(model.build(results.load(run_with(tmp_path / "run", record()))))
    assert (
        f"- **Tuned for the run**: {GOVERNOR} = performance (was powersave); {ASLR} = 0 (already)"
        in text.replace("\\_", "_").splitlines()
    )
    assert "- **Could not be tuned**: turbo (no cpufreq here)" in text.splitlines()
    assert "Not put back" not in text
    untuned = markdown.render(model.build(results.load(run_with(tmp_path / "untuned", None))))
    assert "uned" not in untuned.replace("untuned", "")


@pytest.mark.parametrize(
    "restored",
    [
        {"left": [Left(ENTRY, "schedutil", "2026-01-02T03:05:00Z")]},
        {"failed": [Failed(ENTRY, "Permission denied")]},
    ],
)
def test_what_was_not_put_back_is_named(tmp_path: Path, restored: dict[str, Any]) -> None:
    found = results.load(run_with(tmp_path / "run", record(**restored))).tuned
    assert found is not None
    assert dict(tuned.lines(found))["Not put back after the run"] == GOVERNOR


def test_another_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"run\.json, tuning, changed\[0\]"):
        results.load(run_with(tmp_path / "run", {"changed": [asdict(ENTRY) | {"path": 1}]}))
