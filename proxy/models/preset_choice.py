"""Which preset an environment asks for, and the settings that come of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from proxy.models.preset_file import read_presets
from proxy.settings import Settings
from proxy.settings.preset import Preset

SHIPPED = Path(__file__).with_name("presets.toml")


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Settings of an environment; where `MODEL_NAME` is that of a preset, with it.

    Raises:
        SettingsError: a variable is wrong, or the file of presets.
    """
    settings = Settings.load(environ)
    presets = presets_of(settings)
    if settings.upstream_url is not None or settings.model_name not in presets:
        return settings
    return Settings.load(environ, presets[settings.model_name])


def presets_of(settings: Settings) -> dict[str, Preset]:
    """Those of `MODELS_FILE`, then the shipped ones; of two with one name the first.

    Raises:
        SettingsError: one of the files is wrong.
    """
    own = read_presets(Path(settings.models_file)) if settings.models_file else {}
    return own | {name: each for name, each in _shipped().items() if name not in own}


@cache
def _shipped() -> dict[str, Preset]:
    return read_presets(SHIPPED)


def warnings_about_presets(settings: Settings) -> tuple[str, ...]:
    """A model's name that means something else than it seems to."""
    name = settings.model_name
    if name is None or settings.preset is not None or not name.strip("~./"):
        return ()
    presets = presets_of(settings)
    if settings.upstream_url is not None:
        text = f"MODEL_NAME={name} is a preset, which has no effect with UPSTREAM_URL"
        return (text,) if name in presets else ()
    if any(sign in name for sign in "/:~"):
        return ()
    with suppress(OSError):  # longer than the name of a folder can be
        if Path(name).is_dir():
            return ()
    near = get_close_matches(name.lower(), presets, n=1, cutoff=0.8)
    return (f"MODEL_NAME={name} is no preset. Did you mean {near[0]}?",) if near else ()
