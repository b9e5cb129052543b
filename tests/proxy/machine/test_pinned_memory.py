"""What engines that sleep hold of the machine's memory."""

from __future__ import annotations

from proxy.machine.memory import DeviceMemory
from proxy.machine.pinned_memory import PinnedMemory

GIB = 1024**3


def test_twice_the_weights_of_all_that_ever_slept_have_to_fit() -> None:
    pinned = PinnedMemory(lambda: DeviceMemory(10 * GIB, 64 * GIB))
    assert pinned.obstacle("a", 16 * GIB) is None
    pinned.hold("a", 16 * GIB)
    obstacle = pinned.obstacle("b", 20 * GIB)
    assert obstacle is not None
    assert "would take 72.0 GiB" in obstacle
    assert "there are 64.0 GiB" in obstacle
    assert pinned.obstacle("b", 15 * GIB) is None
    assert pinned.obstacle("a", 16 * GIB) is None, "what it has pinned it has"
    pinned.release("a")
    assert pinned.obstacle("b", 20 * GIB) is None


def test_one_that_never_slept_needs_twice_its_weights_free() -> None:
    pinned = PinnedMemory(lambda: DeviceMemory(50 * GIB, 64 * GIB))
    obstacle = pinned.obstacle("a", 10 * GIB)
    assert obstacle is not None
    assert "would take 20.0 GiB" in obstacle
    assert "14.0 GiB are free" in obstacle
    pinned.hold("a", 10 * GIB)
    assert pinned.obstacle("a", 10 * GIB) is None


def test_memory_that_cannot_be_read_is_an_obstacle_where_something_is_pinned() -> None:
    pinned = PinnedMemory(lambda: None)
    assert pinned.obstacle("a", 1) == "the machine's memory cannot be read"
    assert pinned.obstacle("a", 0) is None, "without a GPU the weights stay where they are"
