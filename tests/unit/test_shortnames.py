"""Short names for long paths."""

from pathlib import Path

import pytest

from tests.runs import Traced, make_run
from uplab import results, shortnames
from uplab.analysis import analyse
from uplab.report import text


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        ([], {}),
        (["/root/real/out/bpftime-quiet"], {"/root/real/out/bpftime-quiet": "bpftime-quiet"}),
        (["/a/x/tool", "/a/y/tool"], {"/a/x/tool": "x/tool", "/a/y/tool": "y/tool"}),
        (["/tool", "/a/tool"], {"/tool": "/tool", "/a/tool": "a/tool"}),
        (["/x/tool", "/x/tool"], {"/x/tool": "tool"}),
        (["", "array", "relative/path"], {}),
    ],
)
def test_a_path_is_named_by_its_shortest_end_that_no_other_has(
    paths: list[str], names: dict[str, str]
) -> None:
    assert shortnames.tails(paths) == names


def test_a_report_names_runtimes_short_and_tells_them_apart(tmp_path: Path) -> None:
    traced = tuple(
        Traced("hybrid", options={"bpftime_prefix": f"/opt/{name}/bpftime"}, suffix=name)
        for name in ("old", "new")
    )
    run_dir = make_run(
        tmp_path / "run",
        servers=("https",),
        modes=("none", "userspace-uprobe"),
        traced=traced,
        blocks=1,
    )
    (group,) = analyse(results.load(run_dir)).groups
    labels = [text.label(cell) for cell in group.cells if cell.cell.tracer]
    assert sorted(labels) == [
        "userspace-uprobe (gotrace, hybrid, new/bpftime)",
        "userspace-uprobe (gotrace, hybrid, old/bpftime)",
    ]
