"""What the engine runs on: GPUs, memory, disk, ports."""
