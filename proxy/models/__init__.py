"""Known models by short names: `MODEL_NAME=qwen2.5-vl-7b`."""
