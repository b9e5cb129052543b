"""Whatever comes in: five targets that take any bytes and check what must hold for them.

    .venv/bin/python -m tests.fuzz TARGET --seconds 300     guided by coverage, with atheris

`make test` runs the same checks on what hypothesis makes and on every kept case.
"""
