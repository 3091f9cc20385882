"""Feast's provider, which refuses what does not fit to the declared types before Feast makes it fit.

Feast turns a data frame that is pushed into protobuf values before the online store sees it: 3.5 becomes 3 where
`Int64` is declared, and a text becomes an assertion error without a name. Only a provider stands before that.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa
from feast import FeatureView
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.passthrough_provider import PassthroughProvider
from feast.types import UnixTimestamp
from feast.utils import _convert_arrow_to_proto

from feature_repo.stores.declared import NotAsDeclared, Place, as_declared, as_instants, without_nulls

ORIGIN = "the data frame to write online"


class CheckedProvider(PassthroughProvider):
    """See the module. Named in `feature_store.yaml` in place of `local`, which it otherwise is."""

    @staticmethod
    def _prep_rows_to_write_for_ingestion(
        feature_view: Any, df: pd.DataFrame, field_mapping: dict[str, str] | None = None
    ) -> Any:
        """Feast's rows of `df`; columns that the view does not know are left out, as in Feast: others may need them.

        Raises
        ------
        NotAsDeclared
            A column is missing, a key or an event time is null, or a value is not what the view declares.
        """
        if not isinstance(feature_view, FeatureView) or feature_view.batch_source is None:
            return PassthroughProvider._prep_rows_to_write_for_ingestion(feature_view, df, field_mapping)
        table = _checked(feature_view, df)
        keys = {field.name: field.dtype.to_value_type() for field in feature_view.entity_columns}
        return _convert_arrow_to_proto(table, feature_view, keys)


def _checked(view: FeatureView, df: pd.DataFrame) -> pa.Table:
    source = view.batch_source
    assert source is not None
    table = _table(view, df.rename(columns=source.field_mapping))
    times = [source.timestamp_field, *([source.created_timestamp_column] if source.created_timestamp_column else [])]
    fields = [*view.entity_columns, *view.features]
    missing = [name for name in [*(field.name for field in fields), *times] if name not in table.column_names]
    if missing:
        raise NotAsDeclared(f"{view.name}: {ORIGIN} has no columns {missing}, only {table.column_names}: add them")
    columns = {}
    for field in fields:
        place = Place(view.name, field.name, ORIGIN, field.dtype)
        values = as_declared(table[field.name], place)
        columns[field.name] = without_nulls(values, place) if field.name in view.join_keys else values
    for name in times:
        place = Place(view.name, name, ORIGIN, UnixTimestamp)
        values = as_instants(table[name], place)
        columns[name] = without_nulls(values, place) if name == source.timestamp_field else values
    return pa.table(columns)


def _table(view: FeatureView, df: pd.DataFrame) -> pa.Table:
    twice = sorted(set(df.columns[df.columns.duplicated()]))
    if twice:
        raise NotAsDeclared(f"{view.name}: {ORIGIN} has columns {twice} twice: name each once")
    if DUMMY_ENTITY_ID in view.join_keys and DUMMY_ENTITY_ID not in df:
        df = df.assign(**{DUMMY_ENTITY_ID: DUMMY_ENTITY_VAL})
    try:
        return pa.Table.from_pandas(df, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        told = "; ".join(str(part) for part in error.args)
        raise NotAsDeclared(f"{view.name}: {ORIGIN} has a column of mixed types ({told}): give it one") from error
