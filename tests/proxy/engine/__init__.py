"""Tests of proxy/engine that need no process."""
