"""Several sidecars behind vllm-router, as deploy/ runs it."""
