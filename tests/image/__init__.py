"""The image, built on a stand-in for vLLM's and run as documented: `make image`."""
