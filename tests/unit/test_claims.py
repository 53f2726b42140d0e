"""uplab/claims.py: claims as data, decided on intervals."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.runs import make_run
from uplab import claims, matrix, published, results
from uplab.claims import CANNOT_TELL, HELD, NOT_HELD, Case
from uplab.errors import EXIT_GATE, EXIT_OK, EXIT_UNDECIDED, UsageError
from uplab.report import markdown, model
from uplab.report.model import Report

ROOT = Path(__file__).resolve().parents[2]
KERNEL = {"figure": "overhead", "server": "https", "mode": "kernel-uprobe"}
USERSPACE = {"figure": "overhead", "server": "https", "mode": "userspace-uprobe"}
CLAIM: dict[str, Any] = {
    "id": "one",
    "sentence": "Kernel uprobes cost more.",
    "left": KERNEL,
    "relation": ">",
    "right": USERSPACE,
    "machine_minutes": 3,
    "human_minutes": 5,
}
MODES = ("none", "none-again", "kernel-uprobe", "userspace-uprobe")


def read(folder: Path, **changes: Any) -> claims.Claims:
    path = folder / "claims.yml"
    data = {"schema": 1, "name": "mine", "matrix": "m.yml", "claims": [CLAIM | changes]}
    # JSON is YAML, and has no aliases for what is given twice.
    path.write_text(json.dumps(data))
    return claims.load(path)


def report_of(directory: Path, **changes: Any) -> Report:
    spec: dict[str, Any] = {"servers": ("https",), "modes": MODES, "histogram_buckets": 5}
    return model.build(results.load(make_run(directory, **(spec | changes))))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Kernel uprobes leave 16 % of the throughput, userspace ones 60 %."""
    return report_of(tmp_path_factory.mktemp("claims") / "run")


def throughput(mode: str, **more: Any) -> dict[str, Any]:
    return {"figure": "throughput", "server": "https", "mode": mode, **more}


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, HELD),
        ({"relation": "<"}, NOT_HELD),
        ({"relation": "<="}, NOT_HELD),
        ({"right": 50.0, "relation": ">="}, HELD),
        ({"right": 95.0, "relation": ">="}, NOT_HELD),
        ({"right": 84.0, "relation": ">="}, CANNOT_TELL),
        ({"right": 84.0, "relation": ">=", "tolerance": 5.0}, HELD),
        ({"right": 84.0, "relation": "==", "tolerance": 5.0}, HELD),
        ({"right": 84.0, "relation": "==", "tolerance": 0.01}, CANNOT_TELL),
        ({"right": 40.0, "relation": "==", "tolerance": 5.0}, NOT_HELD),
        ({"right": KERNEL}, CANNOT_TELL),
        (
            {
                "left": throughput("userspace-uprobe"),
                "right": throughput("kernel-uprobe", times=3),
                "relation": ">=",
            },
            HELD,
        ),
        (
            {
                "left": throughput("userspace-uprobe"),
                "right": throughput("kernel-uprobe", times=5),
                "relation": ">=",
            },
            NOT_HELD,
        ),
    ],
)
def test_a_claim_is_decided_on_the_interval(
    tmp_path: Path, report: Report, changes: dict[str, Any], verdict: str
) -> None:
    (case,) = claims.decide(report, read(tmp_path, **changes))
    assert (case.verdict, case.estimate is not None) == (verdict, True)


def test_what_is_measured_is_shown_in_its_own_unit(tmp_path: Path, report: Report) -> None:
    (against_number,) = claims.decide(report, read(tmp_path, right=50.0, relation=">="))
    (difference,) = claims.decide(report, read(tmp_path))
    (ratio,) = claims.decide(
        report,
        read(tmp_path, left=throughput("userspace-uprobe"), right=throughput("kernel-uprobe")),
    )
    values = [case.estimate.value for case in (against_number, difference, ratio) if case.estimate]
    assert values == pytest.approx([84, 44, 275], rel=0.05)


