# SPDX-License-Identifier: Apache-2.0
"""Ansible lookup plugin: a tree of sources on the controller, as a digest or as an archive."""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import io
import lzma
import tarfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = r"""
---
name: uplab_source
short_description: Digest and archive of a tree of sources on the controller
version_added: "0.1.0"
description:
  - Packs the files of a directory into a tar archive that depends only on their names, contents
    and executable bits, never on times, owners or the order of the directory.
  - The digest is the SHA-256 of that archive, so whoever unpacks it can check it.
options:
  _terms:
    description: Directories on the controller; one result for each.
    type: list
    elements: str
    required: true
  include:
    description:
      - Shell patterns for the paths to take, relative to the directory.
      - C(*) matches slashes too.
    type: list
    elements: str
    default: ["*"]
  exclude:
    description: Shell patterns for the paths and file names to leave out.
    type: list
    elements: str
    default: []
  want:
    description: The digest in hex, or the archive (tar, xz, base64).
    type: str
    choices: [sha256, archive]
    default: sha256
author:
  - The uplab authors
"""

EXAMPLES = r"""
- name: Show the digest of the servers' sources
  ansible.builtin.debug:
    msg: "{{ lookup('uplab_source', 'servers', exclude=['*.md']) }}"
"""

RETURN = r"""
_raw:
  description: One digest or archive for each directory.
  type: list
  elements: str
"""


def wanted(name: str, include: list[str], exclude: list[str]) -> bool:
    """Whether a relative path is taken; patterns see the whole path, exclusions the name too."""
    forms = (name, name.rsplit("/", 1)[-1])
    if any(fnmatch.fnmatchcase(form, pattern) for form in forms for pattern in exclude):
        return False
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in include)


def source_files(top: Path, include: list[str], exclude: list[str]) -> list[tuple[str, Path]]:
    """The files to pack, by relative path; raises ValueError where there is nothing to pack."""
    if not top.is_dir():
        raise ValueError(f"{top} is not a directory")
    found: list[tuple[str, Path]] = []
    for path in top.rglob("*"):
        name = path.relative_to(top).as_posix()
        if not wanted(name, include, exclude):
            continue
        if path.is_symlink():
            # What a link points to may lie outside of the digest.
            raise ValueError(f"{path} is a symbolic link; sources must be plain files")
        if path.is_file():
            found.append((name, path))
    if not found:
        raise ValueError(f"{top} holds no file that matches {include} without {exclude}")
    return sorted(found)


def pack(files: list[tuple[str, Path]]) -> bytes:
    """A tar archive that is the same for the same names, contents and executable bits."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, path in files:
            content = path.read_bytes()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def encode(data: bytes) -> str:
    """An archive as text that fits a module's arguments."""
    return base64.b64encode(lzma.compress(data)).decode("ascii")


class LookupModule(LookupBase):
    """``lookup('uplab_source', DIRECTORY, ...)``."""

    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[str]:
        """One digest or archive for each directory; raises AnsibleError."""
        self.set_options(var_options=variables, direct=kwargs)
        include, exclude = self.get_option("include"), self.get_option("exclude")
        results: list[str] = []
        for term in terms:
            try:
                data = pack(source_files(Path(term), include, exclude))
            except (ValueError, OSError) as error:
                raise AnsibleError(f"uplab_source: {error}") from error
            if self.get_option("want") == "archive":
                results.append(encode(data))
            else:
                results.append(hashlib.sha256(data).hexdigest())
        return results
