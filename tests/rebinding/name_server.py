"""A name server over UDP whose answers change from one question to the next (RFC 1035)."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Sequence
from ipaddress import ip_address

PORT = 53
_A, _AAAA = 1, 28
_RESPONSE = 0x8180
_NAME_OF_THE_QUESTION = 0xC00C
_HEAD_BYTES = 12

Answer = Sequence[str]
"""The addresses of a name at one time, of both families."""


class NameServer:
    """Answers for any name. Each look-up of an A record takes the next answer; the last one stays.

    The AAAA record of a name is that of its latest A record: `getaddrinfo` asks for A first.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, PORT))
        self._answers: list[Answer] = [()]
        self._current: Answer = ()
        self.lookups: list[Answer] = []
        """What each look-up since `answers` was told."""
        threading.Thread(target=self._serve, daemon=True).start()

    def answers(self, *answers: Answer) -> None:
        """From now on these, one after the other."""
        self._answers, self.lookups = list(answers), []

    def _serve(self) -> None:
        while True:
            question, client = self._socket.recvfrom(512)
            self._socket.sendto(self._answer(question), client)

    def _answer(self, question: bytes) -> bytes:
        end = question.index(b"\0", _HEAD_BYTES) + 5
        (kind,) = struct.unpack_from("!H", question, end - 4)
        if kind == _A:
            more = len(self._answers) > 1
            self._current = self._answers.pop(0) if more else self._answers[0]
            self.lookups.append(self._current)
        found = [ip_address(one) for one in self._current]
        wanted = {_A: 4, _AAAA: 6}.get(kind)
        records = [self._record(kind, one.packed) for one in found if one.version == wanted]
        head = question[:2] + struct.pack("!HHHHH", _RESPONSE, 1, len(records), 0, 0)
        return head + question[_HEAD_BYTES:end] + b"".join(records)

    def _record(self, kind: int, data: bytes) -> bytes:
        """Good for no second: nobody may keep it."""
        return struct.pack("!HHHIH", _NAME_OF_THE_QUESTION, kind, 1, 0, len(data)) + data
