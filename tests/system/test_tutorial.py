"""The tutorial, as a reader follows it: every command in order, and what the page shows of it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import bpf_works
from tests.system.lab import ROOT
from uplab import box

# It may have to make the image that boxes stand on, and it installs a whole tool chain.
pytestmark = pytest.mark.timeout(420)

PAGE = ROOT / "docs" / "tutorial.md"
LIMIT_S = 240.0
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VERDICT = re.compile(r"cannot tell \(.*?\)")
NUMBER = re.compile(r"\d[\d,.]*")


@dataclass(frozen=True)
class Step:
    """Commands of a block, and the lines that the page shows of what they print."""

    commands: tuple[str, ...]
    shown: tuple[str, ...]


def steps(text: str) -> list[Step]:
    """Each block of commands with the block of output that follows it before the next commands."""
    found: list[Step] = []
    for language, content in BLOCK.findall(text):
        lines = tuple(line for line in content.splitlines() if line.strip())
        if language == "":
            found.append(Step(lines, ()))
        else:
            before = found.pop()
            found.append(Step(before.commands, before.shown + lines))
    return found


def pattern(line: str) -> re.Pattern[str]:
    """A shown line whatever its figures and verdicts are, and however its columns are spaced.

    After a verdict anything may follow: it is of any length, and a table may be broken there.
    """
    verdict = VERDICT.search(line)
    words = (f"{line[: verdict.start()]}VERDICT" if verdict else line).split()
    loose = r"\s+".join(re.escape(NUMBER.sub("0", word)) for word in words)
    # Where the box's files lie is this checkout's matter.
    for shown, real in (
        ("0", r"-?\d[\d,.]*"),
        ("VERDICT", r"(?:better|worse|same within noise|cannot tell)\b"),
        (r"\.uplab/boxes", r"\S*\.uplab/boxes"),
    ):
        loose = loose.replace(shown, real)
    return re.compile(loose)


def free_name() -> str:
    """A name that no other test takes; the page's own may be somebody's box."""
    taken = ROOT / ".uplab" / "boxes"
    return next(f"box{n}" for n in range(245, 199, -1) if not (taken / f"box{n}").exists())


@pytest.fixture
def name() -> Iterator[str]:
    """The name of a box that is gone after the test."""
    name = free_name()
    yield name
    box.down(ROOT, name)


def test_the_tutorial_works_as_it_stands(
    name: str, tmp_path: Path, not_measurable: Callable[[str], None]
) -> None:
    if not bpf_works():
        not_measurable("neither BPF nor uprobes work on this machine")
    runs = tmp_path / "tutorial"
    text = PAGE.read_text().replace("box1", name).replace("/tmp/uplab-tutorial", str(runs))
    environment = {**os.environ, "ANSIBLE_SSH_ARGS": "-o ControlMaster=no"}
    for step in steps(text):
        said = ""
        for command in step.commands:
            done = subprocess.run(
                ["bash", "-c", command.removeprefix("sudo ")],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            said += done.stdout + done.stderr
        for line in step.shown:
            assert pattern(line).search(said), f"the page shows {line!r}, but it said:\n{said}"
    assert not runs.exists()


def test_a_step_is_commands_and_what_follows_them() -> None:
    page = "```\none\ntwo\n```\n\n```text\nout 1\n```\nwords\n```\nthree\n```\n"
    assert steps(page) == [Step(("one", "two"), ("out 1",)), Step(("three",), ())]


@pytest.mark.parametrize(
    ("shown", "said", "fits"),
    [
        ("box1 is ready after 1.3 s", "box1 is ready after 22.0 s: ssh", True),
        ("box1 is ready after 1.3 s", "box1 is gone", False),
        ("a  cannot tell (n too small: needs about 7 blocks)  1 req/s", "a  worse  22 req/s", True),
        ("a  cannot tell (n too small: needs about 7 blocks)  1 req/s", "a  wrong  2 req/s", False),
        ("costs 86.6 % (76.6 to 92.3)", "costs 8 % (-7,000.5 to 9)", True),
    ],
)
def test_figures_may_differ_and_words_may_not(shown: str, said: str, fits: bool) -> None:
    assert bool(pattern(shown).search(said)) == fits
