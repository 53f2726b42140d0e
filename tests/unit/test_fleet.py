"""uplab/fleet.py: several hosts at once, and what one loses does not touch the others."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.unit import apart
from tests.unit.test_campaign import host_of, matrix_of
from uplab import fleet, provision
from uplab.adapters import Registry
from uplab.campaign import Request
from uplab.errors import EXIT_HOST, EXIT_INVALID, HostError, UplabError
from uplab.remote import LocalHost

HOSTS = ["one", "two", "three"]


@pytest.fixture
def request_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Request:
    """For hosts that are this machine, each with a store, a spool and a lock of its own."""

    def connect(
        _project: Path, name: str, registry: Registry, _chosen: Path | None = None
    ) -> LocalHost:
        if name == "away":
            raise HostError("host away: no answer from 192.0.2.1:22 within 5 s")
        return host_of(tmp_path / name, name, registry)

    monkeypatch.setattr(provision, "connect", connect)
    path = tmp_path / "m.yml"
    # A server that takes any free port: they all run on one machine.
    path.write_text(matrix_of(factors={"server": ["echo"], "mode": ["none"]}))
    return Request(tmp_path, "one,two", str(path), setup=False)


def outcomes(folder: Path) -> dict[str, str]:
    records = [json.loads(path.read_text()) for path in folder.glob("results/*/run.json")]
    return {record["host"]: record["outcome"] for record in records}


def test_each_host_gives_a_run_and_a_table(
    request_: Request, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.run(request_, ["one"])
    assert outcomes(tmp_path) == {"one": "complete"}
    out = capsys.readouterr().out
    assert "one: matrix mini on one: 1 of 1 cells" in out
    assert "one:    1/1  echo-none-12B" in out
    assert out.count("report: ") == 1


def test_a_host_that_is_lost_does_not_touch_the_others(
    request_: Request, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UplabError, match="not all is well on away; see above") as caught:
        fleet.run(request_, ["away", "two"])
    assert caught.value.exit_code == EXIT_HOST
    assert outcomes(tmp_path) == {"two": "complete"}
    assert "away: host away: no answer from 192.0.2.1:22" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("codes", "worst"),
    [
        ([], 0),
        ([0, 0], 0),
        ([0, 3], EXIT_INVALID),
        ([3, 4, 0], EXIT_HOST),
        ([4, 130, 3], 130),
        ([2, 0], 2),
        ([1, 3], 3),
    ],
)
def test_the_worst_code_is_everybody_s(codes: list[int], worst: int) -> None:
    assert fleet.worst_of(codes) == worst


def test_ctrl_c_stops_all_of_them_and_keeps_what_is_finished(tmp_path: Path) -> None:
    """As on the command line; each host measures with a port of its own."""
    for name in HOSTS:
        (tmp_path / f"{name}.yml").write_text(matrix_of(blocks=500))
    program = f"""
provision.connect = lambda _, name, reg, __: host_of(folder / name, name, reg)
measure = campaign.measure
def own(request, _, host, view):
    request = replace(request, matrix=str(folder / f'{{host.name}}.yml'))
    return measure(request, campaign.experiment(request), host, view)
campaign.measure = own
request = campaign.Request(folder, '', str(folder / 'one.yml'), setup=False)
with error_edge('bench.all'):
    fleet.run(request, {HOSTS!r})
"""
    with apart.start(tmp_path, program) as process:
        assert process.stdout
        waiting = set(HOSTS)
        for line in process.stdout:
            name, _, rest = line.partition(": ")
            if rest.lstrip().startswith("1/"):
                waiting.discard(name)
            if not waiting:
                break
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert "bench.all: interrupted" in said
    assert outcomes(tmp_path) == dict.fromkeys(HOSTS, "interrupted")
    assert [path for name in HOSTS for path in (tmp_path / name / "runs").iterdir()] == []
