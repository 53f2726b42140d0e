#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: a self-signed certificate that is made on the host and never leaves it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.uplab_host import (
    StoreError,
    clean_environment,
    find_executable,
    reported,
    sync_directory,
)

DOCUMENTATION = r"""
---
module: uplab_certificate
short_description: Keep a self-signed certificate and its key on a host
version_added: "0.1.0"
description:
  - Makes a key (EC P-256) and a self-signed certificate for V(localhost) and V(127.0.0.1) with the
    host's openssl, if there is none, if the two do not fit each other, or if the certificate ends
    too soon.  Keeps the modes of both files.
  - The key is written with mode 0600 from its first byte on and never returned.
options:
  certificate:
    description: Where the certificate lies; an absolute path.
    type: path
    required: true
  key:
    description: Where the key lies; an absolute path.
    type: path
    required: true
  days:
    description: How long a new certificate is valid, in days.
    type: int
    default: 3650
  renew_days:
    description: How many days before its end a certificate is made again.
    type: int
    default: 30
author:
  - The uplab authors
"""

EXAMPLES = r"""
- name: Keep the certificate
  uplab_certificate:
    certificate: /opt/uplab/tls/cert.pem
    key: /opt/uplab/tls/key.pem
"""

RETURN = r"""
why:
  description: Why a new certificate was needed; empty if none was.
  returned: success
  type: str
paths:
  description: What was written or got another mode, in check mode what would.
  returned: success
  type: list
  elements: str
"""

MODES = {"certificate": 0o644, "key": 0o600}
SECONDS_PER_DAY = 86400


def openssl(*words: str) -> tuple[int, str]:
    """Run openssl; returns its exit code and what it printed; raises StoreError if missing."""
    try:
        done = subprocess.run(
            ["openssl", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=clean_environment(HOME="/nonexistent"),
            check=False,
        )
    except OSError as error:
        raise StoreError(f"cannot run openssl: {error.strerror}") from error
    return done.returncode, done.stdout.strip()


def why_new(certificate: Path, key: Path, renew_days: int) -> str:
    """Why a new certificate is needed; an empty text if the one that is there is good."""
    absent = [str(path) for path in (certificate, key) if not path.is_file()]
    if absent:
        return f"absent: {', '.join(absent)}"
    code, public = openssl("x509", "-noout", "-pubkey", "-in", str(certificate))
    if code:
        return f"{certificate} cannot be read as a certificate"
    code, public_of_key = openssl("pkey", "-pubout", "-in", str(key))
    if code or public != public_of_key:
        return f"{key} is not the key of {certificate}"
    seconds = str(renew_days * SECONDS_PER_DAY)
    code, _ = openssl("x509", "-noout", "-checkend", seconds, "-in", str(certificate))
    return f"{certificate} ends within {renew_days} days" if code else ""


def make(certificate: Path, key: Path, days: int) -> None:
    """Make key and certificate and move them into place; raises StoreError."""
    with tempfile.TemporaryDirectory(prefix=".part-", dir=certificate.parent) as part:
        new_key, new_certificate = Path(part) / "key.pem", Path(part) / "cert.pem"
        os.close(os.open(new_key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODES["key"]))
        words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        words += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
        words += ["-sha256", "-days", str(days)]
        code, text = openssl(*words, "-keyout", str(new_key), "-out", str(new_certificate))
        if code:
            raise StoreError(f"openssl could not make {certificate}: {text}")
        new_key.chmod(MODES["key"])
        new_certificate.chmod(MODES["certificate"])
        # A run killed between the two leaves a pair that does not fit; the next one sees it.
        new_key.replace(key)
        new_certificate.replace(certificate)
    for directory in {key.parent, certificate.parent}:
        sync_directory(directory)


def mend_modes(paths: dict[str, Path], check: bool) -> list[str]:
    """Give the files their modes; returns a line for each that had another one."""
    mended: list[str] = []
    for name, path in paths.items():
        seen = path.stat().st_mode & 0o7777
        if seen == MODES[name]:
            continue
        mended.append(f"{path} {seen:04o} -> {MODES[name]:04o}")
        if not check:
            path.chmod(MODES[name])
    return mended


def act(parameters: dict[str, Any], check: bool) -> dict[str, Any]:
    """Keep the certificate; returns the module's result; raises StoreError and OSError."""
    paths = {name: Path(parameters[name]) for name in MODES}
    if check and find_executable("openssl") is None:
        why = "openssl is not on this host yet"
    else:
        why = why_new(paths["certificate"], paths["key"], parameters["renew_days"])
    if why:
        if not check:
            make(paths["certificate"], paths["key"], parameters["days"])
        after = f"a new certificate, because {why}\n"
        written = [str(path) for path in paths.values()]
        diff = {"before": "", "after": after}
        return {"changed": True, "why": why, "diff": diff, "paths": written}
    mended = mend_modes(paths, check)
    after = "".join(f"{line}\n" for line in mended)
    touched = [str(p) for p in paths.values() if any(line.startswith(f"{p} ") for line in mended)]
    diff = {"before": "", "after": after}
    return {"changed": bool(mended), "why": "", "diff": diff, "paths": touched}


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "certificate": {"type": "path", "required": True},
            "key": {"type": "path", "required": True, "no_log": False},
            "days": {"type": "int", "default": 3650},
            "renew_days": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    with reported(module):
        module.exit_json(**act(module.params, module.check_mode))


if __name__ == "__main__":
    main()
