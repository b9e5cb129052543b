"""What `--help` prints. It needs no library, so that it comes at once."""

from __future__ import annotations

from pathlib import Path

# Written by scripts/reference.py from the declarations of the variables.
_OPTIONS = Path(__file__).with_name("options.txt")
_SHORT = """\
usage: {command} [serve] [MODEL] [OPTIONS]
       {command} check [MODEL] [OPTIONS]
       {command} models [NAME] [--gpu-gb 24]
       {command} keys [LABEL]
       {command} bench [URL] [OPTIONS]

Commands
  serve         start the engine and serve it; the same without a word
  check         find out whether that would work, in seconds: 0 yes, 1 no, 2 bad settings
  models        list the presets, and which fit this GPU; what is here of MODEL_NAME; or one preset
  keys          make an API key, as label:key
  bench         load an endpoint: how many streams at once it serves, how fast; see bench --help

Options
  --model-name MODEL          Hugging Face repository, folder, preset, or demo; also --model
  --served-model-name NAME    the name that clients use
  --port 8000                 port of the API
  --max-model-len 8192        context length: prompt and answer together
  --gpu-memory-util 0.95      share of each GPU's memory
  --tensor-parallel-size 2    GPUs that share each layer
  --log-format text           log lines for a terminal; json is the default
  --drain-seconds 25          how long running requests may take at the end
  --help                      this text; `serve --help` adds every option, by group

  Each variable of docs/configuration.md is an option: DRAIN_SECONDS is --drain-seconds.
  Every flag of `vllm serve` is taken too. The command line wins over the environment.

Examples
  {command} demo                                      a tiny model, no GPU needed
  {command} Qwen/Qwen2.5-7B-Instruct --port 9000
  {command} --model-name qwen2-vl-7b --tensor-parallel-size 2 --enforce-eager
  {command} check --model-name Qwen/Qwen2.5-7B-Instruct --max-model-len 8192
"""


def short_help(command: str) -> str:
    return _SHORT.format(command=command)


def long_help(command: str) -> str:
    """The short text, then every option of ours, by group."""
    return short_help(command) + _OPTIONS.read_text(encoding="utf-8")
