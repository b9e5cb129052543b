"""Hook of mkdocs (mkdocs.yml): of links from a page to a file of the repository the words stay, as
the site has only docs/. scripts/check_links.py holds such links to files that exist."""

from __future__ import annotations

import re
from typing import Any

_OUT_OF_DOCS = re.compile(r"\[`?([^\[\]`]*)`?\]\(\.\./[^)\s]*\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    return _OUT_OF_DOCS.sub(r"`\1`", markdown)
