"""A browser for all tests of a module, and a tab of it for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.page.browser import DESK, Chromium, Tab
from tests.tools import tool


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tool("chromium"), tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def tab(chromium: Chromium) -> Iterator[Tab]:
    with chromium.tab() as tab:
        tab.size(*DESK)
        tab.scheme("light")
        yield tab
