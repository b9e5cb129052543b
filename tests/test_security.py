"""docs/security.md says what the tables of attacks hold, and names what is refused."""

from __future__ import annotations

import re
from pathlib import Path

from proxy.settings import Settings
from tests.attacks import smuggling
from tests.attacks.paths import CONTROL, DISGUISES, HEADERS, TARGETS
from tests.attacks.urls import NAMES, NO_URLS, REFUSED
from tests.proxy.media.test_fetch import LEADS_AWAY
from tests.rebinding.world import CASES as REBINDING

DOCUMENT = (Path(__file__).resolve().parent.parent / "docs/security.md").read_text()
# In the order of the table; each is what the parameters of one test are.
TRIED = {
    "URLs that lead inside": len(REFUSED),
    "Strings that only look like": len(NO_URLS),
    "Names that resolve": 2 * len(NAMES),
    "Redirects that lead inside": 5 * len(LEADS_AWAY),
    "Control routes": 2 * len(CONTROL) * len(DISGUISES),
    "Listed paths": 2 * len(TARGETS),
    "Headers that some servers": 2 * len(HEADERS),
    "Requests inside requests": len(smuggling.ATTACKS),
}


def test_the_counts_are_those_of_the_tables() -> None:
    rows = re.findall(r"^\| (.*?) \| ([\d,]+) \| 0 \|$", DOCUMENT, re.MULTILINE)
    said = [int(tried.replace(",", "")) for _, tried in rows]
    assert said == list(TRIED.values()), "docs/security.md is to say the numbers on the right"
    assert all(row.startswith(name) for (row, _), name in zip(rows, TRIED, strict=True))


def test_every_attack_has_a_source() -> None:
    sources = [
        *(*REFUSED.values(), *NO_URLS.values(), *DISGUISES.values(), *TARGETS.values()),
        *(*HEADERS.values(), *(source for _, source in NAMES.values())),
        *(source for _, source in smuggling.ATTACKS.values()),
    ]
    assert all(sources)


def test_the_figures_in_the_text_are_the_defaults() -> None:
    assert f"look-up ({len(REBINDING)} such\ncases)" in DOCUMENT
    assert f"have {Settings.load({}).media_fetch_concurrency} URLs fetched at a time" in DOCUMENT
