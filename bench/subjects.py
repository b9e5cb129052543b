"""What is compared: how each proxy is started, and which version it is.

Every peer runs with the least configuration that streams without buffering and keeps
connections to the engine alive; none of them writes an access log. Ours runs as shipped.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version as installed_version
from pathlib import Path
from shutil import which

from bench.interpreter import interpreter, packages

REPOSITORY = Path(__file__).resolve().parent.parent
CACHE = REPOSITORY / ".cache" / "bench"
MODEL = "Qwen/Qwen3-0.6B"
_VERSION_SECONDS = 60.0
# Another checkout of this project, to be measured beside this one.
_BEFORE = "BENCH_BEFORE"
# Debian keeps servers where the PATH of a user does not lead.
_PLACES = "/usr/sbin:/usr/local/sbin:/sbin"


@dataclass(frozen=True)
class Launch:
    """A command line, its environment, and the folder that it runs in."""

    command: Sequence[str]
    environ: Mapping[str, str] = field(default_factory=dict)
    folder: Path = REPOSITORY


@dataclass(frozen=True)
class Address:
    """Where a proxy listens and where its engine is."""

    port: int
    spare_port: int
    engine_port: int
    engine_uds: Path
    folder: Path

    @property
    def engine_url(self) -> str:
        return f"http://127.0.0.1:{self.engine_port}"

    def write(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)


@dataclass(frozen=True)
class Subject:
    """One thing to measure; `launch` is None for the engine without a proxy."""

    name: str
    version: Callable[[], str | None]
    launch: Callable[[Address], Launch] | None
    is_slow: bool = False
    """A round of it takes as long as all others together: it gets one."""


_HAPROXY = """\
global
  maxconn 8192
  nbthread 1
defaults
  mode http
  option http-no-delay
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen engine
  bind 127.0.0.1:{port}
  http-reuse always
  server engine 127.0.0.1:{engine_port}
"""
_NGINX = """\
daemon off;
worker_processes 1;
worker_rlimit_nofile 8192;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_max_body_size 0;
  keepalive_requests 1000000;
  upstream engine {{ server 127.0.0.1:{engine_port}; keepalive 1024; }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location / {{
      proxy_pass http://engine;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_request_buffering off;
    }}
  }}
}}
"""
_LITELLM = """\
model_list:
  - model_name: {model}
    litellm_params:
      model: hosted_vllm/{model}
      api_base: {engine_url}/v1
      api_key: none
general_settings:
  dangerously_permit_weak_or_unset_master_key: true
