"""LiteLLM in front of the sidecar, as deploy/gateway configures it."""
