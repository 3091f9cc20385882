"""`python -m feature_repo.quality`: the rules, with the severities that the configuration gives them."""

from __future__ import annotations

import sys

from config import get_settings
from feature_repo.quality.rules import RuleError, severities, table


def main() -> int:
    """Print the table of rules; 1 when the configuration is wrong."""
    settings = get_settings()
    try:
        grave = severities(settings)
    except RuleError as error:
        print(error, file=sys.stderr)
        return 1
    print(table(grave))
    for name, severity in grave.overrides.items():
        print(f"configured: {name} = {severity}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
