# SPDX-License-Identifier: Apache-2.0
"""apt's own files of sources: read, and said with other addresses, in both of apt's forms.

One line for each source (``*.list``), or paragraphs of fields (``*.sources``, deb822).  What is not
an address keeps its bytes, comments included.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

MAIN = Path("/etc/apt/sources.list")
PARTS = Path("/etc/apt/sources.list.d")
SWITCHED_OFF = "# Switched off by uplab: "

#: What an address becomes; None switches it off.
Change = Callable[[str], str | None]

_LINE = re.compile(r"(?P<before>\s*deb(?:-src)?\s+(?:\[[^\]]*\]\s+)?)(?P<uri>\S+)")
_FIELD = re.compile(r"(?P<name>[A-Za-z-]+):")
_ENABLED = re.compile(r"enabled:", re.IGNORECASE)
_NO = re.compile(r"enabled:\s*(no|false|without|off|disable|0)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class SourceFile:
    """One of apt's files of sources with its text."""

    path: Path
    text: str

    def is_part(self) -> bool:
        """Whether it is one of those in apt's directory of sources."""
        return self.path.parent == PARTS

    def changed(self, change: Change) -> SourceFile:
        """The file with every address in use that ``change`` maps to another one."""
        stanzas = self.path.suffix == ".sources"
        text = _in_stanzas(self.text, change) if stanzas else _in_lines(self.text, change)
        return replace(self, text=text)

    def active(self) -> str:
        """The text without comments and what is switched off: to look for words in it."""
        if self.path.suffix == ".sources":
            stanzas = [lines for lines in _stanzas(self.text) if not _is_off(lines)]
            lines = [line for stanza in stanzas for line in stanza]
        else:
            lines = self.text.splitlines(keepends=True)
        return "".join(line for line in lines if not line.lstrip().startswith("#"))


def read_sources() -> list[SourceFile]:
    """The host's files of sources, in the order in which apt reads them."""
    parts = [path for path in PARTS.glob("*") if path.suffix in (".list", ".sources")]
    paths = [path for path in [MAIN, *sorted(parts)] if path.is_file()]
    return [SourceFile(path, _text(path)) for path in paths]


def _text(path: Path) -> str:
    """A file's text; what is not UTF-8 comes back as it was when the text is encoded again."""
    return path.read_bytes().decode("utf-8", "surrogateescape")


def mirrored(text: str, mirrors: Mapping[str, str]) -> str:
    """An address as a site's mirrors have it; the longest of their prefixes wins."""
    longest = max((prefix for prefix in mirrors if text.startswith(prefix)), key=len, default="")
    return mirrors[longest] + text[len(longest) :] if longest else text


def _in_lines(text: str, change: Change) -> str:
    return "".join(_line(line, change) for line in text.splitlines(keepends=True))


def _line(line: str, change: Change) -> str:
    found = _LINE.match(line)
    if not found:
        return line
    uri = change(found["uri"])
    if uri is None:
        return f"{SWITCHED_OFF}{line}"
    return f"{found['before']}{uri}{line[found.end('uri') :]}"


def _in_stanzas(text: str, change: Change) -> str:
    return "".join("".join(_stanza(lines, change)) for lines in _stanzas(text))


def _stanzas(text: str) -> Iterable[list[str]]:
    """The paragraphs with their lines; blank lines stand at the end of the one before."""
    lines: list[str] = []
    for line in text.splitlines(keepends=True):
        if lines and not lines[-1].strip() and line.strip():
            yield lines
            lines = []
        lines.append(line)
    yield lines


def _is_off(lines: list[str]) -> bool:
    return any(_NO.fullmatch(line) for line in lines)


def _stanza(lines: list[str], change: Change) -> list[str]:
    """The lines of a paragraph; where no address is left, it is switched off as a whole."""
    if _is_off(lines):
        return lines
    result: list[str] = []
    seen = kept = 0
    field, at = "", 0
    for line in lines:
        head = _FIELD.match(line)
        field = head["name"].lower() if head else field
        if field != "uris" or line.startswith("#") or not line.strip():
            result.append(line)
            continue
        begin = head.end() if head else 0
        at = len(result) if head else at
        body, words, left = _words(line[begin:], change)
        seen, kept = seen + words, kept + left
        # A line without a word would end the paragraph; one with the field's name does not.
        result += [line[:begin] + body] if head or body.strip() else []
    if kept or not seen:
        return result
    off = [*lines[:at], "Enabled: no\n", *lines[at:]]
    return [line for line in off if line == "Enabled: no\n" or not _ENABLED.match(line)]


def _words(text: str, change: Change) -> tuple[str, int, int]:
    """A text with each word changed, how many words it had, and how many are left."""
    words = {word: change(word) for word in text.split()}
    changed = re.sub(r"\S+", lambda found: words[found[0]] or "", text)
    return changed, len(words), sum(word is not None for word in words.values())
