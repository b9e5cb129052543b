"""Asks the operating system for the addresses of a host."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from threading import Thread

# A name server that does not answer holds a thread for many seconds: not one of the threads that
# the rest of the sidecar uses, and none that the end of the process waits for.
_THREADS = 32
_SECONDS = 10.0

_Answer = asyncio.Future[list[str]]


class DnsResolver:
    """One question for each call, and nothing kept of the answers."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(_THREADS)

    async def __call__(self, host: str, port: int) -> list[str]:
        """The addresses of a host, in the system's order.

        Raises:
            OSError, UnicodeError: it has no address, is no host, or the answer took too long.
        """
        async with asyncio.timeout(_SECONDS):
            await self._turns.acquire()
            answer: _Answer = asyncio.get_running_loop().create_future()
            try:
                Thread(target=self._ask, args=(answer, host, port), daemon=True).start()
            except RuntimeError as error:  # there can be no more threads
                self._turns.release()
                raise OSError(str(error)) from None
            return list(dict.fromkeys(await answer))

    def _ask(self, answer: _Answer, host: str, port: int) -> None:
        outcome: list[str] | Exception
        try:
            outcome = [
                str(address[0])
                for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            ]
        except (OSError, ValueError) as error:
            outcome = error

        def hand_over() -> None:
            self._turns.release()
            if answer.done():  # the request has ended
                return
            if isinstance(outcome, list):
                answer.set_result(outcome)
            else:
                answer.set_exception(outcome)

        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            answer.get_loop().call_soon_threadsafe(hand_over)
