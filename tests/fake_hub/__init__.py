"""A small server that speaks the Hugging Face hub's protocol for real `huggingface_hub`.

    .venv/bin/python -m tests.fake_hub --root DIR [--port 0] [--fault KIND,match=TEXT,times=N,...]

DIR/ORG/NAME/... are the files of the model ORG/NAME at revision `main`, and its commit is
derived from them. As at the real hub, large files (here: weights) are answered with a
redirect to another host, small ones directly. `GET /_fake/requests` lists what was asked.
"""

from tests.fake_hub.faults import Fault, Kind
from tests.fake_hub.hub import FakeHub, Request
from tests.fake_hub.server import running_hub

__all__ = ["FakeHub", "Fault", "Kind", "Request", "running_hub"]
