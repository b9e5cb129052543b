"""How many seconds a test waits for what has to happen.

Long: machines that build software are shared, and who waits for an event goes on when it comes.
No test asserts that something was fast; `make bench` reports it.
"""

PATIENCE = 60.0
