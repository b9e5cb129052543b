"""The model: where its files are, and how they come here."""
