"""The care of one engine process, and the state machine of its life."""
