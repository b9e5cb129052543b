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
        self._reserved: dict[str, int] = {}
        self._pinned: set[str] = set()
        """Those that hold theirs by now: it is among what is used."""

    def reserve(self, model: str, weights_bytes: int) -> str | None:
        """Have room for a model's weights, which is about to sleep; why there is none, or None.

        Twice the weights of all that have slept have to fit what there is, and twice those of all
        that have not pinned theirs yet what is free.
        """
        if not weights_bytes:
            return None
        memory = self._read()
        if memory is None:
            return "the machine's memory cannot be read"
        reserved = {**self._reserved, model: weights_bytes}
        needed = _FACTOR * sum(reserved.values())
        if needed > memory.total:
            return (
                f"the models that sleep would take {needed / _GIB:.1f} GiB of the machine's memory,"
                f" and there are {memory.total / _GIB:.1f} GiB"
            )
        coming = sum(size for name, size in reserved.items() if name not in self._pinned)
        needed, free = _FACTOR * coming, memory.total - memory.used
        if model not in self._pinned and needed > free:
            return (
                f"it would take {needed / _GIB:.1f} GiB of the machine's memory, and"
                f" {free / _GIB:.1f} GiB are free"
            )
        self._reserved = reserved
        return None

    def hold(self, model: str) -> None:
        """It sleeps: what it holds stays when it wakes."""
        self._pinned.add(model)

    def release(self, model: str) -> None:
        """Its process is gone."""
        self._reserved.pop(model, None)
        self._pinned.discard(model)


OF_ALL_ENGINES = PinnedMemory()
"""They share one machine."""
