"""The engine is killed again and again under load: every client is told the truth."""