"""


def _haproxy(at: Address) -> Launch:
    text = _HAPROXY.format(port=at.port, engine_port=at.engine_port)
    return Launch([_path("haproxy"), "-db", "-f", at.write("haproxy.cfg", text)])


def _nginx(at: Address) -> Launch:
    text = _NGINX.format(port=at.port, engine_port=at.engine_port, folder=at.folder)
    command = [_path("nginx"), "-p", str(at.folder), "-e", "stderr"]
    return Launch([*command, "-c", at.write("nginx.conf", text)])


def _router_options(at: Address) -> list[str]:
    place = ["--host", "127.0.0.1", "--port", str(at.port), "--worker-urls", at.engine_url]
    limits = ["--max-concurrent-requests", "8192", "--disable-retries"]
    # Their metrics stay on, as ours do, on a port that nobody asks.
    metrics = ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(at.spare_port)]
    return [*place, *limits, *metrics, "--policy", "round_robin"]


def _vllm_router(at: Address) -> Launch:
    return Launch([_in_cache("vllm-router", "vllm-router"), *_router_options(at)])


def _sglang_router(at: Address) -> Launch:
    return Launch([_in_cache("sglang-router", "sglang-router"), "launch", *_router_options(at)])


def _litellm(at: Address) -> Launch:
    config = at.write("litellm.yaml", _LITELLM.format(model=MODEL, engine_url=at.engine_url))
    place = ["--host", "127.0.0.1", "--port", str(at.port)]
    # Without these it asks the network for prices and tells it of the start.
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
    command = [_in_cache("litellm", "litellm"), "--config", config, *place]
    return Launch([*command, "--num_workers", "1", "--telemetry", "False"], quiet)


def _ran(module: str, environ: Mapping[str, str]) -> Launch:
    return Launch([interpreter(), "-m", module], {**packages(), **environ})


def _naive(at: Address) -> Launch:
    environ = {"UPSTREAM_URL": at.engine_url, "PORT": str(at.port)}
    return _ran("bench.naive", environ)


def _pipe(at: Address) -> Launch:
    environ = {"UPSTREAM_PORT": str(at.engine_port), "PORT": str(at.port)}
    return _ran("bench.pipe", environ)


def _floor(at: Address) -> Launch:
    environ = {"UPSTREAM_PORT": str(at.engine_port), "PORT": str(at.port)}
    return _ran("bench.floor", environ)


def _before(at: Address) -> Launch:
    """Ours as it was: in the checkout that BENCH_BEFORE names."""
    return replace(_ours(at), folder=Path(os.environ[_BEFORE]))


def _our_environ(at: Address) -> dict[str, str]:
    log = {"LOG_FORMAT": "json", "LOG_LEVEL": "info"}
    return {"UPSTREAM_URL": at.engine_url, "HOST": "127.0.0.1", "PORT": str(at.port), **log}


def _ours(at: Address) -> Launch:
    return _ran("proxy", _our_environ(at))


def _ours_uds(at: Address) -> Launch:
    environ = {**_our_environ(at), "UPSTREAM_UDS": str(at.engine_uds)}
    return _ran("bench.uds", environ)


def _ours_keys(at: Address) -> Launch:
    """With a key, limits and a waiting room, none of which ever says no."""
    much = "rpm=1000000000,tpm=1000000000000,tpd=1000000000000,in_flight=100000"
    access = {
        "API_KEYS": "bench:none",  # what every request of the load has
        "KEY_LIMITS": f"{much}; all: {much}",
        "MAX_IN_FLIGHT": "100000",
        "MAX_WAITING": "1000",
        "HF_HOME": str(at.folder / "hf"),
    }
    return _ran("proxy", {**_our_environ(at), **access})


def _path(name: str) -> str:
    return which(name) or which(name, path=_PLACES) or name


def _in_cache(peer: str, command: str) -> str:
    return str(CACHE / peer / "bin" / command)


def _says(name: str, *arguments: str) -> str | None:
    """The version a Debian program prints, or None where it is not installed."""
    try:
        done = subprocess.run(
            [_path(name), *arguments], capture_output=True, text=True, timeout=_VERSION_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
    return found[0] if found else None


def _in_venv(peer: str) -> str | None:
    """The version of a package in a peer's own environment, read off its folder's name."""
    package = peer.replace("-", "_")
    pattern = f"lib/python*/site-packages/{package}-*.dist-info"
    found = next(iter((CACHE / peer).glob(pattern)), None)
    return found.name.removesuffix(".dist-info").rpartition("-")[2] if found else None


def _naive_version() -> str:
    names = ("fastapi", "httpx", "uvicorn")
    return ", ".join(f"{name} {installed_version(name)}" for name in names)


def _our_version() -> str | None:
    return _version_of(REPOSITORY)


def _version_of(checkout: Path) -> str | None:
    if not (checkout / "proxy").is_dir():
        return None
    git = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, timeout=_VERSION_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("direct", lambda: "no proxy", None),
        Subject("haproxy", lambda: _says("haproxy", "-v"), _haproxy),
        Subject("nginx", lambda: _says("nginx", "-v"), _nginx),
        Subject("vllm-router", lambda: _in_venv("vllm-router"), _vllm_router),
        Subject("sglang-router", lambda: _in_venv("sglang-router"), _sglang_router),
        Subject("litellm", lambda: _in_venv("litellm"), _litellm, is_slow=True),
        Subject("naive", _naive_version, _naive),
        Subject("ours", _our_version, _ours),
        Subject("ours-uds", _our_version, _ours_uds),
        Subject("ours-keys", _our_version, _ours_keys),
        Subject("floor", lambda: f"uvloop {installed_version('uvloop')}", _floor),
        Subject("before", lambda: _version_of(Path(os.environ.get(_BEFORE, "/"))), _before),
        Subject("pipe", lambda: f"uvloop {installed_version('uvloop')}", _pipe),
    )
}
# Experiments are measured only when they are named.
_EXPERIMENTS = ("ours-uds", "before", "pipe")
DEFAULT = tuple(name for name in SUBJECTS if name not in _EXPERIMENTS)
