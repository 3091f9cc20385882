"""Requests made up from the OpenAPI document, against a real server: no 5xx, no undocumented answer.

Needs schemathesis, which is not among the project's dependencies: `pipx install schemathesis` (or a virtual environment
of its own), then `make bench NAME=fuzz`. Ends with schemathesis' exit status; further arguments go to it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from benchmarks import _serving

PROGRAM = os.environ.get("SCHEMATHESIS", "schemathesis")
SEED = "7"


def main() -> int:
    """Start a server, fuzz it, stop it."""
    if shutil.which(PROGRAM) is None:
        raise SystemExit(f"{PROGRAM} is not installed: pipx install schemathesis, or name it by SCHEMATHESIS=")
    url = _serving.fill_redis()
    _serving.write_model()
    server, port = _serving.run_serving(url)
    command = [PROGRAM, "run", f"http://127.0.0.1:{port}/openapi.json", "--seed", SEED, "--checks", "all"]
    command += ["--header", f"X-API-Key: {_serving.KEY}", "--exclude-path", "/metrics", *sys.argv[1:]]
    try:
        return subprocess.run(command, check=False, cwd=_serving.PLACE).returncode
    finally:
        _serving.stop(server)


if __name__ == "__main__":
    sys.exit(main())
