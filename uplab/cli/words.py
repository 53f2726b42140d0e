"""Reads the words after ``./invoke`` before Invoke does, for what Invoke gets wrong.

Invoke takes ``--help``, or a flag that does not exist, as the value of a task's required argument,
and then runs the task; and an argument of its tasks takes one word only, so there is no FILE....
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from invoke.exceptions import ParseError
from invoke.parser.context import ParserContext

HELP = ("--help", "-h")


@dataclass
class Words:
    """What was read: the words for Invoke, and the task whose help is asked for, or None."""

    tokens: list[str] = field(default_factory=list)
    help_for: str | None = None


@dataclass
class Reader:
    """Walks over the words with the task that is current.

    In: the contexts of all tasks by name, Invoke's own flags, and for tasks that take any number
    of bare words the name of the parameter that gets them.
    """

    contexts: Mapping[str, ParserContext]
    core_flags: frozenset[str]
    rest: Mapping[str, str]
    context: ParserContext | None = None
    missing: set[str] = field(default_factory=set)
    takes_value: bool = False

    def read(self, tokens: list[str]) -> Words:
        """Out: the words, with the flag of its ``rest`` before every bare word of such a task.

        Raises ParseError at a flag that the current task does not have.
        """
        words = Words()
        for token in tokens:
            if self.takes_value:
                self.takes_value = False
            elif token in HELP and self.context is not None:
                words.help_for = self.context.name
            elif token.startswith("-") and token != "-" and self.context is not None:
                self._flag(token, self.context)
            else:
                words.tokens += self._bare(token)
            words.tokens.append(token)
        return words

    def _flag(self, token: str, context: ParserContext) -> None:
        flag, has_value, _ = token.partition("=")
        if flag in context.flags:
            argument = context.flags[flag]
            self.takes_value = argument.takes_value and not has_value
            self.missing.discard(str(argument.name))
        elif flag not in context.inverse_flags and flag not in self.core_flags:
            raise ParseError(f"No idea what {token!r} is!", context)

    def _bare(self, token: str) -> list[str]:
        """Out: what belongs before this word."""
        if self.missing:
            self.missing.pop()
            return []
        rest = self.rest.get(str(self.context.name)) if self.context else None
        if rest is not None:
            return ["--" + rest.replace("_", "-")]
        if token in self.contexts:
            self.context = self.contexts[token]
            self.missing = {str(argument.name) for argument in self.context.positional_args}
        return []
