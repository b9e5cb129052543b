"""What engines that have slept hold of the machine's memory.

An engine that sleeps keeps its weights in pinned memory, which is not given back when it wakes, and
may be rounded up to a power of two. Where it does not fit, the kernel ends any process.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.machine.memory import DeviceMemory, machine_memory

_GIB = 1024**3
_FACTOR = 2


class PinnedMemory:
    """That of several engines."""

    def __init__(self, read: Callable[[], DeviceMemory | None] = machine_memory) -> None:
        self._read = read
        self._held: dict[str, int] = {}

    def obstacle(self, model: str, weights_bytes: int) -> str | None:
        """Why there is no room for a model's weights; None where there is.

        Twice the weights of all that have slept have to fit what there is, and twice those of one
        that never has what is free.
        """
        if not weights_bytes:
            return None
        memory = self._read()
        if memory is None:
            return "the machine's memory cannot be read"
        needed = _FACTOR * sum({**self._held, model: weights_bytes}.values())
        if needed > memory.total:
            return (
                f"the models that sleep would take {needed / _GIB:.1f} GiB of the machine's memory,"
                f" and there are {memory.total / _GIB:.1f} GiB"
            )
        needed, free = _FACTOR * weights_bytes, memory.total - memory.used
        if model not in self._held and needed > free:
            return (
                f"it would take {needed / _GIB:.1f} GiB of the machine's memory, and"
                f" {free / _GIB:.1f} GiB are free"
            )
        return None

    def hold(self, model: str, weights_bytes: int) -> None:
        """It sleeps: what it holds stays when it wakes."""
        self._held[model] = weights_bytes

    def release(self, model: str) -> None:
        """Its process is gone."""
        self._held.pop(model, None)


OF_ALL_ENGINES = PinnedMemory()
"""They share one machine."""
