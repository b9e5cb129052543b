"""What is known of vLLM: its command and flags, its log lines and counters, its failures."""
