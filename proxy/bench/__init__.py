"""A load test of an OpenAI endpoint, in the terms of the sidecar's own log (docs/measuring.md)."""
