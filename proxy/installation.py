"""How the sidecar came here, as a package or as a checkout, and what a user types for it then.

An image has a checkout: its folder has scripts/ beside proxy/.
"""

from __future__ import annotations

from pathlib import Path

IS_CHECKOUT = (Path(__file__).resolve().parent.parent / "scripts/install-engine.sh").is_file()
COMMAND = "python3 -m proxy" if IS_CHECKOUT else "vllm-sidecar"
INSTALL_ENGINE = (
    "scripts/install-engine.sh" if IS_CHECKOUT else "pip install 'vllm-sidecar[engine]'"
)
