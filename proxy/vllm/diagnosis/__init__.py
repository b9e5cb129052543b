"""Output lines + exit code -> cause, sentence, remedy, is a retry of any use. Pure.

What makes it less simple than a search (vLLM 0.32):

- the root cause of a failed start is the first Worker or EngineCore traceback, about 115
  lines above the last line, `Engine core initialization failed. See root cause above`;
- an engine that crashes while it serves exits with 0;
- a process of the engine that is killed leaves no error of its own, only the remark of
  another process; and a normal SIGTERM prints the same EngineDeadError as a crash.

So rules look at errors only (never at a line that vLLM itself calls INFO or WARNING), for
an engine that has served only at what it said from its death on, and what no rule knows is
UNKNOWN with vLLM's own last words.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Collection, Iterable, Sequence

from proxy.errors import Cause, EngineFailure
from proxy.vllm.diagnosis.facts import facts_of
from proxy.vllm.diagnosis.rule import Rule
from proxy.vllm.diagnosis.rules import RUN_RULES, START_RULES
from proxy.vllm.diagnosis.words import (
    MAX_QUOTED_LINES,
    errors,
    index,
    last_words,
    quote,
    root_errors,
)
from proxy.vllm.log_lines import LogLine, clean_lines, parse_line

_NEWEST_LINES = 60
_MAX_LINE_CHARS = 4_000
"""More of one line is never looked at: a list of architectures takes 10 KB."""

_CRASHED = re.compile(r"EngineCore encountered a fatal error")
_NATIVE_CRASH = re.compile(r"Fatal Python error: (?P<text>.+)|terminate called after (?P<what>.+)")
_VANISHED = re.compile(
    r"(?P<who>Worker) proc \S+ died unexpectedly|"
    r"\[shutdown\] MPClient: (?P<core>engine core) exited unexpectedly|"
    r"Engine core process (?P<name>\S+) died unexpectedly"
)
_ASKED_TO_STOP = re.compile(r"\[shutdown\] API server: shutdown triggered")
_BEGINNING = re.compile(r"non-default args: ")
_CORES_FAILED = re.compile(
    r"RuntimeError: Engine core initialization failed\..*core proc\(s\): \{(?P<procs>[^}]*)\}"
)

_RAM = "Give the container more memory (RAM); the kernel's log names what was killed."
_SEE_LOG = "Look at the engine's lines in the log."


def diagnose(
    lines: Sequence[str],
    exit_code: int | None,
    *,
    was_ready: bool,
    known_flags: Collection[str] = (),
) -> EngineFailure:
    """Say why the engine could not start (`was_ready` false) or stopped serving (true).

    `lines` are its output, newest last; `exit_code` is Popen's (-9: killed by signal 9) and None
    for an engine that still ran when it was given up. `known_flags` are the names of vLLM's
    flags, to find the one that was meant.
    """
    words = [parse_line(clean[:_MAX_LINE_CHARS]) for line in lines for clean in clean_lines(line)]
    if was_ready:
        return _stopped_serving(words, exit_code, known_flags)
    return _could_not_start(words, exit_code, known_flags)


def _could_not_start(
    words: Sequence[LogLine], exit_code: int | None, known_flags: Collection[str]
) -> EngineFailure:
    return (
        _by_rule(START_RULES, errors(words), known_flags)
        or _by_death(words, starting=True)
        or (_timed_out(words) if exit_code is None else None)
        or _by_signal(_signal_in(exit_code))
        or (_asked_to_stop() if index(words, _ASKED_TO_STOP) is not None else None)
        or _by_vanishing(words)
        or _unknown(words, exit_code)
    )


def _stopped_serving(
    words: Sequence[LogLine], exit_code: int | None, known_flags: Collection[str]
) -> EngineFailure:
    death = _death_in(words)
    asked = index(words, _ASKED_TO_STOP)
    if asked is not None and (death is None or asked < death):
        return _by_signal(_signal_in(exit_code)) or _asked_to_stop()
    last = [] if death is None else words[death:]
    return (
        _by_rule(RUN_RULES, errors(last), known_flags)
        or _by_death(last)
        or (_wedged() if exit_code is None else None)
        or _by_signal(_signal_in(exit_code))
        or _ended(words, exit_code)
    )


def _by_rule(rules: Iterable[Rule], text: str, flags: Collection[str]) -> EngineFailure | None:
    for rule in rules:
        groups = rule.groups_in(text)
        if groups is not None:
            facts = facts_of(groups, flags)
            sentence = rule.sentence.format_map(facts)
            remedy = rule.remedy.format_map(facts)
            return EngineFailure(rule.cause, sentence, remedy=remedy, permanent=rule.permanent)
    return None


def _death_in(words: Sequence[LogLine]) -> int | None:
    """Where the engine begins to die: everything after it is consequence."""
    marks = (index(words, mark) for mark in (_CRASHED, _NATIVE_CRASH, _VANISHED))
    return min((index for index in marks if index is not None), default=None)


def _by_death(words: Sequence[LogLine], *, starting: bool = False) -> EngineFailure | None:
    """A process that dies by its own error says so; one that is killed is missed by others."""
    death = _death_in(words)
    if death is None:
        return None
    message = words[death].message
    if found := _VANISHED.match(message):
        # While starting, an error of its own may stand above: then nobody killed it.
        return None if starting and root_errors(words[:death]) else _vanished(found)
    if found := _NATIVE_CRASH.match(message):
        return _native(quote([found["text"] or found["what"]]))
    request = "its first request" if starting else "a request"
    return _crashed_on(request, quote(root_errors(words[death:])[:1]))


def _crashed_on(request: str, reason: str) -> EngineFailure:
    return EngineFailure(
        Cause.CRASHED,
        f"The engine crashed on {request}" + (f": {reason}" if reason else "."),
        remedy="If one kind of request brings it back, refuse that kind; otherwise use another "
        "image or model.",
        permanent=False,
    )


def _native(what: str, remedy: str = _SEE_LOG) -> EngineFailure:
    sentence = f"The engine crashed in native code ({what})."
    return EngineFailure(Cause.CRASHED, sentence, remedy=remedy, permanent=False)


def _vanished(found: re.Match[str]) -> EngineFailure:
    who = "worker" if found["who"] else "core"
    return _killed(f"The engine's {who} process vanished without an error: killed")


def _by_vanishing(words: Sequence[LogLine]) -> EngineFailure | None:
    """A start in which a process went missing, and nobody raised an error that says why."""
    found = _CORES_FAILED.search(errors(words))
    # Without the beginning of the output the error may have been in the part that is lost.
    if found is None or index(words, _BEGINNING) is None or root_errors(words):
        return None
    code = re.search(r": -(\d+)", found["procs"])
    if code and int(code[1]) != signal.SIGKILL:
        return _by_signal(int(code[1]))
    return _killed("A process of the engine vanished while it started: killed")


def _killed(sentence: str) -> EngineFailure:
    return EngineFailure(
        Cause.KILLED,
        f"{sentence}, most likely by the kernel for want of memory (RAM).",
        remedy=_RAM,
        permanent=False,
    )


def _by_signal(number: int | None) -> EngineFailure | None:
    if number is None:
        return None
    if number == signal.SIGKILL:
        return _killed("The engine was killed (signal 9)")
    name = _signal_name(number)
    if number in _FROM_OUTSIDE:
        return _ended_from_outside(f"The engine was ended from outside ({name}).")
    return _native(name, _NATIVE_REMEDIES.get(number, _SEE_LOG))


def _asked_to_stop() -> EngineFailure:
    return _ended_from_outside("The engine was asked to stop from outside (SIGTERM or SIGINT).")


def _ended_from_outside(sentence: str) -> EngineFailure:
    remedy = "No setting is wrong: look for what sends signals inside the container."
    return EngineFailure(Cause.KILLED, sentence, remedy=remedy, permanent=False)


def _timed_out(words: Sequence[LogLine]) -> EngineFailure:
    said = quote(last_words(words)[-1:])
    return EngineFailure(
        Cause.START_TIMEOUT,
        "The engine did not start in time" + (f"; it said last: {said}" if said else "."),
        remedy="A large model on a slow disk needs longer; otherwise " + _SEE_LOG.lower(),
        permanent=False,
    )


def _wedged() -> EngineFailure:
    return EngineFailure(
        Cause.WEDGED,
        "The engine runs, but does not answer any more.",
        remedy="If it comes back, raise WEDGE_SECONDS, or look at the GPU (nvidia-smi).",
        permanent=False,
    )


def _ended(words: Sequence[LogLine], exit_code: int | None) -> EngineFailure:
    # Only the newest lines: a request may have failed hours ago.
    said = quote(root_errors(words[-_NEWEST_LINES:])[-1:])
    return EngineFailure(
        Cause.CRASHED,
        f"The engine ended by itself with exit code {exit_code}" + (f": {said}" if said else "."),
        remedy=_SEE_LOG,
        permanent=False,
    )


def _unknown(words: Sequence[LogLine], exit_code: int | None) -> EngineFailure:
    said = quote(root_errors(words)[:MAX_QUOTED_LINES] or last_words(words))
    return EngineFailure(
        Cause.UNKNOWN,
        f"The engine could not start (exit code {exit_code})" + (f": {said}" if said else "."),
        remedy=_SEE_LOG,
        permanent=False,
    )


_FROM_OUTSIDE = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1}
_NATIVE_REMEDIES: dict[int, str] = {
    signal.SIGBUS: "Give the container more shared memory (docker run --shm-size=8g).",
    signal.SIGILL: "This processor lacks instructions that the image uses: take another machine.",
}


def _signal_in(exit_code: int | None) -> int | None:
    """The signal's number; a shell between us and the engine reports 128 + number."""
    if exit_code is None:
        return None
    number = -exit_code if exit_code < 0 else exit_code - 128
    return number if 0 < number <= 64 else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
