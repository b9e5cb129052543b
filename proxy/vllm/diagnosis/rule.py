"""One rule of the diagnosis: what the engine prints -> what a user reads."""

from __future__ import annotations

import re
from dataclasses import dataclass

from proxy.errors import Cause

EXCEPTION = (
    r"(?:[A-Za-z_]\w{0,60}\.){0,8}\w{0,60}?"
    r"(?:Error|Exception|Timeout|Interrupt|Exit|NotFound|Unsupported|NotReadable|IsEnabled)"
)
"""The name of an exception class, as it stands at the left margin of a traceback's last line."""

# A cause is only believed where an error begins: after the name of an exception, after
# pydantic's `Value error,`, after C++'s `what():`, or inside the error that vLLM quotes from a
# worker. The same words in the middle of a line (a URL, a prompt, a warning) mean nothing.
_HEAD = (
    rf"^(?:(?:{EXCEPTION}: )?(?:Worker failed with error )?(?:Error: )?['\"]?"
    r"|[ \t]{1,8}Value error, |[ \t]{1,8}what\(\): {1,3})"
)


def error(text: str) -> re.Pattern[str]:
    """A pattern that fits an error whose message begins with `text`."""
    return re.compile(f"{_HEAD}(?:{text})", re.MULTILINE)


def line(text: str) -> re.Pattern[str]:
    """A pattern that fits a line which begins with `text`."""
    return re.compile(f"^(?:{text})", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Rule:
    """If `pattern` is found in the errors, the engine stopped for `cause`.

    `sentence` and `remedy` are templates over the named groups of `pattern` and of `also` (a
    second line that says more and may be missing; its groups are then empty), and over what
    `diagnosis.facts` derives from them.
    """

    cause: Cause
    pattern: re.Pattern[str]
    sentence: str
    remedy: str
    permanent: bool = True
    also: re.Pattern[str] | None = None

    def groups_in(self, errors: str) -> dict[str, str] | None:
        """The named groups, or None where the rule does not fit."""
        match = self.pattern.search(errors)
        if match is None:
            return None
        more = self.also.search(errors) if self.also else None
        groups = {**match.groupdict(), **(more.groupdict() if more else {})}
        return {name: text for name, text in groups.items() if text is not None}
