"""The module uplab_certificate, with the real openssl."""

from __future__ import annotations

import ssl
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


class Pair:
    def __init__(self, module: ModuleType, root: Path) -> None:
        self.module = module
        self.certificate, self.key = root / "tls" / "cert.pem", root / "tls" / "key.pem"

    def act(self, check: bool = False, days: int = 3650, renew_days: int = 30) -> dict[str, Any]:
        parameters = {
            "certificate": str(self.certificate),
            "key": str(self.key),
            "days": days,
            "renew_days": renew_days,
        }
        result = self.module.act(parameters, check)
        assert isinstance(result, dict)
        return result


@pytest.fixture
def pair(uplab_certificate: ModuleType, root: Path) -> Pair:
    return Pair(uplab_certificate, root)


def test_a_usable_pair_is_made_once(pair: Pair) -> None:
    assert pair.act()["changed"]
    assert pair.key.stat().st_mode & 0o777 == 0o600
    assert pair.certificate.stat().st_mode & 0o777 == 0o644
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(pair.certificate, pair.key)
    code, text = pair.module.openssl("x509", "-noout", "-text", "-in", str(pair.certificate))
    assert code == 0
    assert "prime256v1" in text
    assert "DNS:localhost" in text
    assert "IP Address:127.0.0.1" in text
    before = pair.certificate.read_bytes()
    assert not pair.act()["changed"]
    assert pair.certificate.read_bytes() == before
    assert sorted(path.name for path in pair.key.parent.iterdir()) == ["cert.pem", "key.pem"]


def test_check_mode_predicts(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pair.act(check=True)["changed"]
    assert not pair.certificate.exists()
    monkeypatch.setattr(pair.module, "find_executable", lambda _name: None)
    assert pair.act(check=True)["why"] == "openssl is not on this host yet"


def test_modes_are_mended(pair: Pair) -> None:
    pair.act()
    before = pair.key.read_bytes()
    pair.key.chmod(0o644)
    assert pair.act(check=True)["changed"]
    result = pair.act()
    assert result["changed"]
    assert result["why"] == ""
    assert pair.key.stat().st_mode & 0o777 == 0o600
    assert pair.key.read_bytes() == before


@pytest.mark.parametrize("fault", ["key missing", "other key", "torn", "ends soon"])
def test_a_pair_that_cannot_be_used_is_made_again(pair: Pair, fault: str) -> None:
    pair.act(days=20 if fault == "ends soon" else 3650)
    if fault == "key missing":
        pair.key.unlink()
        expected = "absent"
    elif fault == "other key":
        other = pair.key.read_bytes()
        pair.certificate.unlink()
        pair.act()
        pair.key.write_bytes(other)
        expected = "is not the key of"
    elif fault == "torn":
        pair.certificate.write_bytes(pair.certificate.read_bytes()[:100])
        expected = "cannot be read as a certificate"
    else:
        expected = "ends within 30 days"
    result = pair.act()
    assert expected in result["why"]
    assert not pair.act()["changed"]
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(pair.certificate, pair.key)


def test_openssl_s_own_words_are_passed_on(pair: Pair) -> None:
    with pytest.raises(pair.module.StoreError, match="openssl could not make"):
        pair.act(days=-1)
    assert list(pair.key.parent.iterdir()) == []
