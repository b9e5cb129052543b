"""Which preset an environment asks for, and the settings that come of it."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from proxy.errors import SettingsError
from proxy.models.folder import is_folder
from proxy.models.preset_file import inline_presets, read_presets
from proxy.models.several import (
    HOLD_SECONDS,
    check_keys,
    check_together,
    environs_of_models,
    gpu_sharers,
)
from proxy.settings import Settings
from proxy.settings.preset import Preset

SHIPPED = Path(__file__).with_name("presets.toml")


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Settings of an environment; where `MODEL_NAME` is that of a preset, with it.

    Where it names several models these are the settings of the first, with the `others`.

    Raises:
        SettingsError: a variable or the file of presets is wrong, or two models do not go together.
    """
    settings = Settings.load(environ)
    environs = environs_of_models(settings, environ)
    if not environs:
        settings = _with_preset(settings, environ)
        check_keys(settings)
        # A model that is unloaded is not refused: it takes minutes until it is loaded again.
        is_unloaded = settings.idle_limit_seconds and settings.upstream_url is None
        if is_unloaded and "HOLD_SECONDS" not in settings.environ:
            return settings.model_copy(update={"hold_seconds": float(HOLD_SECONDS)})
        return settings
    models = []
    for name, own in environs.items():
        try:
            models.append(_with_preset(Settings.load(own), own))
        except SettingsError as error:
            raise SettingsError(f"model {name}: {error}") from None
    check_together(models)
    first, *others = [
        each.model_copy(update={"gpu_sharers": gpu_sharers(each, models)}) for each in models
    ]
    return first.model_copy(update={"others": tuple(others)})


def _with_preset(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """Raises SettingsError."""
    presets = presets_of(settings)
    if settings.upstream_url is not None or settings.model_name not in presets:
        return settings
    return Settings.load(environ, presets[settings.model_name])


def presets_of(settings: Settings) -> dict[str, Preset]:
    """Those of `MODELS_INLINE`, of `MODELS_FILE`, then the shipped ones; of several with one name
    the first.

    Raises:
        SettingsError: one of the files is wrong.
    """
    inline = inline_presets(settings.models_inline) if settings.models_inline else {}
    own = read_presets(Path(settings.models_file)) if settings.models_file else {}
    found = dict(inline)
    for presets in (own, _shipped()):
        found |= {name: each for name, each in presets.items() if name not in found}
    return found


@cache
def _shipped() -> dict[str, Preset]:
    return read_presets(SHIPPED)


def warnings_about_presets(settings: Settings) -> tuple[str, ...]:
    """A model's name that means something else than it seems to."""
    warnings = []
    for each in settings.models:
        name = each.model_name
        if name is None or each.preset is not None or not name.strip("~./"):
            continue
        presets = presets_of(each)
        if each.upstream_url is not None:
            if name in presets:
                text = f"MODEL_NAME={name} is a preset, which has no effect with UPSTREAM_URL"
                warnings.append(text)
        elif not any(sign in name for sign in "/:~") and not is_folder(name):
            near = get_close_matches(name.lower(), presets, n=1, cutoff=0.8)
            warnings += [f"MODEL_NAME={name} is no preset. Did you mean {near[0]}?"] if near else []
    return tuple(warnings)
