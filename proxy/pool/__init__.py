"""Several models on one machine: which are loaded, and when."""
