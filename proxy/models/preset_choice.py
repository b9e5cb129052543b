"""Which preset an environment asks for, and the settings that come of it."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from itertools import count
from pathlib import Path
from types import MappingProxyType

from proxy.errors import SettingsError
from proxy.models.folder import is_folder
from proxy.models.preset_file import inline_presets, read_presets
from proxy.models.several import (
    HOLD_SECONDS,
    changes_by_neighbors,
    check_keys,
    check_sleep,
    check_together,
    engine_variables,
    environs_of_models,
    names_all,
    names_of,
)
from proxy.settings import Settings
from proxy.settings.preset import Preset

SHIPPED = Path(__file__).with_name("presets.toml")


def load_settings(
    environ: Mapping[str, str], ports: Mapping[str, int] = MappingProxyType({})
) -> Settings:
    """Settings of an environment; where `MODEL_NAME` is that of a preset, with it.

    Where it names several models these are the settings of the first, with the `others`. `ports`
    are those of engines that there are, by the first name of their model: a model keeps its port,
    and a new one gets a port that nobody has, the sidecar included.

    Raises:
        SettingsError: a variable or the file of presets is wrong, or two models do not go together.
    """
    settings = Settings.load(environ)
    own_presets = _own_presets(settings)
    presets = _shipped() | own_presets
    environs = environs_of_models(settings, environ, own_presets)
    if not environs:
        settings = _with_preset(settings, environ, presets)
        check_keys(settings)
        is_unloaded = settings.idle_limit_seconds and settings.upstream_url is None
        if is_unloaded and "HOLD_SECONDS" not in settings.environ:
            return settings.model_copy(update={"hold_seconds": float(HOLD_SECONDS)})
        return settings
    taken = {settings.port, settings.port_health, settings.metrics_port, *ports.values()}
    free_ports = (port for port in count(settings.upstream_port) if port not in taken)
    models = []
    for name, own in environs.items():
        try:
            model = _with_preset(Settings.load(own), own, presets)
            if model.upstream_url is None:
                port = ports.get(names_of(model)[0]) or next(free_ports)
                own |= engine_variables(settings, name, port)
                model = _with_preset(Settings.load(own), own, presets)
        except SettingsError as error:
            raise SettingsError(f"model {name}: {error}") from None
        models.append(model)
    check_together(models)
    is_of_set = len(models) > 1 or names_all(settings)
    first, *others = [
        each.model_copy(update={**changes_by_neighbors(each, models), "is_of_set": is_of_set})
        for each in models
    ]
    return first.model_copy(update={"others": tuple(others)})


def _with_preset(
    settings: Settings, environ: Mapping[str, str], presets: Mapping[str, Preset]
) -> Settings:
    """The same with the preset that MODEL_NAME names, if there is one. Raises SettingsError."""
    preset = presets.get(settings.model_name or "")
    if preset is None:
        return settings
    if settings.upstream_url is not None:
        if preset.sleeps:
            raise SettingsError(
                f"preset {preset.name}: sleep=level1 is not for UPSTREAM_URL: only an engine that"
                " the sidecar has started is put to sleep; allowed there is off"
            )
        return settings
    settings = Settings.load(environ, preset)
    if settings.sleeps:
        check_sleep(settings)
    return settings


def presets_of(settings: Settings) -> dict[str, Preset]:
    """Those of `MODELS_INLINE`, of `MODELS_FILE`, then the shipped ones; of several with one name
    the first.

    Raises:
        SettingsError: one of the files is wrong.
    """
    own = _own_presets(settings)
    return own | {name: each for name, each in _shipped().items() if name not in own}


def _own_presets(settings: Settings) -> dict[str, Preset]:
    """Those of the user."""
    inline = inline_presets(settings.models_inline) if settings.models_inline else {}
    own = read_presets(Path(settings.models_file)) if settings.models_file else {}
    return inline | {name: each for name, each in own.items() if name not in inline}


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
