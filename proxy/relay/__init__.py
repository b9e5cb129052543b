"""A request's way to the engine and back: the hot path."""
