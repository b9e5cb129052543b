"""Several models in one environment: an environment of its own for each, and what they share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from proxy.errors import EngineFailure, SettingsError
from proxy.models.fetch import served_names
from proxy.models.folder import is_folder
from proxy.models.kind import repository_of
from proxy.settings import Settings, variables
from proxy.settings.values import engine_urls, split_names
from proxy.vllm.control import is_control_path
from proxy.vllm.flags import gpus_taken
from proxy.vllm.share import expected_asleep_bytes

ALL = "*"
HOLD_SECONDS = "600"
"""A request for a model that is not loaded is not refused: it takes minutes until it is."""


def environs_of_models(
    settings: Settings, environ: Mapping[str, str], presets: Iterable[str]
) -> dict[str, dict[str, str]]:
    """The environment of each model by its name, in order; empty where there is only one.

    `presets` are those of the user, for which `*` stands.

    Raises:
        SettingsError: a name stands there twice, or a variable is for one model only.
    """
    own: list[tuple[str, dict[str, str]]] = []
    if settings.upstream_url is not None and "=" in settings.upstream_url:
        own = [(name, {"UPSTREAM_URL": url}) for name, url in engine_urls(settings.upstream_url)]
        variable = "UPSTREAM_URL"
    else:
        if settings.upstream_url is not None or settings.model_name is None:
            return {}
        names = split_names(settings.model_name)
        if (len(names) < 2 and not names_all(settings)) or is_folder(settings.model_name):
            return {}
        for name in names:
            # `*` is every preset that is not named beside it.
            chosen = (each for each in presets if each not in names) if name == ALL else [name]
            own += [(each, {}) for each in chosen]
        if not own:
            raise SettingsError(
                "MODEL_NAME=* is every preset of MODELS_FILE and MODELS_INLINE, and there is none;"
                " write one, or name a model"
            )
        variable = "MODEL_NAME"
    twice = [name for name, _ in own if sum(name == other for other, _ in own) > 1]
    if twice:
        raise SettingsError(f"{variable}: {twice[0]} stands there twice; allowed is each name once")
    if settings.served_model_names:
        raise SettingsError(
            "SERVED_MODEL_NAME is of one model, and there are several;"
            " set served_names in their presets (MODELS_FILE)"
        )
    spellings = variables()["model_name"]
    shared = {name: text for name, text in environ.items() if name not in spellings}
    if "HOLD_SECONDS" not in settings.environ:
        shared["HOLD_SECONDS"] = HOLD_SECONDS
    return {name: {**shared, "MODEL_NAME": name, **changes} for name, changes in own}


def names_all(settings: Settings) -> bool:
    """Whether MODEL_NAME has a `*`, so that a file says which models there are."""
    return ALL in split_names(settings.model_name or "")


def engine_variables(settings: Settings, name: str, port: int) -> dict[str, str]:
    """What an engine of ours has for itself: its port, and its cache of compiled code."""
    changes = {"UPSTREAM_PORT": str(port)}
    if port != settings.upstream_port:
        root = settings.environ.get("VLLM_CACHE_ROOT")
        if root is None:
            root = str(Path(settings.environ.get("XDG_CACHE_HOME", "~/.cache"), "vllm"))
        folder = re.sub(r"[^A-Za-z0-9._-]+", "--", name).strip("-.") or "model"
        with suppress(RuntimeError):  # `~` of a user who has no home folder
            root = str(Path(root).expanduser())
        changes["VLLM_CACHE_ROOT"] = str(Path(root, "models", folder))
    return changes


def names_of(settings: Settings) -> tuple[str, ...]:
    """The names that requests may use for one of several models."""
    name = settings.model_name or ""
    if settings.upstream_url is not None:
        return (name,)
    with suppress(EngineFailure):  # told when it is prepared
        name = repository_of(name, settings.model_revision)
    return served_names(settings, name)


def check_together(models: Sequence[Settings]) -> None:
    """Raises SettingsError where two models cannot be told apart, or nobody may use one."""
    owners: dict[str, str] = {}
    for settings in models:
        for name in names_of(settings):
            own = settings.short_name or ""
            if name in owners:
                raise SettingsError(
                    f"MODEL_NAME: {owners[name]} and {own} are both served as {name};"
                    " set other served_names in one of their presets"
                )
            owners[name] = own
        check_keys(settings)
    limit = models[0].max_loaded_models
    # The first one answers what names no model, so it has to have a place beside them.
    kept = [each for each in models if each.is_pinned or each is models[0]]
    if limit is not None and len(kept) > limit and any(each.is_pinned for each in models):
        names = ", ".join(each.short_name or "" for each in kept)
        raise SettingsError(
            f"MAX_LOADED_MODELS={limit}: {names} are to be loaded at a time, as pinned ones and the"
            f" first; allowed are {len(kept)} or more, or fewer pins"
        )


def check_keys(settings: Settings) -> None:
    """Raises SettingsError where only some keys may use a model, and there are no keys."""
    if settings.model_keys and not settings.needs_key:
        raise SettingsError(
            f"preset {settings.model_name}: keys={', '.join(settings.model_keys)}, but there are"
            " no keys; set API_KEYS or API_KEYS_FILE"
        )


def check_sleep(settings: Settings) -> None:
    """Raises SettingsError where a client could reach what only the sidecar may: the engine of a
    model that sleeps has routes that stop it, or change its weights."""
    for path in settings.extra_routes:
        if is_control_path(path):
            raise SettingsError(
                f"EXTRA_ROUTES={path}: a model here has sleep=level1, and by this path every client"
                " could control its engine; allowed are paths of vLLM that only read or generate"
            )


def changes_by_neighbors(settings: Settings, models: Sequence[Settings]) -> dict[str, int]:
    """What models on the same GPUs change in the settings of one."""
    own = _places(settings)
    places = [(each, _places(each)) for each in models]
    sharers = [
        each for each, other in places if own is None or other is None or not own.isdisjoint(other)
    ]
    sleepers = [each for each in sharers if each.sleeps and each is not settings]
    asleep_bytes = sum(map(expected_asleep_bytes, sleepers))
    return {"gpu_sharers": len(sharers), "asleep_beside_bytes": asleep_bytes}


def _places(settings: Settings) -> set[int] | None:
    """Its GPUs, by their places among those that CUDA shows; None: all, or that is not known."""
    count = gpus_taken(settings)
    if settings.gpus:
        return set(settings.gpus[:count])
    # No machine has so many: one digit too much must not take the memory.
    return None if count is None else set(range(min(count, 1024)))
