"""Python imports this at the start of every process below the tests: `tests/__init__.py` puts it on their path."""

import unhurried  # noqa: F401
