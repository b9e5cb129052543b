"""`LOG_FILE`: the lines of stdout in a file too, and no trouble where that cannot be."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy.errors import SettingsError
from proxy.settings import LogFormat
from proxy.telemetry import log_file, log_output
from proxy.telemetry.logs import configure, dropped_lines, flush
from proxy.telemetry.request_log import log_request
from tests.patience import PATIENCE
from tests.proxy.telemetry.conftest import Lines
from tests.proxy.telemetry.records import full

_log = logging.getLogger("proxy.engine")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sidecar.log"


def written(path: Path) -> list[str]:
    flush(PATIENCE)
    text = path.read_text(encoding="utf-8")
    assert text == "" or text.endswith("\n")
    return text.split("\n")[:-1]


@pytest.mark.parametrize("log_format", LogFormat)
def test_every_line_of_stdout_is_in_the_file_in_the_same_words(
    lines: Lines, path: Path, log_format: LogFormat
) -> None:
    configure(log_format, "info", str(path))
    log_request(full())
    _log.warning("ü %s", "🦊", extra={"fields": {"phase": "loading"}})
    logging.getLogger("vllm").info("Loading weights")
    logging.getLogger("proxy").debug("hidden")
    on_stdout = lines()
    assert len(on_stdout) == 3
    assert written(path) == on_stdout
    if log_format is LogFormat.JSON:
        assert json.loads(on_stdout[1])["message"] == "ü 🦊"


def test_a_line_is_made_once_for_both(lines: Lines, path: Path) -> None:
    class Counting:
        count = 0

        def __str__(self) -> str:
            self.count += 1
            return "said"

    message = Counting()
    configure(LogFormat.JSON, "info", str(path))
    _log.info("%s", message, extra={"fields": {}})
    assert (len(lines()), len(written(path)), message.count) == (1, 1, 1)


def test_a_restart_goes_on_where_the_file_ends(lines: Lines, path: Path) -> None:
    for word in ("first", "second"):
        configure(LogFormat.TEXT, "info", str(path))
        _log.info(word)
        flush(PATIENCE)  # as at the end of a process
    assert [line.split()[-1] for line in written(path)] == ["first", "second"]
    assert len(lines()) == 2


def test_folders_that_are_missing_are_made(lines: Lines, tmp_path: Path) -> None:
    path = tmp_path / "logs" / "today" / "sidecar.log"
    configure(LogFormat.TEXT, "info", str(path))
    _log.info("here")
    assert written(path) == lines()


def test_the_file_is_rotated_by_size_and_three_older_ones_are_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_file, "MAX_BYTES", 1000)
    file = log_file.LogFile(str(path))
    lines = [b"line %d\n" % number for number in range(999)]
    for first in range(0, len(lines), 9):
        assert file.write(lines[first : first + 9]) == (0, None)
    file.close()
    oldest_first = [path.with_suffix(f".log.{number}") for number in (3, 2, 1)] + [path]
    assert sorted(path.parent.iterdir()) == sorted(oldest_first)
    assert all(900 < each.stat().st_size <= 1000 for each in oldest_first[:3])
    assert path.stat().st_size <= 1000
    kept = b"".join(each.read_bytes() for each in oldest_first)
    assert b"".join(lines).endswith(b"\n" + kept)


@pytest.mark.parametrize("take_away", [Path.unlink, lambda path: path.rename(f"{path}-1")])
def test_a_file_that_somebody_deletes_or_renames_is_made_anew(
    path: Path, take_away: Callable[[Path], None]
) -> None:
    file = log_file.LogFile(str(path))
    assert file.write([b"before\n"]) == (0, None)
    take_away(path)
    assert file.write([b"after\n"]) == (0, None)
    file.close()
    assert path.read_bytes() == b"after\n"


def test_a_network_volume_that_comes_back_gets_lines_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = log_file.LogFile(str(path))

    def refuse(fd: int) -> os.stat_result:
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as gone:
        gone.setattr(os, "fstat", refuse)
        lost, error = file.write([b"lost\n"])
        assert (lost, getattr(error, "errno", None)) == (1, errno.ESTALE)
    assert file.write([b"kept\n"]) == (0, None)
    file.close()
    assert path.read_bytes() == b"kept\n"


def test_its_size_is_the_one_that_the_page_names() -> None:
    page = (Path(__file__).parents[3] / "docs/logs.md").read_text()
    assert f"over {log_file.MAX_BYTES // 1024**2} MiB it is renamed" in page
    assert f"{log_file.OLDER_FILES} older files are kept" in page


# Where it cannot be written -------------------------------------------------------------------


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_nothing_but_lines_of_the_file_and_is_told_once(lines: Lines) -> None:
    configure(LogFormat.JSON, "info", "/dev/full")
    for number in range(100):
        _log.info("line %d", number)
    messages = [json.loads(line)["message"] for line in lines()]
    (reported,) = [message for message in messages if "LOG_FILE" in message]
    assert reported == f"LOG_FILE='/dev/full' cannot be written: [Errno 28] {os.strerror(28)}"
    assert [message for message in messages if message != reported] == [
        f"line {number}" for number in range(100)
    ]


def test_it_is_told_again_after_a_while(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(LogFormat.TEXT, "info", "/dev/full")
    seen = []
    for now in (0.0, 30.0, 59.0, 60.0):
        monkeypatch.setattr(log_output, "monotonic", lambda now=now: now)
        _log.info("a line")
        seen.append(["LOG_FILE" in line for line in lines()])
    assert seen == [[False, True], [False], [False], [False, True]]


def test_when_there_is_room_again_whole_lines_are_written_again(path: Path) -> None:
    file = log_file.LogFile(str(path))
    before = [b"line %d\n" % number for number in range(200)]
    after = [b"line %d\n" % number for number in range(200, 203)]
    with files_limited_to(1000):
        lost, error = file.write(before)
        assert error is not None
        assert error.errno == errno.EFBIG
        assert path.stat().st_size == 1000
        assert file.write(before)[0] == 200
    assert file.write(after) == (0, None)
    file.close()
    kept = 200 - lost
    assert path.read_bytes() == b"".join(before[:kept] + after), "no line of it is torn"
    assert kept > 100


@pytest.mark.parametrize("room_is_made", [lambda path: os.truncate(path, 0), os.unlink])
def test_a_file_that_is_emptied_begins_with_a_whole_line(
    path: Path, room_is_made: Callable[[Path], None]
) -> None:
    """What an operator does about a full disk."""
    file = log_file.LogFile(str(path))
    line = b'{"message":"%s"}\n' % (b"x" * 1000)
    with files_limited_to(1500):
        lost, error = file.write([line, line])
        assert (lost, error is not None, file.inside_line) == (0, True, True)
        room_is_made(path)
        assert file.write([line]) == (1, None)
    file.close()
    assert path.read_bytes() == line


def test_lines_that_a_file_has_lost_are_counted_and_told_of(
    lines: Lines, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    configure(LogFormat.JSON, "info", str(path))
    with monkeypatch.context() as patched:
        patched.setattr(log_file.LogFile, "write", lambda _, lines: (len(lines), full))
        for number in range(7):
            _log.info("line %d", number)
        flush(PATIENCE)
    assert dropped_lines() == 8, "the line about the trouble too"
    _log.info("there is room again")
    on_stdout, in_file = lines(), written(path)
    messages = [json.loads(line)["message"] for line in on_stdout]
    assert f"LOG_FILE={str(path)!r} cannot be written: [Errno 28] {full.strerror}" in messages
    assert messages[-2:] == [
        "there is room again",
        f"8 log lines were dropped: LOG_FILE={str(path)!r} did not take them",
    ]
    assert in_file == on_stdout[-2:]
    assert dropped_lines() == 8


def test_a_file_that_cannot_be_rotated_is_told_and_stdout_goes_on(
    lines: Lines, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(source: str, target: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), source)

    monkeypatch.setattr(log_file, "MAX_BYTES", 500)
    configure(LogFormat.TEXT, "info", str(path))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", refused)
        for number in range(20):
            _log.info("line %d", number)
            flush(PATIENCE)
    reported = [line for line in lines() if "LOG_FILE" in line]
    assert len(reported) == 1
    assert "Permission denied" in reported[0]
    assert path.stat().st_size <= 500
    _log.info("the last")
    assert written(path) == lines()


def below_a_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parents[1].write_text("a file")


def a_folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.mkdir(parents=True)


def a_pipe(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parent.mkdir()
    os.mkfifo(path)


def read_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere


@pytest.mark.parametrize(
    ("place", "wrong", "says"),
    [
        ("/proc/sidecar.log", None, "No such file or directory"),
        ("file/folder/sidecar.log", below_a_file, "Not a directory"),
        ("sub", a_folder, "it is no file"),
        ("sub/pipe", a_pipe, "it is no file"),
        ("sub/sidecar.log", read_only, "its folder cannot be written"),
        ("x" * 300, None, "File name too long"),
    ],
)
def test_a_file_that_cannot_be_had_stops_the_start_with_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    wrong: Callable[[Path, pytest.MonkeyPatch], None] | None,
    says: str,
) -> None:
    path = tmp_path / place
    if wrong is not None:
        wrong(path, monkeypatch)
    with pytest.raises(SettingsError) as refused:
        configure(LogFormat.JSON, "info", str(path))
    text = str(refused.value)
    assert text.startswith(f"LOG_FILE={str(path)!r}: ")
    assert says in text
    assert "allowed is a file that can be written" in text
    assert text.splitlines() == [text]
