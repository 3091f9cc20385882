"""How long orders take from a file into the landing folder, beside DuckDB's bare reading of it into a typed table.

make bench NAME=ingest
python -m benchmarks.ingest 1000000 10000000 --data DIR    # other sizes; the files are kept in DIR and made once
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.harness import compare

DAYS = 120
MEMORY_LIMIT = "2GB"
"""That of the ingestion, so that both spill in the same way."""

MAPPING = """
name: bench
read: {{format: {format}}}
columns:
  order_id: order
  restaurant_id: shop
  zone_id: area
  placed_at: placed
  delivered_at: delivered
  distance_km: km
  item_count: items
  order_value: total
"""
TYPES = {
    "order": "VARCHAR",
    "shop": "VARCHAR",
    "area": "VARCHAR",
    "placed": "TIMESTAMP",
    "delivered": "TIMESTAMP",
    "km": "DOUBLE",
    "items": "BIGINT",
    "total": "DOUBLE",
    "note": "VARCHAR",
}


def make_file(path: Path, rows: int, format: str) -> Path:
    """Orders spread over `DAYS` days; one note in twenty has a comma in it and so stands in quotes."""
    seconds = DAYS * 86_400
    query = f"""
        SELECT 'o-' || i AS "order", 'r' || (i % 500) AS shop, 'z' || (i % 40) AS area,
            TIMESTAMP '2026-01-01' + to_seconds(CAST(i AS BIGINT) * {seconds} // {rows}) AS placed,
            placed + to_seconds(1200 + i * 7919 % 2400) AS delivered, (i * 31 % 900) / 100.0 AS km,
            1 + i % 6 AS items, (500 + i * 17 % 6000) / 100.0 AS total,
            CASE WHEN i % 20 = 0 THEN 'ring twice, 3rd floor' WHEN i % 3 = 0 THEN 'by the door' END AS note
        FROM range({rows}) AS numbers(i)"""
    if not path.exists():
        duckdb.sql(f"COPY ({query}) TO '{path}.part' (FORMAT {format}{', HEADER' if format == 'csv' else ''})")
        Path(f"{path}.part").rename(path)
    return path


def bare_read(path: Path, format: str) -> Mapping[str, Any]:
    """The file into a table on disk with the types of orders: nothing is checked or landed."""
    columns = ", ".join(f"'{name}': '{kind}'" for name, kind in TYPES.items())
    reader = f"read_csv('{path}', header = true, columns = {{{columns}}})" if format == "csv" else f"'{path}'"
    with tempfile.TemporaryDirectory() as directory, duckdb.connect(f"{directory}/bare.duckdb") as connection:
        connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
        connection.execute(f"CREATE TABLE orders AS FROM {reader}")
        count = connection.execute("SELECT count(*) FROM orders").fetchall()[0][0]
    return {"rows": int(count)}


def ingest(path: Path, format: str) -> Mapping[str, Any]:
    """What `make ingest` does."""
    from config import Settings
    from feature_repo.orders.mapping import bring_in

    with tempfile.TemporaryDirectory() as directory:
        mapping = Path(directory) / "mapping.yaml"
        mapping.write_text(MAPPING.format(format=format))
        report = bring_in(str(path), mapping, Settings(data_dir=Path(directory) / "data"))
    return {"rows": report.landed}


def main() -> None:
    """Make the files and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest", description=__doc__)
    parser.add_argument("rows", nargs="*", type=int, default=[1_000_000, 10_000_000])
    parser.add_argument("--data", type=Path, help="folder for the files, which are made once")
    parser.add_argument("--runs", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder: Path = given.data or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        sizes = {
            f"{rows / 1_000_000:g} M rows, {label}": {
                "path": make_file(folder / f"{rows}.{format}", rows, format),
                "format": format,
            }
            for rows in given.rows
            for format, label in (("csv", "CSV"), ("parquet", "Parquet"))
        }
        contenders = {"bare read": bare_read, "ingest": ingest}
        packages = ["duckdb", "polars"]
        compare("ingest", contenders, sizes, anchor="bare read", packages=packages, runs=given.runs)


if __name__ == "__main__":
    main()
