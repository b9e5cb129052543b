"""What engines that sleep hold of the machine's memory."""

from __future__ import annotations

from proxy.machine.memory import DeviceMemory
from proxy.machine.pinned_memory import PinnedMemory

GIB = 1024**3


def test_twice_the_weights_of_all_that_ever_slept_have_to_fit() -> None:
    pinned = PinnedMemory(lambda: DeviceMemory(10 * GIB, 64 * GIB))
    assert pinned.reserve("a", 16 * GIB) is None
    pinned.hold("a")
    obstacle = pinned.reserve("b", 20 * GIB)
    assert obstacle is not None
    assert "would take 72.0 GiB" in obstacle
    assert "there are 64.0 GiB" in obstacle
    assert pinned.reserve("b", 15 * GIB) is None
    assert pinned.reserve("a", 16 * GIB) is None, "what it has pinned it has"
    pinned.release("a")
    assert pinned.reserve("b", 20 * GIB) is None


def test_one_that_never_slept_needs_twice_its_weights_free() -> None:
    pinned = PinnedMemory(lambda: DeviceMemory(50 * GIB, 64 * GIB))
    obstacle = pinned.reserve("a", 10 * GIB)
    assert obstacle is not None
    assert "would take 20.0 GiB" in obstacle
    assert "14.0 GiB are free" in obstacle
    assert pinned.reserve("a", 7 * GIB) is None
    pinned.hold("a")
    assert pinned.reserve("a", 7 * GIB) is None, "it is among what is used"


def test_one_that_falls_asleep_has_its_room_from_the_first() -> None:
    """On another GPU another one may fall asleep beside it."""
    pinned = PinnedMemory(lambda: DeviceMemory(20 * GIB, 64 * GIB))
    assert pinned.reserve("a", 12 * GIB) is None
    obstacle = pinned.reserve("b", 12 * GIB)
    assert obstacle is not None
    assert "would take 48.0 GiB" in obstacle
    pinned.release("a")  # it has failed
    assert pinned.reserve("b", 12 * GIB) is None


def test_memory_that_cannot_be_read_is_an_obstacle_where_something_is_pinned() -> None:
    pinned = PinnedMemory(lambda: None)
    assert pinned.reserve("a", 1) == "the machine's memory cannot be read"
    assert pinned.reserve("a", 0) is None, "without a GPU the weights stay where they are"
