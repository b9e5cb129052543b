"""The file of presets, read again while the sidecar runs.

All that is to change is found before anything changes. Then what is new is added, and the engine of
what is gone or changed ends once its requests are over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace

from proxy.errors import InvalidRequest, ModelConflict, SettingsError, draining
from proxy.models.several import names_of
from proxy.pool.model import ServedModel
from proxy.pool.pool import ModelPool
from proxy.pool.scheduler import Scheduler
from proxy.preflight.together import check_models
from proxy.settings import Settings

_log = logging.getLogger("proxy.pool")


@dataclass(frozen=True, slots=True)
class Changes:
    """The names of all models, as a reload has found them."""

    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        names = asdict(self)
        unchanged = len(names.pop("unchanged"))
        words = [f"{', '.join(each)} {how}" for how, each in names.items() if each]
        return "; ".join([*words, f"{unchanged} unchanged"])


class Reload:
    """One after the other; each is done or refused as a whole."""

    def __init__(
        self,
        pool: ModelPool,
        load: Callable[[Mapping[str, int]], Settings],
        make: Callable[[Settings], ServedModel],
        is_stopping: Callable[[], bool],
        on_names: Callable[[], None],
    ) -> None:
        """`load` reads the settings anew, given the ports of engines by the names of their models.
        `on_names` is called where names may have changed."""
        self._pool = pool
        self._load = load
        self._make = make
        self._is_stopping = is_stopping
        self._on_names = on_names
        self._turn = asyncio.Lock()

    async def __call__(self, admin: str) -> Changes:
        """`admin` is the label of the key that orders it.

        Raises:
            ModelConflict: no file says which models there are, or one that was removed is named
                again before its engine has ended.
            InvalidRequest: what stands there now cannot be. Nothing has changed.
            Draining: the sidecar is about to stop.
        """
        scheduler = self._pool.scheduler
        if scheduler is None:
            raise ModelConflict("The engines behind UPSTREAM_URL stand in no file: restart for it.")
        if self._pool.default.settings.models_file is None:
            raise ModelConflict("MODELS_FILE is not set: there is nothing to read again.")
        async with self._turn:
            models = await self._read()
            if self._is_stopping():
                raise draining()
            changes = self._apply(models, scheduler)
        _log.info("models reloaded by %s: %s", admin, changes.sentence())
        return changes

    async def _read(self) -> Mapping[str, Settings]:
        """What each model is to be, by its name, in order."""
        pool = self._pool
        ports = {model.name: model.target.upstream_port for model in pool.all}
        try:
            settings = await asyncio.to_thread(self._load, ports)
            await asyncio.to_thread(check_models, settings)
        except SettingsError as error:
            raise InvalidRequest(f"Nothing has changed: {error}") from None
        is_of_set = settings.is_of_set or bool(settings.model_keys)
        if is_of_set is not (pool.only is None):
            text = "keys of a single model are read at the start only: restart for it."
            raise InvalidRequest(f"Nothing has changed: {text}")
        presets = {model.target.preset.preset.name for model in pool if model.target.preset}
        for each in settings.models:
            if each.preset is None and each.model_name in presets:
                text = f"MODEL_NAME has {each.model_name}, a preset that is not there any more"
                raise InvalidRequest(f"Nothing has changed: {text}; put it back, or restart.")
        if pool.only is not None:
            return {"": settings}
        models = {names_of(each)[0]: each for each in settings.models}
        for model in pool.all:
            if model.is_removed and model.name in models:
                text = f"{model.name} was removed a moment ago, and its engine has not ended yet."
                raise ModelConflict(f"{text} Try again.")
        return models

    def _apply(self, models: Mapping[str, Settings], scheduler: Scheduler) -> Changes:
        pool, changes = self._pool, Changes()
        present = {model.name: model for model in pool}
        try:
            added = {name: self._make(models[name]) for name in models if name not in present}
        except SettingsError as error:
            raise InvalidRequest(f"Nothing has changed: {error}") from None
        for name in [name for name in present if name not in models]:
            changes.removed.append(name)
            present[name].is_removed = True
            pool.retire(present[name])
        for name, settings in models.items():
            if name in added:
                changes.added.append(name)
                pool.add(added[name])
                continue
            model = present[name]
            is_same = _meaning(settings) == _meaning(model.target)
            names = changes.unchanged if is_same else changes.changed
            names.append(name or names_of(settings)[0])
            is_other_engine = _engine(settings) != _engine(model.target)
            if is_same and _neighbors(settings) == _neighbors(model.target):
                continue
            model.adopt(settings)
            if is_other_engine or not model.view.holds_memory:
                pool.retire(model)
        default = pool.default
        pool.arrange(list(models))
        if pool.default is not default:
            scheduler.order_load(pool.default.name)
        self._on_names()
        scheduler.notify()
        return changes


def _meaning(settings: Settings) -> object:
    """All that a file says of a model, as far as no variable overrules it."""
    preset = settings.preset and replace(settings.preset.preset, variables={}, sources=())
    return dict(settings.environ), preset


def _neighbors(settings: Settings) -> object:
    """What the models on the same GPUs have changed in its settings."""
    return settings.gpu_sharers, settings.asleep_beside_bytes


def _engine(settings: Settings) -> object:
    """What an engine is made of: all but what concerns requests, and the loads of the next one."""
    environ = {name: text for name, text in settings.environ.items() if name != "MAX_IN_FLIGHT"}
    preset = settings.preset and replace(
        settings.preset.preset,
        variables={},
        sources=(),
        keys=(),
        pin=False,
        idle_unload_seconds=None,
        gpu_memory_gb=None,
        weights_gb=None,
        cache_kib=None,
        max_context=None,
    )
    return environ, preset
