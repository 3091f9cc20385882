"""Where the offline rows of each view are kept: the feature tables that the pipeline writes."""

from collections.abc import Iterable

from feast import FileSource
from feast.data_format import ParquetFormat

from config import Settings, get_settings
from feature_repo.transforms.tables import CREATED, EVENT_TIME


def feature_rows(view: str) -> FileSource:
    """The table of one view's rows, `<data directory>/lake/features/<view>`."""
    return FileSource(
        name=f"{view}_rows",
        path=str(get_settings().features / view),
        file_format=ParquetFormat(),
        timestamp_field=EVENT_TIME,
        created_timestamp_column=CREATED,
        description=f"Rows of {view}, one file per UTC day, written by feature_repo.pipeline.",
    )


def point_at(settings: Settings, sources: Iterable[FileSource]) -> None:
    """Make sources name the tables of these settings: they were made when this module was first imported."""
    for source in sources:
        source.file_options.uri = str(settings.features / source.name.removesuffix("_rows"))


restaurant_rows = feature_rows("restaurant_stats")
driver_rows = feature_rows("driver_stats")
customer_rows = feature_rows("customer_stats")
zone_rows = feature_rows("zone_stats")
zone_live_rows = feature_rows("zone_live")

SOURCES = [restaurant_rows, driver_rows, customer_rows, zone_rows, zone_live_rows]
