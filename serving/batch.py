"""Batch scoring: the orders of a window with point-in-time features, by the champion, into the prediction log.

`python -m serving.batch START END`. This is not the request path: Feast and polars are imported here, and nothing that
answers requests may import this module.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import polars as pl

from config import Settings, get_settings
from feature_repo.orders.history import latest_orders, requests_as_placed
from feature_repo.request_fields import REQUEST_FIELDS
from feature_repo.transforms.request_time import calendar
from feature_repo.window import Window
from serving.bundle import BUNDLE_FILES, Bundle
from serving.errors import BundleError, NoChampion, RegistryUnavailable, ServingError
from serving.log_rows import IN_SAMPLE
from serving.prediction_log import LogEntry, to_table, write_table
from serving.predictor import Order, Predictions
from serving.registry_client import CHAMPION, MODEL_NAME, BundleCache, ModelRef, Registry, registry_from
from serving.status import FeatureStatus

__all__ = ["MlflowClientRegistry", "RowsChanged", "champion", "score"]

logger = logging.getLogger(__name__)

ORDER_FIELDS = ("order_id", "restaurant_id", "driver_id", "customer_id", "zone_id")


class RowsChanged(ServingError):
    """The feature store gave back other rows than it was asked for."""


class MlflowClientRegistry:
    """A registry in a database or a directory, which only MLflow's own client can read."""

    def __init__(self, uri: str) -> None:
        from mlflow import MlflowClient

        self.uri = uri
        self.client = MlflowClient(uri, uri)

    def resolve(self, name: str, alias: str) -> ModelRef:
        """The version with this alias."""
        from mlflow.exceptions import MlflowException

        try:
            version = self.client.get_model_version_by_alias(name, alias)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise RegistryUnavailable(f"the registry {self.uri} cannot be read: {error}") from error
            raise NoChampion(f"no version of the model {name} has the alias {alias} in {self.uri}") from error
        return ModelRef(name, str(version.version), alias, str(version.source), str(version.creation_timestamp))

    def fetch(self, ref: ModelRef, directory: Path) -> None:
        """Download the files through the client."""
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        for file in BUNDLE_FILES:
            try:
                download_artifacts(artifact_uri=f"{ref.source}/{file}", dst_path=str(directory), tracking_uri=self.uri)
            except (MlflowException, OSError) as error:
                raise BundleError(f"{ref.name} version {ref.version}: {ref.source} has no {file}: {error}") from error


def champion(settings: Settings) -> tuple[ModelRef, Bundle]:
    """The champion, downloaded and verified.

    Raises
    ------
    NoChampion
        There is none; the message says what to do.
    RegistryUnavailable, BundleError
        It cannot be had, or cannot be trusted.
    """
    registry = _registry(settings)
    try:
        ref = registry.resolve(MODEL_NAME, CHAMPION)
    except NoChampion as error:
        raise NoChampion(f"{error}. Train and promote a model: make train") from error
    bundle = Bundle.load(BundleCache(settings.run_dir / "models").obtain(registry, ref))
    bundle.verify()
    return ref, bundle


def score(window: Window, settings: Settings) -> dict[str, Any]:
    """Predict the orders placed in a window as if each had been asked about when it was placed, and log them.

    Scoring a window again replaces what was logged for it.

    Parameters
    ----------
    window : Window
        Of `placed_at`.
    settings : Settings

    Returns
    -------
    dict
        `rows`, `outside_population` (orders that the model does not answer for, and that have no row), `model_version`,
        `file` (None without rows), `null_rates` by input of the model.

    Raises
    ------
    NoChampion, RegistryUnavailable, BundleError
        There is no usable model.
    RowsChanged
        The feature store gave back other rows than it was asked for.

    Notes
    -----
    An order's driver counts only if the driver had accepted by `placed_at`: nobody knew of a later one. Orders that
    the model may have been fitted on have the variant `IN_SAMPLE`.
    """
    ref, bundle = champion(settings)
    path = settings.predictions / f"day={window.end:%Y-%m-%d}" / f"batch-{ref.name}-{window.slug}.parquet"
    placed = orders_to_score(window, settings)
    orders = placed.filter([pl.col(name) == wanted for name, wanted in bundle.document.population.items()])
    told = {"rows": orders.height, "outside_population": placed.height - orders.height, "model_version": ref.version}
    if orders.is_empty():
        path.unlink(missing_ok=True)
        return {**told, "file": None, "null_rates": {}}
    inputs = historical_inputs(orders, bundle, settings)
    seen = _seen(orders, bundle)
    entries = [
        _log_entry(ref, variant, bundle, orders.filter(chosen), inputs[chosen], window)
        for variant, chosen in ((CHAMPION, ~seen), (IN_SAMPLE, seen))
        if chosen.any()
    ]
    write_table(to_table(entries), path)
    rates = np.isnan(inputs).mean(axis=0).round(6).tolist()
    return {
        **told,
        "file": path.relative_to(settings.data_dir).as_posix(),
        "null_rates": dict(zip(bundle.input_names, rates, strict=True)),
    }


