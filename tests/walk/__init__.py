"""Which files of the sidecar a request runs through."""
