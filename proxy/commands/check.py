"""`python3 -m proxy check`: the preflight alone, as a table.

Exit codes: 0 nothing fails, 1 something does, 2 a variable is wrong.
"""

from __future__ import annotations

import shutil
import socket
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from errno import EADDRINUSE
from urllib.parse import urlsplit

import uvloop

from proxy.access.keys import Keys, warnings_about_keys
from proxy.machine.hardware import VISIBLE, detect
from proxy.models.preset_choice import load_settings, warnings_about_presets
from proxy.preflight.checkup import check_up
from proxy.preflight.finding import Finding, Result
from proxy.preflight.together import check_together, memory_rows
from proxy.protocols.named import named_protocols
from proxy.server.listener import listen
from proxy.settings import Settings
from proxy.telemetry.log_file import open_log_file
from proxy.telemetry.tracing import open_tracing
from proxy.terminal import Colour, coloured, takes_colours

_HEAD = ("CHECK", "RESULT", "FOUND, AND WHAT TO DO")
_COLOURS = {Result.OK: Colour.GREEN, Result.WARN: Colour.YELLOW, Result.FAIL: Colour.RED}
_LEAST_COLUMNS = 30
_COLLECTOR_SECONDS = 3.0


def main(environ: Mapping[str, str]) -> int:
    """Print the table. Raises SettingsError where a variable is wrong."""
    settings = load_settings(environ)
    warnings = warnings_about_presets(settings)
    keys = _keys(settings)
    named_protocols(settings)
    if settings.log_file is not None:
        open_log_file(settings.log_file).close()
    open_tracing(settings)
    findings = uvloop.run(check_up(settings))
    if settings.upstream_url is None:
        hardware = detect(settings.environ.get(VISIBLE))
        check_together(settings, hardware)
        if settings.others:
            findings += memory_rows(settings, hardware)
    applied = [each.preset for each in settings.models if each.preset is not None]
    presets = [Finding("preset", Result.OK, f"{each.sentence()}.") for each in applied]
    if not applied:
        presets = [Finding("preset", Result.WARN, text) for text in warnings]
    findings = [*presets, *findings, *_collectors(settings), keys, _listener(settings)]
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    lines = table(findings, columns, in_colour=takes_colours(sys.stdout, environ))
    print("\n".join(lines))
    return 1 if any(finding.result is Result.FAIL for finding in findings) else 0


def table(
    findings: Sequence[Finding], columns: int | None, *, in_colour: bool = False
) -> Iterator[str]:
    """Lines of at most `columns` characters; None: as long as they are, for grep and logs."""
    names = max(len(_HEAD[0]), *(len(finding.check) for finding in findings))
    results = max(len(_HEAD[1]), *(len(result) for result in Result))
    margin = names + results + 4
    width = max(_LEAST_COLUMNS, columns - margin) if columns else sys.maxsize
    yield f"{_HEAD[0]:{names}}  {_HEAD[1]:{results}}  {_HEAD[2]}"
    for finding in findings:
        lines = textwrap.wrap(finding.text, width)
        if finding.remedy:
            lines += textwrap.wrap(f"-> {finding.remedy}", width, subsequent_indent="   ")
        result = f"{finding.result:{results}}"
        if in_colour:
            result = coloured(result, _COLOURS[finding.result])
        yield f"{finding.check:{names}}  {result}  {lines[0]}"
        yield from (" " * margin + line for line in lines[1:])


def _collectors(settings: Settings) -> Iterator[Finding]:
    """Do the collectors of traces and log lines listen?"""
    for check, target in (("traces", settings.trace_target), ("log lines", settings.log_target)):
        if target is None:
            continue
        url = urlsplit(target.url)
        address = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
        try:
            socket.create_connection(address, _COLLECTOR_SECONDS).close()
        except OSError as error:
            reason = error.strerror or error
            text = f"Nobody takes them at {url.netloc}: {reason}. They would be lost."
            yield Finding(check, Result.WARN, text, f"Check {target.variables}.")
        else:
            yield Finding(check, Result.OK, f"To {url.netloc}, by {target.protocol}.")


def _keys(settings: Settings) -> Finding:
    """Who may ask? Raises SettingsError where the keys cannot be read."""
    keys = Keys(settings)
    if warnings := warnings_about_keys(settings, keys.all):
        return Finding("keys", Result.WARN, warnings[0])
    if not settings.needs_key:
        return Finding("keys", Result.OK, f"None: only this machine reaches {settings.host}.")
    return Finding("keys", Result.OK, f"{len(keys.all)}: {', '.join(keys.labels)}.")


def _listener(settings: Settings) -> Finding:
    """May the sidecar itself listen?"""
    named = (settings.port, settings.port_health, settings.port_of_metrics)
    ports = tuple(dict.fromkeys(filter(None, named)))
    try:
        for each in listen(settings.host, ports):
            each.close()
    except OSError as error:
        text = f"Cannot listen on {settings.host}: {error.strerror}"
        if error.errno != EADDRINUSE:
            return Finding("port", Result.FAIL, f"{text}.", "Correct HOST, or set another port.")
        text = f"{text} (a running sidecar, perhaps)."
        return Finding("port", Result.FAIL, text, "Set another one, or stop what listens there.")
    free = "is free" if len(ports) == 1 else "are free"
    return Finding("port", Result.OK, f"{', '.join(map(str, ports))} on {settings.host} {free}.")