def orders_to_score(window: Window, settings: Settings) -> pl.DataFrame:
    """Orders placed in the window that were not cancelled by its end, as they were asked about, by `order_id`."""
    known_driver = pl.col("accepted_at") <= pl.col("placed_at")
    return (
        latest_orders(settings, window, window.end)
        .filter(pl.col("status") != "cancelled")
        .with_columns(driver_id=pl.when(known_driver).then("driver_id"))
        .drop(REQUEST_FIELDS)
        .join(requests_as_placed(settings, window, window.end), on="order_id", how="left", validate="1:1")
        .select(*ORDER_FIELDS, *REQUEST_FIELDS, "is_asap", "placed_at")
        .sort("order_id")
        .collect()
    )


def historical_inputs(
    orders: pl.DataFrame, bundle: Bundle, settings: Settings
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The model's inputs of each order as of its `placed_at`, through Feast.

    Returns
    -------
    array of float64, shape (orders, inputs)
        NaN = missing.

    Raises
    ------
    RowsChanged
        Rows came back missing, added or in another order.
    BundleError
        The feature service no longer gives one of the model's inputs.
    """
    from feature_repo.store import feature_store

    store = feature_store(settings)
    asked = orders.with_columns(event_timestamp=pl.col("placed_at")).to_pandas()
    service = store.get_feature_service(bundle.document.feature_service)
    answer = store.get_historical_features(entity_df=asked, features=service, full_feature_names=True).to_df()
    if answer["order_id"].tolist() != orders["order_id"].to_list():
        raise RowsChanged(
            f"{orders.height} orders went into the historical retrieval, {len(answer)} or others came back"
        )
    missing = [name for name in bundle.input_names if name not in answer.columns]
    if missing:
        raise BundleError(
            f"the feature service {bundle.document.feature_service} no longer gives {missing}: "
            "apply the definitions that the model was trained with, or train it again"
        )
    values = np.asarray(answer[list(bundle.input_names)].astype("Float64").to_numpy(dtype="float64", na_value=np.nan))
    # Feast computes by the installation's clock, which may be another since the model was trained.
    by_its_clock = calendar(orders["placed_at"].dt.epoch("us").to_numpy() / 1_000_000, bundle.clock)
    for place, column in enumerate(bundle.document.inputs):
        if column.source == "on_demand" and column.feature in by_its_clock:
            values[:, place] = by_its_clock[column.feature]
    return values


def _seen(orders: pl.DataFrame, bundle: Bundle) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which orders may have been rows of the model's training."""
    until = bundle.document.trained_until
    return np.zeros(orders.height, bool) if until is None else (orders["placed_at"] < until).to_numpy()


def _log_entry(
    ref: ModelRef,
    variant: str,
    bundle: Bundle,
    orders: pl.DataFrame,
    inputs: np.ndarray[Any, np.dtype[np.float64]],
    window: Window,
) -> LogEntry:
    absent = np.where(np.isnan(inputs), FeatureStatus.MISSING, FeatureStatus.PRESENT).astype(np.uint8)
    statuses = [row.tobytes() for row in absent]
    views = [view.name for view in bundle.document.views]
    no_times = [(math.nan,) * len(views)] * orders.height
    estimates = bundle.bounded(bundle.estimate(inputs.astype(np.float32)))
    # Scoring twice must give the same content: the instant and the ids follow from the window, not from a clock.
    identity = f"{ref.name}/{window.slug}/"
    return LogEntry(
        source="batch",
        model_name=ref.name,
        model_version=ref.version,
        variant=variant,
        input_names=bundle.input_names,
        view_names=views,
        prediction_ids=[uuid5(NAMESPACE_URL, identity + order_id).hex for order_id in orders["order_id"]],
        orders=[Order(**row) for row in orders.iter_rows(named=True)],
        predictions=Predictions(inputs.tolist(), statuses, no_times, estimates, [()] * orders.height),
        predicted_at=window.end,
    )


def _registry(settings: Settings) -> Registry:
    served = urlsplit(settings.mlflow_tracking_uri).scheme in {"http", "https"}
    if settings.model_dir_override is not None or served:
        return registry_from(settings)
    return MlflowClientRegistry(settings.mlflow_tracking_uri)


def main(arguments: Sequence[str] | None = None) -> int:
    """Score a window from the command line."""
    parser = argparse.ArgumentParser(prog="python -m serving.batch", description=score.__doc__)
    parser.add_argument("start", help="first instant of the window, for example 2026-05-01T00:00+00:00")
    parser.add_argument("end", help="the instant at which it ends")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        print(json.dumps(score(Window(given.start, given.end), get_settings()), indent=2))
    except (ServingError, ValueError) as error:
        print(f"batch scoring: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
