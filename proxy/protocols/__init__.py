"""Other ways to ask for text: each is a translation to a path of the engine."""
