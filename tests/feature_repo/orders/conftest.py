"""What the tests of reading share: files written literally, brought in through a small mapping."""

from __future__ import annotations

import polars as pl
import pytest
import yaml

from feature_repo.orders.mapping import bring_in

COLUMNS = {"order_id": "order", "restaurant_id": "shop", "placed_at": "placed", "order_value": "total"}


class Intake:
    """A folder for files, and what became of those that were brought in."""

    def __init__(self, folder, settings):
        self.folder, self.settings = folder, settings
        self.report = None

    def write(self, content, name="orders.csv"):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def bring(self, orders, read=None, columns=None, max_share=1.0, **changes):
        read = {"format": "csv", **(read or {})}
        content = {"name": "shop", "read": read, "columns": {**COLUMNS, **(columns or {})}, "time": {"zone": "UTC"}}
        content |= changes
        self.folder.mkdir(parents=True, exist_ok=True)
        mapping = self.folder / "mapping.yaml"
        mapping.write_text(yaml.safe_dump({"quarantine": {"max_share": max_share}, **content}))
        self.report = bring_in(str(orders), mapping, self.settings)
        return self

    def read(self, content, **options):
        """Bring in one CSV file; keyword arguments are options of `read`."""
        return self.bring(self.write(content), options)

    @property
    def landed(self):
        files = sorted(self.settings.landing_orders.glob("day=*/*.parquet"))
        return pl.concat([pl.read_parquet(path) for path in files]).sort("order_id", "refused_reason")

    def rows(self, *names):
        good = self.landed.filter(pl.col("refused_rule").is_null())
        return good.select(names or ("order_id", "restaurant_id", "order_value")).rows()

    @property
    def reasons(self):
        return sorted(self.landed["refused_reason"].drop_nulls().to_list())


@pytest.fixture
def intake(tmp_path, settings):
    return Intake(tmp_path / "files", settings)
