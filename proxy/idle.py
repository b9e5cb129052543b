"""A pod without requests costs as much as a busy one: after a while it exits, or is stopped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

import httpx

from proxy.settings import PodIdleAction, Settings

_log = logging.getLogger("proxy")

_LOOK_SECONDS = 1.0
# RunPod ends the container within a minute. Where it has not, it is asked again.
_RETRY_SECONDS = 300.0
_API_TIMEOUT_SECONDS = 30.0
# As RunPod's own Python package has it.
_API_VARIABLE, _API_URL = "RUNPOD_API_BASE_URL", "https://api.runpod.io"


class PodIdle:
    """Waits until the pod has been idle for `POD_IDLE_SECONDS`, and does `POD_IDLE_ACTION`."""

    def __init__(self, settings: Settings, idle_seconds: Callable[[], float]) -> None:
        """`idle_seconds` is how long there has been no request, 0 while the engine starts."""
        self._limit_seconds = settings.pod_idle_seconds
        self._idle_seconds = idle_seconds
        self._pod = None
        if self._limit_seconds and settings.pod_idle_action is PodIdleAction.RUNPOD_STOP:
            self._pod = RunPod(settings.environ)

    @property
    def announcement(self) -> str | None:
        """What will happen, for the log; None where nothing will."""
        if not self._limit_seconds:
            return None
        what = "the sidecar exits" if self._pod is None else f"pod {self._pod.id} is stopped"
        return f"{what} after {self._limit_seconds:g} s without a request (POD_IDLE_SECONDS)"

    async def run(self) -> None:
        """Returns when the sidecar is to exit; a pod that is stopped gets SIGTERM by itself."""
        while True:
            left = self._limit_seconds - self._idle_seconds()
            if left > 0:
                await asyncio.sleep(max(left, _LOOK_SECONDS))
            elif self._pod is None:
                _log.warning("exiting: no request for %g s", self._limit_seconds)
                return
            else:
                seconds, pod = self._limit_seconds, self._pod
                try:
                    await pod.stop()
                except Exception as error:  # whatever it is, the sidecar goes on serving
                    text = "no request for %g s, but pod %s cannot be stopped: %s; next try in %g s"
                    _log.error(text, seconds, pod.id, error, _RETRY_SECONDS)
                else:
                    _log.warning("no request for %g s: RunPod stops pod %s", seconds, pod.id)
                await asyncio.sleep(_RETRY_SECONDS)


class RunPod:
    """This pod, as RunPod's GraphQL API sees it: by the id and the key that RunPod puts into the
    environment of its pods."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.id = environ["RUNPOD_POD_ID"]
        self._key = environ["RUNPOD_API_KEY"]
        self._url = f"{environ.get(_API_VARIABLE, _API_URL).rstrip('/')}/graphql"

    async def stop(self) -> None:
        """Stop the pod; its volume stays.

        Raises:
            httpx.HTTPError: the API cannot be reached, or refuses.
            ValueError: its answer is an error, or none that can be read.
        """
        query = f'mutation {{ podStop(input: {{podId: "{self.id}"}}) {{ id desiredStatus }} }}'
        async with httpx.AsyncClient(timeout=_API_TIMEOUT_SECONDS) as http:
            headers = {"authorization": f"Bearer {self._key}"}
            response = await http.post(self._url, json={"query": query}, headers=headers)
        answer = response.raise_for_status().json()
        if not isinstance(answer, dict) or answer.get("errors") or not answer.get("data"):
            raise ValueError(f"RunPod answers {str(answer)[:200]}")
