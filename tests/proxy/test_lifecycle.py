"""The order of the shutdown, and that nothing keeps its rest from happening."""

from __future__ import annotations

import logging

import pytest

from proxy.errors import Draining
from tests.proxy.house import house


async def test_a_part_that_fails_to_end_does_not_keep_the_others_from_ending(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[str] = []

    def breaks() -> None:
        raise RuntimeError("this part is broken")

    async def closes() -> None:
        ended.append("usage of keys")

    async with house() as there:
        sidecar = there.sidecar
        monkeypatch.setattr(sidecar.models.default.upstream, "close", breaks)
        monkeypatch.setattr(sidecar.meters.gpu, "stop", breaks)
        monkeypatch.setattr(sidecar.access, "stop", closes)
        caplog.set_level(logging.INFO, "proxy")
        await there.lifecycle.shutdown()
        with pytest.raises(Draining):
            await sidecar.models.admission.enter()
    assert ended[0] == "usage of keys"
    failed = [line.getMessage() for line in caplog.records if line.levelno == logging.ERROR]
    assert failed[:2] == [
        "shutdown: meters failed to end",
        "shutdown: connections to the engine failed to end",
    ]
