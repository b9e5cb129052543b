"""A sidecar that makes a stock vLLM server fit to be run."""

__version__ = "0.1.0"

import sys

from proxy import interpreter

if interpreter.is_command(sys.orig_argv):
    interpreter.use_the_projects()
