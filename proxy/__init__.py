"""A sidecar that makes a stock vLLM server fit to be run."""

__version__ = "0.1.0"
