"""What to serve, and how it comes here: presets, the hub, the cache, the demo model."""
