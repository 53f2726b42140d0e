"""Words that tell whose a run is: learned by place and form, replaced wherever they stand.

Each value becomes another of its kind, the same one wherever it stands (host-1, 192.0.2.1, ...).
What was replaced is counted, never kept.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from uplab.errors import UsageError

HOSTS, USERS, IPV4, IPV6, MACS, SERIALS, WORDS = (
    "host names",
    "users",
    "IPv4 addresses",
    "IPv6 addresses",
    "MAC addresses",
    "serial numbers",
    "other words",
)
#: Names that say nothing about anybody.
COMMON = frozenset(
    ("local", "localhost", "root", "nobody", "host", "user", "unknown", "none", "serial", "word")
)
_LEAST_WORD = 3
_LEAST_LEAK = 6

_HOST_KEYS = frozenset(("host", "hostname", "nodename", "fqdn", "domain"))
_USER_KEYS = frozenset(("user", "username", "login", "owner", "author", "operator"))
_SERIAL_KEYS = re.compile(r"(?:.*_)?(?:serial|serial_number|uuid|machine_id|boot_id|asset_tag|wwn)")
# Four numbers with dots between are a version there, not an address.
VERSION_KEYS = re.compile(r".*version.*|packages|pins|hash|source")

_URL = re.compile(r"://(?:(?P<user>[^\s/@\"']+)@)?(?P<name>[\w.-]+)")
_AT = re.compile(
    r"(?<![\w./@-])(?P<user>[A-Za-z_][\w.-]*)@(?P<name>[A-Za-z][\w-]*(?:\.[A-Za-z][\w-]*)*)"
)
# Not user@host: units of systemd, and symbols with the version of their library.
_LIBRARIES = ("plt", "GLIBC", "GCC", "CXXABI")
_UNIT_ENDS = (".service", ".socket", ".slice", ".timer", ".mount")
# Kind, form, and the words without one of which a line cannot have it: logs are long.
_NAMED: tuple[tuple[str, re.Pattern[str], tuple[str, ...]], ...] = (
    (USERS, re.compile(r"/(?:home|Users)/(?P<value>[^/\s\"':;,()]+)"), ("/home/", "/Users/")),
    (
        USERS,
        re.compile(
            r"\b(?:USER|LOGNAME|SUDO_USER|USERNAME|user|username|login)=[\"']?"
            r"(?P<value>[A-Za-z_][\w.-]*)"
        ),
        ("USER", "LOGNAME", "user", "login"),
    ),
    (
        HOSTS,
        re.compile(r"\b(?:hostname|HOSTNAME|nodename)[=:]\s*[\"']?(?P<value>[\w.-]+)"),
        ("hostname", "HOSTNAME", "nodename"),
    ),
    (
        SERIALS,
        re.compile(
            r"\b(?:serial(?:[ _-]?(?:number|no))?|machine[ _-]?id|asset[ _-]?tag)"
            r"\s*[:=#]\s*[\"']?(?P<value>[A-Za-z0-9][\w.-]{3,})",
            re.IGNORECASE,
        ),
        ("erial", "ERIAL", "achine", "ACHINE", "sset", "SSET"),
    ),
)
_UUID = re.compile(r"(?<![\w-])[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?![\w-])", re.IGNORECASE)
_MAC = re.compile(r"(?<![\w:])[0-9a-f]{2}(?:[:-][0-9a-f]{2}){5}(?![\w:])", re.IGNORECASE)
_V4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w]|\.\d)")
_V6 = re.compile(
    r"(?<![\w:.])[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,8}(?:\.\d{1,3}){0,3}(?:%\w+)?(?![\w:])",
    re.IGNORECASE,
)
# Addresses for documentation: RFC 5737, RFC 3849, RFC 7042.
_V4_PREFIXES = ("192.0.2", "198.51.100", "203.0.113")
_IN_PREFIX = 254
_MACS = 256
_NOBODYS_MAC = ("00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff")


@dataclass(frozen=True, slots=True)
class Kind:
    """What was replaced of one kind: how many values, and how often."""

    name: str
    values: int
    times: int


@dataclass
class Redactor:
    """What has been learned, what stands for it, and how often it was replaced.

    In: words that are never replaced by themselves, and hosts that stay.
    """

    vocabulary: Collection[str]
    keep: Collection[str]
    known: dict[str, str] = field(default_factory=dict)
    stand_ins: dict[tuple[str, str], str] = field(default_factory=dict)
    times: Counter[str] = field(default_factory=Counter)
    _pattern: re.Pattern[str] | None = None

    def learn(self, kind: str, word: str) -> None:
        """A word that is to be replaced wherever it stands as a whole word."""
        plain = _folded(kind, word.strip().strip("."))
        ours = plain.lower() in self.vocabulary or plain in self.keep or plain.isdigit()
        if len(plain) >= _LEAST_WORD and not ours and not _is_address(plain):
            self.known.setdefault(plain, kind)
            self._pattern = None

    def learn_from(self, text: str, key: str = "") -> None:
        """What a text says about names, by the field that it stands in and by its form."""
        if key in _HOST_KEYS:
            self._learn_host(text)
        elif key in _USER_KEYS:
            self.learn(USERS, text)
        elif _SERIAL_KEYS.fullmatch(key) and _UUID.fullmatch(text) is None:
            self.learn(SERIALS, text)
        self._learn_by_form(text)

    def _learn_by_form(self, text: str) -> None:
        named = [each for each in _NAMED if any(word in text for word in each[2])]
        if not named and "://" not in text and "@" not in text:
            return
        for line in text.split("\n"):
            if "://" in line:
                self._learn_urls(line)
            if "@" in line:
                self._learn_at(line)
            for kind, pattern, words in named:
                if any(word in line for word in words):
                    self._learn_named(kind, pattern, line)

    def _learn_urls(self, line: str) -> None:
        for found in _URL.finditer(line):
            self._learn_host(found["name"])
            if found["user"]:
                self.learn(USERS, found["user"].partition(":")[0])

    def _learn_at(self, line: str) -> None:
        for found in _AT.finditer(line):
            if not found[0].endswith(_UNIT_ENDS) and not found["name"].startswith(_LIBRARIES):
                self.learn(USERS, found["user"])
                self._learn_host(found["name"])

    def _learn_named(self, kind: str, pattern: re.Pattern[str], line: str) -> None:
        """What stands behind a word that says what it is."""
        for found in pattern.finditer(line):
            if kind == HOSTS:
                self._learn_host(found["value"])
            else:
                self.learn(kind, found["value"])

    def _learn_host(self, name: str) -> None:
        """A name with a domain also makes its first part a name: that is how prompts show it."""
        if name.lower() in self.keep or _is_address(name):
            return
        self.learn(HOSTS, name)
        first, dot, _ = name.partition(".")
        if dot:
            self.learn(HOSTS, first)

    def value(self, text: str, key: str) -> str:
        """The text of a field of JSON, redacted."""
        if key in _HOST_KEYS and text.lower() not in COMMON and not _is_address(text):
            return self._stand_in(HOSTS, text)
        if key in _USER_KEYS and text.lower() not in COMMON:
            return self._stand_in(USERS, text)
        if text and _SERIAL_KEYS.fullmatch(key) and _UUID.fullmatch(text) is None:
            return self._stand_in(SERIALS, text)
        return self.text(text, addresses=VERSION_KEYS.fullmatch(key) is None)

    def text(self, text: str, *, addresses: bool = True, count: bool = True) -> str:
        """A text, redacted. `count` False where the same stands elsewhere too, as in a path."""
        before = self.times.copy()
        changed = "\n".join(self._line(line, addresses) for line in text.split("\n"))
        if not count:
            self.times = before
        return changed

    def _line(self, line: str, addresses: bool) -> str:
        """A line, redacted; only the forms are looked for that it has the characters of."""
        if "://" in line and "@" in line:
            # What is in a URL before its host is a user, mostly with a password.
            line = _URL.sub(self._url, line)
        if line.count("-") >= 4:
            line = _UUID.sub(lambda found: self._stand_in(SERIALS, found[0]), line)
        if line.count(":") >= 5 or line.count("-") >= 5:
            line = _MAC.sub(self._mac, line)
        if addresses and ("::" in line or line.count(":") >= 7):
            line = _V6.sub(self._ipv6, line)
        if addresses and line.count(".") >= 3:
            line = _V4.sub(self._ipv4, line)
        if self.known:
            lowered = line.lower()
            if any(word.lower() in lowered for word in self.known):
                line = self._words().sub(self._word, line)
        return line

    def _words(self) -> re.Pattern[str]:
        if self._pattern is None:
            # The longest first: a name with its domain before the name.
            words = "|".join(
                re.escape(word) if kind == USERS else f"(?i:{re.escape(word)})"
                for word, kind in sorted(self.known.items(), key=lambda item: -len(item[0]))
            )
            self._pattern = re.compile(rf"(?<![A-Za-z0-9_])(?:{words})(?![A-Za-z0-9_])")
        return self._pattern

    def _word(self, found: re.Match[str]) -> str:
        kind = self.known.get(found[0]) or self.known[found[0].lower()]
        return self._stand_in(kind, found[0])

    def _url(self, found: re.Match[str]) -> str:
        if not found["user"]:
            return found[0]
        return f"://{self._stand_in(USERS, found['user'])}@{found['name']}"

    def _mac(self, found: re.Match[str]) -> str:
        plain = found[0].lower().replace("-", ":")
        return found[0] if plain in _NOBODYS_MAC else self._stand_in(MACS, plain)

    def _ipv4(self, found: re.Match[str]) -> str:
        return self._address(found[0], ipaddress.IPv4Address, IPV4)

    def _ipv6(self, found: re.Match[str]) -> str:
        # Names of C++ and Rust have two colons too, and hardly a figure between them.
        if not any(c.isdigit() for c in found[0]):
            return found[0]
        return self._address(found[0], ipaddress.IPv6Address, IPV6)

    def _address(
        self,
        shown: str,
        parse: Callable[[str], ipaddress.IPv4Address | ipaddress.IPv6Address],
        kind: str,
    ) -> str:
        try:
            address = parse(shown.partition("%")[0])
        except ValueError:
            return shown
        nobodys = address.is_loopback or address.is_unspecified or shown == "255.255.255.255"
        return shown if nobodys else self._stand_in(kind, str(address))

    def _stand_in(self, kind: str, value: str) -> str:
        """What stands for a value: the same for the same value."""
        place = (kind, _folded(kind, value))
        self.times[kind] += 1
        if place not in self.stand_ins:
            number = 1 + sum(1 for known, _ in self.stand_ins if known == kind)
            self.stand_ins[place] = _STAND_INS[kind](number)
        return self.stand_ins[place]

    def kinds(self) -> list[Kind]:
        """What was replaced, by kind; kinds that did not occur are left out."""
        values = Counter(kind for kind, _ in self.stand_ins)
        return [Kind(kind, values[kind], self.times[kind]) for kind in _STAND_INS if values[kind]]

    def leak(self, content: bytes) -> str | None:
        """The kind of a value that is still somewhere in a redacted file; None where none is.

        Also inside of longer words; short values are part of too many of them.
        """
        lowered = content.decode("utf-8", "surrogateescape").lower()
        for kind, value in self.stand_ins:
            told = len(value) >= _LEAST_LEAK and kind != USERS and value not in self.vocabulary
            if told and value in lowered:
                return kind
        return None


def _folded(kind: str, value: str) -> str:
    """Names of hosts are the same in any case; a user `debian` is no Debian."""
    return value if kind == USERS else value.lower()


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _ipv4_number(number: int) -> str:
    prefix, rest = divmod(number - 1, _IN_PREFIX)
    if prefix >= len(_V4_PREFIXES):
        raise UsageError("the run names more IPv4 addresses than there are for documentation")
    return f"{_V4_PREFIXES[prefix]}.{rest + 1}"


def _mac_number(number: int) -> str:
    if number > _MACS:
        raise UsageError("the run names more MAC addresses than there are for documentation")
    return f"00:00:5e:00:53:{number - 1:02x}"


_STAND_INS: dict[str, Callable[[int], str]] = {
    HOSTS: lambda number: f"host-{number}",
    USERS: lambda number: f"user-{number}",
    IPV4: _ipv4_number,
    IPV6: lambda number: f"2001:db8::{number:x}",
    MACS: _mac_number,
    SERIALS: lambda number: f"serial-{number}",
    WORDS: lambda number: f"word-{number}",
}
