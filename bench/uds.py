"""Our sidecar with a Unix socket between it and the engine (`UPSTREAM_UDS`): an experiment."""

from __future__ import annotations

import functools
import os
import sys
from typing import Any

from proxy import app
from proxy.__main__ import main
from proxy.relay.upstream import Upstream

if __name__ == "__main__":
    # The probe keeps to TCP; only relayed requests take the socket.
    sidecar: Any = app
    sidecar.Upstream = functools.partial(Upstream, uds=os.environ["UPSTREAM_UDS"])
    sys.exit(main([]))
