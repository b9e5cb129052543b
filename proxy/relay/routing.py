"""The models that requests are for, as the relay sees them: it does not know an engine's life."""

from __future__ import annotations

from typing import Protocol

from proxy.access.admission import Admission
from proxy.relay.in_flight import InFlightRequests
from proxy.relay.upstream import Upstream


class Model(Protocol):
    """One model: where its engine is, who is let in, and what the engine owes."""

    @property
    def name(self) -> str: ...

    @property
    def upstream(self) -> Upstream: ...

    @property
    def admission(self) -> Admission: ...

    @property
    def in_flight(self) -> InFlightRequests: ...


class Models(Protocol):
    """All models."""

    @property
    def only(self) -> Model | None:
        """The model of a set of one: a request is for it, whatever it names."""

    @property
    def admission(self) -> Admission:
        """Lets requests into the sidecar; that of the model where there is only one."""

    def find(self, name: str | None, key: str | None) -> Model:
        """The model that a request of an API key names; None is the default.

        Raises:
            ModelNotFound: there is none, or it is not for that key.
        """

    async def find_stored(self, path: str, key: str | None) -> Model:
        """The model whose engine has what is stored at `path`.

        Raises:
            ModelNotFound: none of the engines that run has it.
        """

    def listing(self, key: str | None) -> bytes:
        """All models that a key may use, as `GET /v1/models` lists them."""
