"""uplab/redact.py and redactor.py: what tells whose a run is goes, what was measured stays."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runs import FINGERPRINT, edit_json, make_run
from uplab import checksums, makebundle, redact, results
from uplab.errors import GateError, UsageError
from uplab.hostside import sums
from uplab.redactor import HOSTS, IPV4, IPV6, MACS, SERIALS, USERS, WORDS, Redactor
from uplab.report import markdown, model
from uplab.verify import said, verify

ROOT = Path(__file__).resolve().parents[2]
PINS = ROOT / "playbooks" / "group_vars" / "all" / "pins.yml"
HOST, USER, SERIAL = "r720-berlin", "felicitas", "7XK2Q2J"
LOAD_HOST = "lastesel"
LOG = f"""ready https://127.0.0.1:446/ body_bytes=12 pid=8322
{USER}@{HOST}:~# wrk -c 100 -t 10 https://127.0.0.1:446
eth0: link up, 3c:fd:fe:aa:bb:0c, address 10.11.12.13/24, gateway 10.11.12.1
listening on [2a02:8109:9c40:1::42]:447 and on ::1 and on 0.0.0.0:80
load host {LOAD_HOST}: no answer
open /home/{USER}/lab/go-server failed, Serial Number: {SERIAL}
resolved {HOST}.corp.example to 10.11.12.13, mail to {USER}@corp.example
uuid 4c4c4544-0058-4b10-8032-b7c04f51324a at 23:33:44, std::vector<int>, face::b00c
fetched https://bob:secret@mirror.corp.example/debian/dists
mac ff:ff:ff:ff:ff:ff, version 6.2.16-19-pve, 12.5 us, symbol memcpy@GLIBC_2.14, user@1000.service
"""
SECRETS = (
    HOST,
    USER,
    SERIAL,
    LOAD_HOST,
    "10.11.12",
    "3c:fd:fe",
    "2a02:8109",
    "4c4c4544",
    "corp",
    "secret",
)
KEPT = ("127.0.0.1:446", "::1", "0.0.0.0:80", "23:33:44", "std::vector<int>", "6.2.16-19-pve")


def private(directory: Path) -> Path:
    """A run of a named host with all of it in its files."""
    run_dir = make_run(directory, servers=("https",), blocks=3, histogram_buckets=5, sums=False)
    edit_json(
        run_dir / "run.json",
        host=HOST,
        run_id=f"20261122T131751Z-{HOST}-seed",
        pins={"libfoo": "1.2.3.4"},
        load_from={"name": LOAD_HOST, "server_address": "10.11.12.14"},
        touched={"processes": [{"name": "sshd", "pid": 7, "exe": f"/home/{USER}/bin/sshd"}]},
    )
    before = FINGERPRINT | {"dmi": {"product_serial": SERIAL, "product_name": "PowerEdge R720"}}
    edit_json(run_dir / "host.json", before=before, after=before)
    (run_dir / "events.jsonl").write_text(
        json.dumps({"event": "start", "host": HOST, "address": "10.11.12.13"}) + "\n"
    )
    for path in run_dir.glob("trials/*/server.log"):
        path.write_bytes(LOG.encode() + b"\xff\x00 no UTF-8 \xfe\n")
    sums.write(run_dir)
    return run_dir


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return private(tmp_path_factory.mktemp("private") / "run")


@pytest.fixture(scope="module")
def redacted(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("redacted") / "run"
    redact.redact(original, out, redact.public_hosts(PINS))
    return out


def texts(run_dir: Path) -> dict[str, str]:
    return {
        str(path.relative_to(run_dir)): path.read_bytes().decode("utf-8", "surrogateescape")
        for path in sorted(run_dir.rglob("*"))
        if path.is_file() and path.suffix != ".hist"
    }


# --- whole runs -----------------------------------------------------------------------------------


def test_nothing_private_is_left_anywhere(original: Path, redacted: Path) -> None:
    before, after = "".join(texts(original).values()), "".join(texts(redacted).values())
    for secret in SECRETS:
        assert secret in before, "the test has to put it there"
        assert secret.lower() not in after.lower(), secret


def test_what_is_not_private_stays(redacted: Path) -> None:
    (log, *_) = [text for name, text in texts(redacted).items() if name.endswith("server.log")]
    for kept in (*KEPT, "memcpy@GLIBC_2.14", "user@1000.service", "ff:ff:ff:ff:ff:ff", "12.5 us"):
        assert kept in log
    assert log.encode("utf-8", "surrogateescape").endswith(b"\xff\x00 no UTF-8 \xfe\n")
    document = json.loads((redacted / "run.json").read_text())
    assert document["pins"] == {"libfoo": "1.2.3.4"}


def test_a_value_is_the_same_wherever_it_stands(redacted: Path) -> None:
    document = json.loads((redacted / "run.json").read_text())
    host, run_id = document["host"], document["run_id"]
    assert re.fullmatch(r"host-\d", host)
    assert run_id == f"20261122T131751Z-{host}-seed"
    events = json.loads((redacted / "events.jsonl").read_text())
    assert events["host"] == host
    for name, text in texts(redacted).items():
        if name.endswith("server.log"):
            user = re.search(rf"(user-\d)@{host}:~#", text)
            assert user
            assert f"/home/{user[1]}/lab" in text
            assert f"address {events['address']}/24" in text
    hosts = json.loads((redacted / "host.json").read_text())
    serial = hosts["before"]["dmi"]["product_serial"]
    assert f"Serial Number: {serial}" in "".join(texts(redacted).values())


def test_the_figures_are_the_same(original: Path, redacted: Path) -> None:
    before, after = (model.build(results.load(each)) for each in (original, redacted))
    assert after.analysis == before.analysis
    assert after.latency == before.latency
    assert after.machine == before.machine


def test_the_copy_has_its_own_checksums_and_says_what_it_is(original: Path, redacted: Path) -> None:
    assert checksums.differences(redacted) == []
    record = json.loads((redacted / "run.json").read_text())["redacted"]
    digest = hashlib.sha256((original / "SHA256SUMS").read_bytes()).hexdigest()
    assert record["of_sha256"] == digest
    kinds = {HOSTS, USERS, IPV4, IPV6, MACS, SERIALS}
    assert set(record["replaced"]) == kinds
    assert record["replaced"][MACS]["values"] == 1
    assert record["replaced"][MACS]["times"] == len(list(original.glob("trials/*/server.log")))
    assert digest in markdown.render(model.build(results.load(redacted)))


def test_the_same_run_is_redacted_to_the_same_bytes(
    original: Path, redacted: Path, tmp_path: Path
) -> None:
    redact.redact(original, tmp_path / "run", redact.public_hosts(PINS))
    assert texts(tmp_path / "run") == texts(redacted)


def test_a_redacted_bundle_says_so(original: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.zip"
    made = makebundle.make(original, out, pins=PINS, redacted=True)
    assert made.replaced is not None
    found = verify(out)
    assert found.differences == ()
    digest = hashlib.sha256((original / "SHA256SUMS").read_bytes()).hexdigest()
    assert f"redacted, from the run whose SHA256SUMS has the sha256 {digest}" in list(
        said(out, found)
    )
    shown = markdown.sections(makebundle.sections(made))
    assert "| MAC addresses | 1 |" in shown


def test_further_words(original: Path, tmp_path: Path) -> None:
    redact.redact(original, tmp_path / "run", (), ["PowerEdge", "missing-word"])
    assert "poweredge" not in "".join(texts(tmp_path / "run").values()).lower()
    record = json.loads((tmp_path / "run" / "run.json").read_text())["redacted"]
    assert record["replaced"][WORDS]["values"] == 1


def test_further_words_without_redaction_are_wrong_usage(original: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--redact"):
        makebundle.make(original, tmp_path / "b.zip", pins=PINS, also=["x"])


def test_a_value_that_would_be_left_stops_it(tmp_path: Path) -> None:
    """Inside of a longer word it cannot be replaced; then nobody is told that it was."""
    run_dir = private(tmp_path / "run")
    (next(run_dir.glob("trials/*/server.log"))).write_text(f"x{HOST}x and {HOST}\n")
    sums.write(run_dir)
    with pytest.raises(GateError, match=r"server\.log would still hold .* host names"):
        redact.redact(run_dir, tmp_path / "out", ())


def test_a_host_with_the_name_of_an_experiment_s_word(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", servers=("https",), blocks=3, histogram_buckets=5)
    edit_json(run_dir / "run.json", host="gotrace")
    sums.write(run_dir)
    redact.redact(run_dir, tmp_path / "out", ())
    run = results.load(tmp_path / "out")
    assert run.host == "host-1"
    assert {trial.cell.tracer for trial in run.trials} == {None, "gotrace"}


def test_names_of_public_sources_stay() -> None:
    public = redact.public_hosts(PINS)
    assert {"go.dev", "github.com"} <= public
    redactor = Redactor((), public)
    redactor.learn_from("see https://go.dev/dl and https://intern.example/x")
    assert redactor.text("go.dev intern.example") == "go.dev host-1"


# --- forms ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("10.0.0.1 10.0.0.2 10.0.0.1", "192.0.2.1 192.0.2.2 192.0.2.1"),
        ("at 10.0.0.1.", "at 192.0.2.1."),
        ("1.2.3.4.5 v1.2.3.4 256.1.1.1 127.0.0.1", "1.2.3.4.5 v1.2.3.4 256.1.1.1 127.0.0.1"),
        ("255.255.255.255", "255.255.255.255"),
        ("fe80::1%eth0 and FE80::1", "2001:db8::1 and 2001:db8::1"),
        ("2001:0:0:0:0:0:0:9", "2001:db8::1"),
        ("a::b::c std::string 12:34:56", "a::b::c std::string 12:34:56"),
        ("3C-FD-FE-AA-BB-0C 3c:fd:fe:aa:bb:0c", "00:00:5e:00:53:00 00:00:5e:00:53:00"),
        ("3c:fd:fe:aa:bb:0c:01", "3c:fd:fe:aa:bb:0c:01"),
        ("4C4C4544-0058-4B10-8032-B7C04F51324A", "serial-1"),
        ("sha256 " + "ab" * 32, "sha256 " + "ab" * 32),
        ("ftp://me:pw@10.0.0.1/x", "ftp://user-1@192.0.2.1/x"),
    ],
)
def test_a_form(text: str, wanted: str) -> None:
    assert Redactor((), ()).text(text) == wanted


@pytest.mark.parametrize(
    ("text", "kind", "word"),
    [
        ("anna@box: hello", USERS, "anna"),
        ("anna@box: hello", HOSTS, "box"),
        ("HOSTNAME=box7", HOSTS, "box7"),
        ("SUDO_USER=anna", USERS, "anna"),
        ("/Users/anna/x", USERS, "anna"),
        ("serial: ABC123", SERIALS, "abc123"),
        ("machine-id=0123456789abcdef", SERIALS, "0123456789abcdef"),
    ],
)
def test_a_name_is_learned_by_its_place(text: str, kind: str, word: str) -> None:
    redactor = Redactor((), ())
    redactor.learn_from(text)
    assert redactor.known.get(word) == kind


@pytest.mark.parametrize(
    "text", ["root@x", "x@plt", "memcpy@GLIBC_2.2", "getty@tty1.service", "user=root", "a@1.2"]
)
def test_what_is_no_name_is_not_learned(text: str) -> None:
    redactor = Redactor(("root", "x"), ())
    redactor.learn_from(text)
    assert not [word for word, kind in redactor.known.items() if kind == USERS], text


def test_a_user_of_a_distribution_s_name_is_no_distribution() -> None:
    redactor = Redactor((), ())
    redactor.learn_from("/home/debian/x")
    assert redactor.text("debian runs Debian GNU/Linux") == "user-1 runs Debian GNU/Linux"


def test_more_addresses_than_there_are_for_documentation() -> None:
    redactor = Redactor((), ())
    many = " ".join(f"10.{a}.{b}.1" for a in range(3) for b in range(254))
    assert len(set(redactor.text(many).split())) == 762
    with pytest.raises(UsageError, match="more IPv4 addresses"):
        redactor.text("11.0.0.1")


@given(st.text())
def test_any_text_is_redacted_without_an_error(text: str) -> None:
    redactor = Redactor((), ())
    redactor.learn_from(text)
    assert isinstance(redactor.text(text), str)


@given(st.lists(st.ip_addresses(v=4), min_size=1, max_size=20))
def test_equal_addresses_stay_equal_and_others_differ(addresses: list[Any]) -> None:
    shown = Redactor((), ()).text(" ".join(map(str, addresses))).split()
    assert len(shown) == len(addresses)
    pairs = set(zip(map(str, addresses), shown, strict=True))
    assert len({one for one, _ in pairs}) == len({other for _, other in pairs}) == len(pairs)
