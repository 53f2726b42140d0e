"""Every page and schema that is made from the code, by its path in the checkout."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tools.reference import adapterfields, commands, reasons, roles, runfields, schemas

ROOT = Path(__file__).resolve().parents[2]
#: Says to whoever opens a page that it is not to be edited.
_MADE = "<!-- Made from the code: ./invoke build.reference -->\n\n"


def make(root: Path = ROOT) -> dict[Path, str]:
    """The content of each page by its path inside the checkout."""
    reference = Path("docs", "reference")
    written = {
        "cli.md": commands.page(),
        "role-variables.md": roles.page(root),
        "adapters.md": adapterfields.page(),
        "run-fields.md": runfields.page(),
        "reasons.md": reasons.page(),
    }
    found = {reference / name: _MADE + text for name, text in written.items()}
    for name, schema in schemas.all_of_them().items():
        path = reference / "schemas" / f"{name}.schema.json"
        found[path] = json.dumps(schema, indent=2) + "\n"
    return found


def stale(root: Path = ROOT) -> list[Path]:
    """The pages that are not what the code says now, or are not there."""
    return [
        path
        for path, text in make(root).items()
        if not (root / path).is_file() or (root / path).read_text(encoding="utf-8") != text
    ]


def write(root: Path = ROOT) -> Iterator[str]:
    """Write every page; out: a line for each, saying whether it changed."""
    changed = set(stale(root))
    for path, text in make(root).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
        yield f"{path}: {'changed' if path in changed else 'unchanged'}"
