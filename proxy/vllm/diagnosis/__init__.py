"""Output lines + exit code -> cause, sentence, remedy, is a retry of any use. Pure.

What makes it less simple than a search (vLLM 0.32):

- the root cause of a failed start is the first Worker or EngineCore traceback, about 115
  lines above the last line, `Engine core initialization failed. See root cause above`;
- an engine that crashes while it serves exits with 0;
- a process of the engine that is killed leaves no error of its own, only the remark of
  another process; and a normal SIGTERM prints the same EngineDeadError as a crash.

So rules look at errors only, never at a line that vLLM itself calls INFO or WARNING. For an
engine that has served they look only at what it printed from its death on. What no rule
explains is UNKNOWN, with vLLM's own last lines.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Sequence

from proxy.errors import Cause, EngineFailure
from proxy.vllm.diagnosis.facts import facts_of
from proxy.vllm.diagnosis.log_excerpt import (
    MAX_QUOTED_LINES,
    errors,
    index,
    last_lines,
    quote,
    root_errors,
)
from proxy.vllm.diagnosis.machine_rules import MACHINE_RULES, RUN_RULES
from proxy.vllm.diagnosis.model_rules import IMPORT_RULES, MODEL_RULES
from proxy.vllm.diagnosis.rule import Rule
from proxy.vllm.diagnosis.settings_rules import SETTING_RULES
from proxy.vllm.log_lines import LogLine, clean_lines, parse_line

START_RULES: tuple[Rule, ...] = (*SETTING_RULES, *MODEL_RULES, *MACHINE_RULES, *IMPORT_RULES)
"""For an engine that has not served yet; all its errors are looked at, the most specific rule
first. RUN_RULES are for one that has."""

_NEWEST_LINES = 60
_MAX_LINE_CHARS = 4_000
"""More of one line is never looked at: a list of architectures takes 10 KB."""

_CRASHED = re.compile(r"EngineCore encountered a fatal error")
_NATIVE_CRASH = re.compile(r"Fatal Python error: (?P<text>.+)|terminate called after (?P<what>.+)")
_VANISHED = re.compile(
    r"(?P<worker>Worker) proc \S+ died unexpectedly|"
    r"\[shutdown\] MPClient: engine core exited unexpectedly|"
    r"Engine core process \S+ died unexpectedly"
)
_ASKED_TO_STOP = re.compile(r"\[shutdown\] API server: shutdown triggered")
_BEGINNING = re.compile(r"non-default args: ")
_CORES_FAILED = re.compile(
    r"RuntimeError: Engine core initialization failed\..*core proc\(s\): \{(?P<procs>[^}]*)\}"
)

_SIGNALS_FROM_OUTSIDE = {
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
}
_SEE_LOG = "Look at the engine's lines in the log."
_NATIVE_REMEDIES: dict[int, str] = {
    signal.SIGBUS: "Give the container more shared memory (docker run --shm-size=8g).",
    signal.SIGILL: "This processor lacks instructions that the image uses: take another machine.",
}


def diagnose(lines: Sequence[str], exit_code: int | None, *, was_ready: bool) -> EngineFailure:
    """Say why the engine could not start (`was_ready` false) or stopped serving (true).

    `lines` are its output, newest last; `exit_code` is Popen's (-9: killed by signal 9) and None
    for an engine that still ran when it was given up.
    """
    output = [parse_line(clean[:_MAX_LINE_CHARS]) for line in lines for clean in clean_lines(line)]
    marks = (index(output, mark) for mark in (_CRASHED, _NATIVE_CRASH, _VANISHED))
    # From here on everything is consequence.
    death = min((mark for mark in marks if mark is not None), default=None)
    stop = index(output, _ASKED_TO_STOP)
    if not was_ready:
        failure = _by_rule(START_RULES, errors(output))
        if failure is None and death is not None:
            failure = _by_death(output, death, starting=True)
        if failure is None and exit_code is None:
            return _unexplained(
                Cause.START_TIMEOUT,
                "The engine did not start in time",
                last_lines(output)[-1:],
                "A large model on a slow disk needs longer; otherwise " + _SEE_LOG.lower(),
            )
        failure = failure or _by_exit_code(exit_code)
        if failure is None and stop is not None:
            return _asked_to_stop()
        return (
            failure
            or _by_missing_process(output)
            or _unexplained(
                Cause.UNKNOWN,
                f"The engine could not start (exit code {exit_code})",
                root_errors(output)[:MAX_QUOTED_LINES] or last_lines(output),
            )
        )
    if stop is not None and (death is None or stop < death):
        return _by_exit_code(exit_code) or _asked_to_stop()
    if death is not None:
        failure = _by_rule(RUN_RULES, errors(output[death:]))
        failure = failure or _by_death(output, death, starting=False)
        if failure is not None:
            return failure
    if exit_code is None:
        return _failure(
            Cause.WEDGED,
            "The engine runs, but does not answer any more.",
            "If it comes back, raise WEDGE_SECONDS, or look at the GPU (nvidia-smi).",
        )
    return _by_exit_code(exit_code) or _unexplained(
        Cause.CRASHED,
        f"The engine ended by itself with exit code {exit_code}",
        # Only the newest lines: a request may have failed hours ago.
        root_errors(output[-_NEWEST_LINES:])[-1:],
    )


def _by_rule(rules: Iterable[Rule], text: str) -> EngineFailure | None:
    for rule in rules:
        groups = rule.groups_in(text)
        if groups is not None:
            facts = facts_of(groups)
            sentence = rule.sentence.format_map(facts)
            remedy = rule.remedy.format_map(facts)
            return EngineFailure(rule.cause, sentence, remedy=remedy, permanent=rule.permanent)
    return None


def _by_death(output: Sequence[LogLine], death: int, *, starting: bool) -> EngineFailure | None:
    """A process that dies by its own error says so; one that is killed is missed by others."""
    message = output[death].message
    if vanished := _VANISHED.match(message):
        # While starting, an error of its own may stand above: then nobody killed it.
        if starting and root_errors(output[:death]):
            return None
        process = "worker" if vanished["worker"] else "core"
        return _killed(f"The engine's {process} process vanished without an error: killed")
    if crash := _NATIVE_CRASH.match(message):
        return _native_crash(quote([crash["text"] or crash["what"]]))
    return _unexplained(
        Cause.CRASHED,
        f"The engine crashed on {'its first request' if starting else 'a request'}",
        root_errors(output[death:])[:1],
        "If one kind of request brings it back, refuse that kind; otherwise use another image or"
        " model.",
    )


def _by_exit_code(code: int | None) -> EngineFailure | None:
    """Why a signal ended it; a shell between us and the engine reports 128 + its number."""
    if code is None:
        return None
    number = -code if code < 0 else code - 128
    if not 0 < number <= 64:
        return None
    if number == signal.SIGKILL:
        return _killed("The engine was killed (signal 9)")
    names = {each.value: each.name for each in signal.Signals}
    name = names.get(number, f"signal {number}")
    if number in _SIGNALS_FROM_OUTSIDE:
        return _ended_from_outside(f"The engine was ended from outside ({name}).")
    return _native_crash(name, _NATIVE_REMEDIES.get(number, _SEE_LOG))


def _by_missing_process(output: Sequence[LogLine]) -> EngineFailure | None:
    """A start in which a process went missing, and nobody raised an error that says why."""
    failed = _CORES_FAILED.search(errors(output))
    # Without the beginning of the output the error may have been in the part that is lost.
    if failed is None or index(output, _BEGINNING) is None or root_errors(output):
        return None
    code = re.search(r": (-\d+)", failed["procs"])
    if code and int(code[1]) != -signal.SIGKILL:
        return _by_exit_code(int(code[1]))
    return _killed("A process of the engine vanished while it started: killed")


def _killed(sentence: str) -> EngineFailure:
    return _failure(
        Cause.KILLED,
        f"{sentence}, most likely by the kernel for want of memory (RAM).",
        "Give the container more memory (RAM); the kernel's log names what was killed.",
    )


def _asked_to_stop() -> EngineFailure:
    return _ended_from_outside("The engine was asked to stop from outside (SIGTERM or SIGINT).")


def _ended_from_outside(sentence: str) -> EngineFailure:
    remedy = "No setting is wrong: look for what sends signals inside the container."
    return _failure(Cause.KILLED, sentence, remedy)


def _native_crash(reason: str, remedy: str = _SEE_LOG) -> EngineFailure:
    return _failure(Cause.CRASHED, f"The engine crashed in native code ({reason}).", remedy)


def _unexplained(
    cause: Cause, sentence: str, quoted: Sequence[str], remedy: str = _SEE_LOG
) -> EngineFailure:
    """What no rule explains: the engine's own lines, where there are any."""
    reason = quote(quoted)
    return _failure(cause, sentence + (f": {reason}" if reason else "."), remedy)


def _failure(cause: Cause, sentence: str, remedy: str) -> EngineFailure:
    """One after which another start is worth trying."""
    return EngineFailure(cause, sentence, remedy=remedy, permanent=False)


__all__ = ["RUN_RULES", "START_RULES", "diagnose"]
