"""The champion beside the candidate, on rows that neither has seen.

A version is fitted on all rows that were known, so of a champion of yesterday only the rows of one day are new: too few
to tell anything, and the candidate's judged model has not even seen those that the champion learnt from. So each
version keeps the model that it was judged by, and the two judged models are compared: both were fitted on the older
part of their rows only, in the same way, and the candidate's test rows are new to both.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from feature_repo.transforms.request_time import Clock, calendar
from training.bundle import MODEL, verify_bundle
from training.comparison import FEWEST_ROWS, paired_bootstrap
from training.dataset import Dataset
from training.errors import ArtifactsGone, BundleMismatch
from training.evidence import ChampionEvidence
from training.export import OnnxModel
from training.registry import CHAMPION, COMPARED_WITH_TAG, ModelRegistry, Version
from training.spec import ModelSpec
from training.split import Split
from training.train import labels, matrix

if TYPE_CHECKING:
    from config import Settings


def opponent(candidate: dict[str, Any], registry: ModelRegistry) -> Version | None:
    """The champion, or if the candidate is the champion now, the one that it was compared with to become it."""
    versions = registry.versions()
    champion = next((version for version in versions if CHAMPION in version.aliases), None)
    if champion is None or champion.tags.get("candidate_key") != candidate["key"]:
        return champion
    before = champion.tags.get(COMPARED_WITH_TAG)
    if before == "":
        return None
    return next((version for version in versions if version.version == before), champion)


def compare_champion(
    champion: Version,
    candidate: OnnxModel,
    registry: ModelRegistry,
    split: Split,
    dataset: Dataset,
    settings: Settings,
    spec: ModelSpec,
) -> ChampionEvidence:
    """The judged models of both on the test rows that are new to the champion's; inputs taken by name.

    Parameters
    ----------
    candidate : OnnxModel
        Its judged model, for which all test rows are new.
    """
    advice = f"promote a version that can be (python -m training promote VERSION --model {spec.name}), or retire it"

    def problem(text: str) -> ChampionEvidence:
        return ChampionEvidence(champion.version, None, problem=text)

    try:
        bundle = registry.fetch_bundle(champion, settings.datasets / "bundles")
        content = verify_bundle(bundle)
        # A version from before any was fitted again is its own judged model; one from before bundles said until when
        # it was trained counts as trained on all that was known when it was made.
        judged = content.get("judged", {"file": MODEL, **content})
        model = OnnxModel((bundle / judged["file"]).read_bytes())
        until = datetime.fromisoformat(judged.get("trained_until", content["version_created_as_of"]))
    except ArtifactsGone as error:
        return problem(str(error))
    except (BundleMismatch, OSError, ValueError, KeyError) as error:
        return problem(f"its bundle is damaged ({error}); {advice}")
    names = [str(item["name"]) for item in content["inputs"]]
    missing = [name for name in names if name not in split.test.columns]
    if missing:
        return problem(f"the data set lacks its inputs {missing}; bring these features back, {advice}")
    rows = _without_hidden(split.test.filter(pl.col(spec.instant) >= until), dataset, spec)
    if rows.height < FEWEST_ROWS:
        return problem(
            f"it was trained on rows until {until.isoformat()}, which leaves {rows.height} test rows that are new to "
            f"both, at least {FEWEST_ROWS} are needed; train as of a later instant"
        )
    actual = labels(rows, spec)
    ours, theirs = Clock.read(dataset.description.get("clock")), Clock.read(content.get("clock"))
    its_rows = rows if theirs == ours else _by_clock(theirs, rows, content["inputs"], spec)
    losses = [
        spec.task.losses(of.predict(matrix(seen, inputs)), actual)
        for of, seen, inputs in ((candidate, rows, dataset.inputs), (model, its_rows, names))
    ]
    differs = {
        "its features were defined otherwise": content["definitions_hash"] != dataset.description["definitions_hash"],
        f"its hours are by the clock of {theirs.zone}, peak hours {[*theirs.peak_hours]}": theirs != ours,
    }
    return ChampionEvidence(
        champion.version,
        paired_bootstrap(losses[0] - losses[1], rows[spec.instant], spec.seed),
        candidate_error=float(losses[0].mean()),
        champion_error=float(losses[1].mean()),
        left_out=split.test.height - rows.height,
        note="; ".join(text for text, holds in differs.items() if holds),
    )


def _by_clock(clock: Clock, rows: pl.DataFrame, inputs: list[dict[str, Any]], spec: ModelSpec) -> pl.DataFrame:
    """Rows with their calendar as the champion was trained on it, or it would be judged by hours it does not know."""
    found = calendar(rows[spec.instant].dt.epoch("us").to_numpy() / 1_000_000, clock)
    taken = [(item["name"], item["feature"]) for item in inputs if item["source"] == "on_demand"]
    return rows.with_columns(pl.Series(name, found[feature]) for name, feature in taken if feature in found)


def _without_hidden(rows: pl.DataFrame, dataset: Dataset, spec: ModelSpec) -> pl.DataFrame:
    hidden = dataset.view_inputs(spec.hidden.view) if spec.hidden else []
    return rows.with_columns(pl.lit(None, pl.Float64).alias(name) for name in hidden)
