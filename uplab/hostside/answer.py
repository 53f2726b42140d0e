"""One real request: does the server answer what it must?"""

from __future__ import annotations

import http.client
import ssl
import time
from typing import Any
from urllib.parse import urlsplit

from uplab.hostside.errors import TrialError
from uplab.hostside.spec import Answer

_TIMEOUT_S = 2.0
_LIMIT_BYTES = 1 << 20
_READ_BYTES = 1 << 16
_VERSIONS = {10: "HTTP/1.0", 11: "HTTP/1.1"}


def ask(url: str, limit_bytes: int = _LIMIT_BYTES) -> dict[str, Any]:
    """Send one GET.

    The certificate is not verified: it was made on this host for this server, and the load
    generator does not verify it either.

    Args:
        url: ``http://`` or ``https://``.
        limit_bytes: a longer body is not read to its end; its length is then above the limit.

    Returns:
        ``status``, ``protocol``, ``body_bytes`` as they came.

    Raises:
        OSError, http.client.HTTPException: no answer.
    """
    parts = urlsplit(url)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        # A bare context: loading the system's certificates takes 40 ms, and none is verified.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port, timeout=_TIMEOUT_S, context=context
        )
    else:
        connection = http.client.HTTPConnection(
            parts.hostname or "", parts.port, timeout=_TIMEOUT_S
        )
    try:
        deadline_s = time.monotonic() + _TIMEOUT_S
        target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        connection.request("GET", target, headers={"Connection": "close"})
        response = connection.getresponse()
        body_bytes = 0
        while body_bytes <= limit_bytes and (part := response.read1(_READ_BYTES)):
            body_bytes += len(part)
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"the answer took more than {_TIMEOUT_S:g} s")
        if body_bytes <= limit_bytes and response.length:
            raise http.client.IncompleteRead(b"", response.length)
        return {
            "status": response.status,
            "protocol": _VERSIONS.get(response.version, str(response.version)),
            "body_bytes": body_bytes,
        }
    finally:
        connection.close()


def check(url: str, wanted: Answer, body_bytes: int, when: str) -> dict[str, Any]:
    """Ask and compare with what the cell says.

    Args:
        url: of the server.
        wanted: status and protocol of the adapter.
        body_bytes: the cell's.
        when: ``before`` or ``after`` the measurement, for the reason.

    Returns:
        what :func:`ask` returned.

    Raises:
        TrialError: ``no-answer`` or ``wrong-answer``.
    """
    try:
        seen = ask(url, body_bytes)
    except (OSError, http.client.HTTPException) as error:
        cause = f"{type(error).__name__}: {error}"
        raise TrialError("no-answer", f"no answer {when} the load from {url}: {cause}") from error
    want = {"status": wanted.status, "protocol": wanted.protocol, "body_bytes": body_bytes}
    if seen != want:
        raise TrialError("wrong-answer", f"answer {when} the load was {seen}, wanted {want}")
    return seen
