"""What is known afterwards: records, log lines, metrics, spans."""
