"""What a deployment needs once before its servers start, and harmlessly again: `python -m stack.databases`.

Makes the databases in Postgres, upgrades Airflow's and MLflow's schemas, writes the admin's password of Airflow, and
registers the feature definitions. Addresses and secrets come from the environment (docker-compose.yml).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from sqlalchemy import create_engine, make_url, text

DATABASES = ("airflow", "mlflow", "feast")


def create_databases(url: str) -> list[str]:
    """Make those of `DATABASES` that the server at `url` does not have yet, and return their names."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        existing = set(connection.execute(text("SELECT datname FROM pg_database")).scalars())
        missing = [name for name in DATABASES if name not in existing]
        for name in missing:
            connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return missing


def write_admin_password(path: Path, password: str) -> None:
    """Write the file from which Airflow's simple auth manager reads its users' passwords."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump({"admin": password}, file)
    temporary.replace(path)


def main() -> None:
    """Do all of it, saying what."""
    url = os.environ["POSTGRES_URL"]
    print(f"databases made: {', '.join(create_databases(url)) or 'none, all exist'}", flush=True)
    write_admin_password(
        Path(os.environ["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"]), os.environ["AIRFLOW_ADMIN_PASSWORD"]
    )
    mlflow = make_url(url).set(database="mlflow").render_as_string(hide_password=False)
    for title, command in {
        "Airflow's schema": ["airflow", "db", "migrate"],
        "MLflow's schema": ["mlflow", "db", "upgrade", mlflow],
        "feature definitions": ["feature_repo", "apply"],
    }.items():
        print(f"upgrading: {title}", flush=True)
        subprocess.run([sys.executable, "-m", *command], check=True)


if __name__ == "__main__":
    main()
