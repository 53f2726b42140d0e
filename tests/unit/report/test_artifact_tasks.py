"""The tasks that defend, publish or check a run, as a user types them."""

import os
import subprocess
from pathlib import Path

import pytest

from tests import tasks
from tests.runs import make_run
from uplab.cli import artifact

ROOT = Path(__file__).resolve().parents[3]
MODES = ("none", "none-again", "kernel-uprobe", "userspace-uprobe")


def invoke(*arguments: str | Path, cwd: Path = tasks.ROOT) -> subprocess.CompletedProcess[str]:
    return tasks.run(*map(str, arguments), cwd=cwd)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", blocks=3, modes=MODES, histogram_buckets=5)


def test_published(run_dir: Path) -> None:
    shown = invoke("report.published", run_dir)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "Published: seed" in shown.stdout
    assert "What differs in the setup: seed" in shown.stdout
    printed = invoke("report.published", run_dir, "--markdown")
    assert printed.stdout.startswith("# 20261122T131751Z-local-seed beside what was published\n")


def test_claims_have_exit_codes(run_dir: Path, tmp_path: Path) -> None:
    held = invoke("report.claims", run_dir)
    assert (held.returncode, held.stderr) == (0, "")
    assert "8 claims about matrices/seed.yml, in 8 cases: 8 held" in " ".join(held.stdout.split())
    shipped = (ROOT / "claims" / "seed.yml").read_text()
    (tmp_path / "mine.yml").write_text(shipped.replace("right: 50", "right: 99"))
    failed = invoke("report.claims", run_dir, "--claims", tmp_path / "mine.yml")
    assert failed.returncode == 1
    assert "did not hold" in failed.stdout
    undecided = invoke("report.claims", make_run(tmp_path / "two", blocks=2, modes=MODES))
    assert undecided.returncode == 5
    assert "cannot tell (n = 2, needs at least 3)" in undecided.stdout


def test_export(run_dir: Path, tmp_path: Path) -> None:
    written = invoke("report.export", run_dir, "--format", "jsonl")
    assert written.stdout == f"{run_dir / 'report' / 'trials.jsonl'}\n"
    printed = invoke("report.export", run_dir, "--format", "jsonl", "--out", "-")
    assert printed.stdout == (run_dir / "report" / "trials.jsonl").read_text()
    out = tmp_path / "paper.tex"
    assert invoke("report.export", run_dir, "--format", "latex", "--out", out).returncode == 0
    assert r"\toprule" in out.read_text()
    wrong = invoke("report.export", run_dir, "--format", "xls")
    assert wrong.returncode == 2
    assert "there are: csv, parquet" in wrong.stderr


def test_bundle_verify_and_replay(run_dir: Path, tmp_path: Path) -> None:
    made = invoke("report.bundle", run_dir, "--redact", "--also", "synthetic", cwd=tmp_path)
    assert (made.returncode, made.stderr) == (0, "")
    (name,) = [name for name in os.listdir(tmp_path) if name.endswith(".zip")]
    assert name == "20261122T131751Z-local-seed-redacted.zip"
    bundle = tmp_path / name
    checked = invoke("report.verify", bundle)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "0 not as the checksums say" in checked.stdout
    assert invoke("report.replay", bundle).returncode == 0


def test_a_changed_run_has_exit_code_1(run_dir: Path) -> None:
    (run_dir / "events.jsonl").write_text("x")
    checked = invoke("report.verify", run_dir)
    assert checked.returncode == 1
    assert checked.stdout.startswith("changed: events.jsonl\n")
    assert checked.stderr == (f"report.verify: {run_dir} is not what its checksums say: 1 file\n")


def test_a_report_that_differs_has_exit_code_1(run_dir: Path) -> None:
    invoke("report.md", run_dir)
    (run_dir / "report" / "report.md").write_text("x")
    replayed = invoke("report.replay", run_dir)
    assert replayed.returncode == 1
    assert "differs: report.md, from byte 0" in replayed.stdout


def test_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = ROOT / "tests" / "data" / "wrk" / "seed-document.md"
    wrong = invoke("report.import", document)
    assert wrong.returncode == 2
    assert "--body-bytes N" in wrong.stderr
    # Into a folder of this test, not among the checkout's own runs.
    (tmp_path / "loads").symlink_to(ROOT / "loads")
    monkeypatch.setattr(artifact, "PROJECT_ROOT", tmp_path)
    artifact.import_.body(None, [str(document)], body_bytes=12, host="mnfe-pve")
    (run,) = (tmp_path / "results").iterdir()
    assert capsys.readouterr().out == f"{run / 'report' / 'report.html'}\n"
    assert run.name.endswith("Z-mnfe-pve-imported")
