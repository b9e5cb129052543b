"""What the sidecar answers itself: health, models, metrics, the dashboard, OpenAPI."""
