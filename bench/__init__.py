"""Side-by-side benchmarks: what a proxy costs per token and per request.

The proxy under test has one core; the fake engine and the load generator have another.
docs/performance.md holds the method and the tables that `make bench` writes.
"""