def test_too_few_blocks_say_how_many_it_needs(tmp_path: Path) -> None:
    report = report_of(tmp_path / "run", blocks=3, noise=0.2)
    (case,) = claims.decide(report, read(tmp_path, right=70.0, relation=">="))
    assert case.verdict == CANNOT_TELL
    assert case.needs is not None
    assert case.said == f"cannot tell (n = 3, needs about {case.needs})"
    # With that many blocks of the same spread it is decided.
    many = report_of(tmp_path / "many", blocks=2 * case.needs, noise=0.2)
    (decided,) = claims.decide(many, read(tmp_path, right=70.0, relation=">="))
    assert decided.verdict == HELD


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"blocks": 2}, "cannot tell (n = 2, needs at least 3)"),
        (
            {"unavailable": {"userspace-uprobe": "no bpftime"}},
            "cannot tell (not measured: no bpftime)",
        ),
        ({"modes": ("none", "kernel-uprobe")}, "cannot tell (the run has no cell https, userspace"),
        ({"loop": "open"}, "cannot tell (the load is an open loop)"),
        ({"modes": MODES[2:]}, "cannot tell (no block holds its cells and none)"),
    ],
)
def test_what_cannot_be_told_says_why(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    (case,) = claims.decide(report_of(tmp_path / "run", **changes), read(tmp_path))
    assert case.said.startswith(said)
    assert case.verdict == CANNOT_TELL


def test_the_exit_code_is_the_worst_of_all() -> None:
    (claim,) = claims.Claims.model_validate(
        {"schema": 1, "name": "n", "matrix": "m", "claims": [CLAIM]}
    ).claims
    held, failed, unknown = (
        Case(claim, "x", verdict, None) for verdict in (HELD, NOT_HELD, CANNOT_TELL)
    )
    assert claims.exit_code([held]) == EXIT_OK
    assert claims.exit_code([held, unknown]) == EXIT_UNDECIDED
    assert claims.exit_code([held, unknown, failed]) == EXIT_GATE


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"relation": "=="}, "tolerance: must be above 0"),
        ({"relation": "~"}, "relation"),
        ({"right": throughput("kernel-uprobe")}, "a figure of the same kind"),
        ({"left": KERNEL | {"times": 2}}, "for figures of throughput"),
        ({"left": KERNEL | {"colour": 1}}, "no such field"),
        ({"id": "Not An Id"}, "id"),
        ({"machine_minutes": -1}, "machine_minutes"),
        (
            {
                "left": throughput("kernel-uprobe"),
                "right": throughput("kernel-uprobe") | {"server": "http"},
            },
            "within one server",
        ),
    ],
)
def test_a_wrong_claim_is_refused_with_its_place(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        read(tmp_path, **changes)
    assert str(tmp_path / "claims.yml") in str(caught.value)


# --- the published experiment's -------------------------------------------------------------------


def test_the_published_experiment_s_claims_hold_of_its_own_figures() -> None:
    seed = published.load(ROOT / "published")[0]
    kept = {place[:2]: 1 - pct / 100 for place, pct in published.overheads(seed).items()}
    asked = claims.load(ROOT / "claims" / "seed.yml")
    for claim in asked.claims:
        left = kept[claim.left.server, claim.left.mode]
        if not isinstance(claim.right, claims.Figure):
            figure, limit = 100 * (1 - left), claim.right
        elif claim.left.figure == "throughput":
            figure = 100 * (left / kept[claim.right.server, claim.right.mode] - 1)
            limit = 100 * (claim.right.times - 1)
        else:
            figure, limit = 100 * (kept[claim.right.server, claim.right.mode] - left), 0.0
        assert claim.published == pytest.approx(figure, abs=0.05), claim.id
        assert figure > limit, claim.id


def test_the_published_experiment_s_claims_are_of_its_matrix() -> None:
    asked = claims.load(ROOT / "claims" / "seed.yml")
    cells = {(cell.server, cell.mode) for cell in matrix.load(asked.matrix, ROOT).cells}
    assert {(claim.left.server, claim.left.mode) for claim in asked.claims} <= cells


def test_the_text_says_all_of_it(report: Report) -> None:
    asked = claims.load(ROOT / "claims" / "seed.yml")
    cases = claims.decide(report, asked)
    said = markdown.sections(claims.sections(report, asked, cases)).replace("\\", "")
    assert "Kernel uprobes cost the HTTPS server at least half of its throughput." in said
    assert "overhead(https, kernel-uprobe) >= 50 %. Published: 54.6." in said
    assert "3 machine minutes, 5 human minutes" in said
    assert re.search(r"\| https kernel-uprobe \(gotrace\) \| \d\d\.\d % \(.*\) \| held \|", said)
    assert "the run has no cell http, kernel-uprobe" in said


def test_the_reference_names_every_field_and_its_example_is_read(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "reference" / "claims.md").read_text()
    fields = {**claims.Claims.model_fields, **claims.Claim.model_fields}
    for name, entry in (fields | claims.Figure.model_fields).items():
        assert re.search(rf"`{name}`|^{entry.alias}: ", text, re.MULTILINE), name
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "claims.yml").write_text(example)
    assert claims.load(tmp_path / "claims.yml").claims
