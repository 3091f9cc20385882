"""The queries that the as-of store hands out: they run when their result is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.on_demand_feature_view import OnDemandFeatureView

from feature_repo.stores import parquet
from feature_repo.stores.history import path_of

if TYPE_CHECKING:
    from feast.saved_dataset import SavedDatasetStorage, ValidationReference


class AsOfRetrievalJob(RetrievalJob):
    """A query that runs when its result is asked for.

    Parameters
    ----------
    evaluate : callable
        Returns the result without on-demand features and the columns of `entities`, as an Arrow table.
    entities : pandas.DataFrame, optional
        Comes back in front of the result, untouched but for its index.
    """

    def __init__(
        self,
        evaluate: Callable[[], pa.Table],
        repo_path: Path | None,
        entities: pd.DataFrame | None = None,
        full_feature_names: bool = False,
        on_demand_feature_views: Sequence[OnDemandFeatureView] = (),
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        self._evaluate = evaluate
        self._repo_path = repo_path
        self._entities = entities
        self._full_feature_names = full_feature_names
        self._on_demand_feature_views = list(on_demand_feature_views)
        self._metadata = metadata

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._metadata

    def to_df(
        self, validation_reference: ValidationReference | None = None, timeout: int | None = None
    ) -> pd.DataFrame:
        """The result as a data frame; without on-demand features, the entity frame does not go through Arrow."""
        if validation_reference or self._on_demand_feature_views:
            return super().to_df(validation_reference, timeout)
        return self._to_df_internal(timeout)

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        found = self._evaluate()
        if self._entities is None:
            return found
        table = pa.Table.from_pandas(self._entities, preserve_index=False)
        for name, values in zip(found.column_names, found.columns, strict=True):
            table = table.append_column(name, values)
        return table

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        found: pd.DataFrame = self._evaluate().to_pandas(split_blocks=True)
        return found if self._entities is None else pd.concat([self._entities.reset_index(drop=True), found], axis=1)

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Write the result, on-demand features included, to the storage's file or directory.

        Raises
        ------
        SavedDatasetLocationAlreadyExists
            Something is there, and `allow_overwrite` is false.
        """
        source = storage.to_data_source()
        target = Path(path_of(source, self._repo_path))
        if target.exists() and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=str(target))
        file = target if target.suffix == ".parquet" else target / "rows.parquet"
        parquet.write_atomically(parquet.in_microseconds(self.to_arrow(timeout=timeout)), file)
