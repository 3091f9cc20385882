"""A container's health check: `python -m stack.probe URL [part of Airflow]`; exit status 0 when it is well."""

from __future__ import annotations

import sys

from stack.services import http_get, http_json


def probe(url: str, part: str | None = None) -> str | None:
    """What is wrong at `url`; None if nothing is.

    Parameters
    ----------
    url : str
        Any address, or that of Airflow's health report.
    part : str, optional
        The entry of the health report that must be healthy (scheduler, dag_processor, triggerer).
    """
    if part is None:
        body = http_get(url)
        return body if isinstance(body, str) else None
    report = http_json(url)
    if isinstance(report, str):
        return report
    state = report.get(part, {}).get("status")
    return None if state == "healthy" else f"{part} is {state}"


if __name__ == "__main__":
    sys.exit(probe(*sys.argv[1:]))
