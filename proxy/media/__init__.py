"""What a body points at: found, judged, and fetched in the engine's place."""
