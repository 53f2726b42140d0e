"""What the reference says is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from uplab import errors
from uplab.hostside.reasons import REASONS
from uplab.matrix import Factors, Matrix

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"


def test_every_reason_is_in_the_reference() -> None:
    text = (REFERENCE / "reasons.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \| (.*) \| (.*) \|$", text, re.MULTILINE)
    assert rows == [(code, e.means, e.look_at) for code, e in REASONS.items()]


def test_every_exit_code_is_in_the_reference() -> None:
    text = (REFERENCE / "exit-codes.md").read_text()
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    known = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert documented == known


def test_every_field_of_a_matrix_is_in_the_reference() -> None:
    text = (REFERENCE / "matrix.md").read_text()
    for name, entry in Matrix.model_fields.items():
        assert re.search(rf"`{entry.alias or name}[`.]", text), name
    for name in Factors.model_fields:
        assert f"`factors.{name}`" in text


def test_links_between_documents_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/*/README.md")]
    for document in documents:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document}: {target}"
