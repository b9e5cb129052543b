"""The models of one sidecar. One name is a set of one: the same code."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from time import monotonic
from typing import Any

from proxy.access.admission import Admission
from proxy.engine.phase import Phase
from proxy.engine.state import Snapshot
from proxy.errors import EngineUnreachable, ModelNotFound
from proxy.pool.memory import PoolMemory
from proxy.pool.model import ServedModel
from proxy.pool.scheduler import Scheduler
from proxy.preflight.checkup import check_disk_for_all
from proxy.tasks import spawn

_log = logging.getLogger("proxy.pool")

_RUNNING = (Phase.READY, Phase.DEGRADED, Phase.ASLEEP)
_SETTLED = (*_RUNNING, Phase.FAILED, Phase.DRAINING, Phase.STOPPED)
_FETCHING = (Phase.CHECKING, Phase.DOWNLOADING)
_MAX_NAME_CHARS = 200


class ModelPool:
    """The first model is the default: it answers the requests that name none."""

    def __init__(self, models: Sequence[ServedModel], admission: Admission | None = None) -> None:
        """`admission` lets requests into the sidecar where they say which model they are for. None:
        there is one model, which all of them are for."""
        self._models = list(models)
        """Those that a reload has removed at the end, until they are gone."""
        self.default = self._models[0]
        self.only: ServedModel | None = self.default if admission is None else None
        """The model of a set of one: a request is for it, whatever it names."""
        self.admission = admission or self.default.admission
        """Lets requests into the sidecar, and counts them until they are over."""
        self.memory = PoolMemory(self._models, self.default.settings)
        self.budget = self.memory.budget
        """What all models together may take."""
        self.scheduler: Scheduler | None = None
        """What loads and unloads; None where someone else runs the engines."""
        if self.default.settings.upstream_url is None:
            names = [model.name for model in self]
            self.scheduler = Scheduler(lambda: self._models, self.budget, preload=names)
        self._given_up = asyncio.Event()
        self._files_wanted = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._meters: dict[str, asyncio.Task[None]] = {}
        self._settled_since = monotonic()
        self.on_ended: Callable[[ServedModel], None] = lambda model: None
        """Called with each model that a reload has removed or changed, once its engine has
        ended."""
        for model in self._models:
            self._adopt(model)

    def _adopt(self, model: ServedModel) -> None:
        """Connect it with what all models share."""
        model.order_files = partial(self._fetch_renewed, model)
        model.state.listen(self._on_change)
        model.scheduler = self.scheduler
        if self.scheduler is not None:
            model.memory = self.memory

    def __iter__(self) -> Iterator[ServedModel]:
        return (model for model in self._models if not model.is_removed)

    @property
    def all(self) -> tuple[ServedModel, ...]:
        """Those too that a reload has removed and whose engine has not ended yet."""
        return tuple(self._models)

    def add(self, model: ServedModel) -> None:
        """One more from now on: its files are fetched, and it is loaded if there is room."""
        self._models.append(model)
        self._adopt(model)
        self._meters[model.name] = spawn(model.meter.run(), name="engine meter")
        self._files_wanted.set()
        if self.scheduler is not None:
            self.scheduler.preload(model.name)

    def arrange(self, names: Sequence[str]) -> None:
        """Put all that are not removed in this order; the first is the default."""
        before, by_name = self.default, {model.name: model for model in self}
        removed = [model for model in self._models if model.is_removed]
        self._models[:] = [*(by_name[name] for name in names), *removed]
        self.default = self._models[0]
        if self.default is not before:
            self.default.stand_in_for(before)

    def retire(self, model: ServedModel) -> None:
        """Let what runs at it finish and end its engine. Then it is gone, or is made anew."""
        is_new = not model.is_leaving
        model.leave()
        if is_new:
            self._spawn(self._end(model), f"end of {model.name}")

    async def _end(self, model: ServedModel) -> None:
        scheduler = self.scheduler
        assert scheduler is not None
        if not model.is_removed and (model.view.is_loaded or model is self.default):
            scheduler.order_load(model.name)  # at its end, unless it is to be unloaded by then
        scheduler.notify()
        if not await model.admission.wait_idle(model.settings.drain_seconds):
            model.cut("The model was removed or changed")
        await scheduler.until_gone(model.name)
        await model.unload()
        scheduler.forget_failure(model.name)
        if not model.is_removed:
            model.is_leaving = False
            model.reopen()
            self._fetch_renewed(model)
            scheduler.notify()
            self.on_ended(model)
            return
        scheduler.forget_orders(model.name)
        self._models.remove(model)
        self._meters.pop(model.name).cancel()
        self.on_ended(model)
        await model.clients.close()

    def find(self, name: str | None, key: str | None) -> ServedModel:
        """The model that a request of an API key names; None is the default.

        Raises:
            ModelNotFound: there is none, or it is not for that key.
        """
        named = self.default if not name else self._named(name)
        if named is not None and named.may_be_used_by(key):
            return named
        models = [model for model in self if model.may_be_used_by(key)]
        theirs = [name for model in models for name in (*model.names, *model.adapters)]
        names = ", ".join(theirs) or "none for this key"
        asked = "The request names no model, and this key may not use the default."
        if name:
            asked = f"There is no model {name[:_MAX_NAME_CHARS]} here."
        raise ModelNotFound(f"{asked} There is: {names}.", param="model")

    def named(self, name: str | None) -> ServedModel:
        """The same for an operator, who has no key.

        Raises:
            ModelNotFound: there is none.
        """
        if name is None or self.only is not None:
            return self.default
        if (model := self._named(name)) is None:
            names = ", ".join(each.name for each in self)
            text = f"There is no model {name[:_MAX_NAME_CHARS]} here. There is: {names}."
            raise ModelNotFound(text, param="model")
        return model

    def _named(self, name: str) -> ServedModel | None:
        for model in self:
            if name in model.names or name in model.adapters:
                return model
        # What an engine lists besides.
        return next((model for model in self if name in model.entries), None)

    async def find_stored(self, path: str, key: str | None) -> ServedModel:
        """The model whose engine has what is stored at `path`.

        Raises:
            ModelNotFound: none of the engines that run has it.
            EngineUnreachable: one of them does not say whether it has.
        """
        running = [
            model
            for model in self
            if model.may_be_used_by(key)
            and model.state.snapshot.phase in _RUNNING
            and not model.is_leaving
        ]
        stored = "/".join(path.split("/")[:4])
        answers = await asyncio.gather(*(model.probe.has(stored) for model in running))
        silent: ServedModel | None = None
        for model, has_it in zip(running, answers, strict=True):
            if has_it:
                return model
            if has_it is None:
                silent = model
        if silent is not None:
            text = f"The engine of {silent.name} does not say whether it has what is asked for."
            raise EngineUnreachable(text, retry_after_seconds=silent.state.retry_after())
        text = f"No engine that runs here has {stored[:_MAX_NAME_CHARS]}."
        raise ModelNotFound(f"{text} What an engine stores is gone when it ends.", param="id")

    def listing(self, key: str | None) -> bytes:
        """All models that a key may use, as `GET /v1/models` lists them: the engine's own entries
        where it has run, else what is known without it; with its status."""
        data = []
        for model in self:
            if not model.may_be_used_by(key):
                continue
            left = model.state.snapshot.seconds_left
            added: dict[str, Any] = {"status": model.status}
            if model.status == "loading" and left is not None:
                added["eta_seconds"] = round(left, 1)
            for name in dict.fromkeys((*model.names, *model.adapters, *model.entries)):
                if (own := model.entries.get(name)) is not None:
                    entry: dict[str, Any] = json.loads(own)
                else:
                    entry = {
                        "id": name,
                        "object": "model",
                        "created": model.created,
                        "owned_by": "vllm",
                        "root": model.settings.model_name,
                        "parent": model.name if name in model.adapters else None,
                    }
                data.append(entry | added)
        return json.dumps({"object": "list", "data": data}).encode()

    # From the first start to the last end

    def start(self) -> asyncio.Task[None]:
        """Fetch the files of all models, the default's first, and load one after the other.

        The task ends when no engine can be started any more.
        """
        for model in self:
            self._meters[model.name] = spawn(model.meter.run(), name="engine meter")
        if self.scheduler is None:
            for model in self:
                model.engine.start()
        else:
            self.default.start()
            self._spawn(self._schedule(self.scheduler), "scheduler")
            self._spawn(self._fetch_others(self.default), "files of models")
        if len(self._models) > 1 and self.scheduler is not None:
            self._spawn(self._check_disk(), "disk for all models")
        return self._spawn(self._given_up.wait(), "engines")

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Until `stop` at the latest."""
        task = spawn(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _schedule(self, scheduler: Scheduler) -> None:
        await self.memory.look()
        await scheduler.run()

    async def _check_disk(self) -> None:
        """Say at once what would come to light when the last one is fetched. Nothing waits for it:
        the default is to be ready as early as if it were alone."""
        finding = await check_disk_for_all([model.settings for model in self._models])
        if finding is not None:
            _log.warning(finding.sentence)

    async def _fetch_others(self, first: ServedModel) -> None:
        """Beside serving, but after `first`, the default. One that fails holds up no other."""
        while first.state.snapshot.phase in _FETCHING and not first.is_here:
            await first.changed()
        while True:
            self._files_wanted.clear()
            for model in self.all:
                await self._fetch(model)
            await self._files_wanted.wait()

    async def _fetch(self, model: ServedModel) -> None:
        if model.wants_files and not model.is_leaving and not model.engine.is_running:
            await model.fetch()

    def _fetch_renewed(self, model: ServedModel) -> None:
        """It was served, and mostly its files are here: it waits for no download of another."""
        if self.scheduler is not None and not self.scheduler.is_stopping:
            self._spawn(self._fetch(model), f"files of {model.name}")

    async def stop(self) -> None:
        """Let running requests finish, then end all engines; those that run nothing at once."""
        for task in self._tasks:
            task.cancel()
        if self.scheduler is not None:
            self.scheduler.close()
        if self.only is not None:
            await self.only.engine.stop()
        else:
            for model in self.all:
                model.admission.end_waiting()
            seconds = self.default.settings.drain_seconds
            finished = spawn(self.admission.wait_idle(seconds), name="drain")

            async def stop(model: ServedModel) -> None:
                if model.state.snapshot.model_loaded and not await asyncio.shield(finished):
                    model.cut()
                    model.admission.cut_now()
                model.admission.close()
                await model.engine.stop()

            await asyncio.gather(*(stop(model) for model in self.all))
        if self.scheduler is not None:
            await self.scheduler.stop()

    def reset_drain_counters(self) -> None:
        """Let `drained` count from now on."""
        for model in self.all:
            model.admission.reset_drain_counters()

    @property
    def drained(self) -> tuple[int, int]:
        """How many requests have finished, and how many were cut."""
        if self.only is not None:
            return self.only.admission.drained
        # Who was sent away while its model was waited for has been at no engine.
        cut = self.admission.drained[1]
        over = sum(sum(model.admission.drained) for model in self.all)
        return max(0, over - cut), cut

    def stop_meters(self) -> None:
        for meter in self._meters.values():
            meter.cancel()

    async def close_clients(self) -> None:
        for model in self.all:
            await model.clients.close()

    def idle_seconds(self) -> float:
        """How long there has been no request, 0 while an engine starts or a model is pinned."""
        idle_since = self.admission.idle_since()
        is_starting = any(model.state.snapshot.phase not in _SETTLED for model in self)
        if idle_since is None or is_starting or any(model.pinned for model in self):
            return 0.0
        return monotonic() - max(idle_since, self._settled_since)

    def _on_change(self, before: Snapshot, after: Snapshot) -> None:
        if after.phase in _SETTLED and before.phase not in _SETTLED:
            self._settled_since = monotonic()
        if all(model.state.snapshot.phase is Phase.FAILED for model in self):
            self._given_up.set()
