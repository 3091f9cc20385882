"""What `make run` says at its end: a page that a person understands, made of what the steps returned."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from config import Settings

if TYPE_CHECKING:
    from stack.walkthrough import Story
    from training.spec import ModelSpec

WIDTH = 100


def summary(story: Story, settings: Settings) -> str:
    """The page, ready to print."""
    parts = [
        _title("delivery-eta: once round the loop"),
        _orders(story, settings),
        _features(story),
        _absent(settings),
        _training(story.training),
        _serving(story),
        _monitoring(story.monitoring),
        _next(story, settings),
    ]
    return "\n".join(line for part in parts for line in part)


def orders_by_rule(settings: Settings) -> tuple[int, dict[str, int]]:
    """Accepted versions in the lake, and quarantined rows by the rule that refused them."""
    from feature_repo.orders.schema import orders_table, quarantine_table

    accepted = int(orders_table(settings).scan().select("order_id").collect().height)
    refused = quarantine_table(settings).scan().select("rule").collect()["rule"].value_counts(sort=True)
    return accepted, dict(refused.iter_rows())


def _orders(story: Story, settings: Settings) -> list[str]:
    accepted, refused = orders_by_rule(settings)
    known = story.known
    lines = [
        *_head("Orders"),
        f"  source        {story.source}",
        f"  complete      {known}" if known else "",
        f"  ingested      {accepted:,} order versions accepted",
        *(f"  allowed       {decision}" for decision in _allowed(settings)),
        f"  quarantined   {sum(refused.values()):,} rows" + (", by rule:" if refused else ""),
    ]
    return [*lines, *(f"                {rule:<24} {rows:>7,}" for rule, rows in refused.items())]


def _allowed(settings: Settings) -> list[str]:
    """What people decided when they brought the orders in."""
    from feature_repo.orders.ownership import read_record

    record = read_record(settings)
    return record.allowed if record else []


def _features(story: Story) -> list[str]:
    compared = sum(int(audit.get("compared", 0)) for audit in story.audits)
    passed = sum(bool(audit.get("passed")) for audit in story.audits)
    lines = [*_head("Features"), *(f"  {view:<20} {rows:>10,} rows" for view, rows in story.features.items())]
    if story.audits:
        lines.append(
            f"  online = offline   {passed} of {len(story.audits)} audits passed, {compared:,} values compared"
        )
    return lines


def _absent(settings: Settings) -> list[str]:
    """What the source does not have, and what each model loses by it; nothing where it has everything."""
    from feature_repo.absence import views_without_rows
    from feature_repo.orders.columns import absent_columns
    from training.models import specs

    absent = absent_columns(settings)
    if not absent:
        return []
    empty = [f"{view} (no {key})" for view, key in views_without_rows(absent).items()]
    lines = _told("columns", ", ".join(absent)) + _told("no rows in", ", ".join(empty) or "no view: all have some")
    models = [line for spec in specs().values() for line in _model_losses(spec, absent)]
    return [*_head("What the source does not have"), *lines, *models]


def _model_losses(spec: ModelSpec, absent: Collection[str]) -> list[str]:
    from feature_repo.absence import input_losses

    if missing := [column for column in spec.requires if column in absent]:
        return _told(spec.name, f"no such model: it needs {', '.join(missing)}; its training is skipped")
    losses = input_losses(spec.feature_service, absent)
    parts = [
        f"{title} ({len(names)}): {', '.join(names)}"
        for title, names in (("inputs without a value", losses.without_value), ("poorer inputs", losses.poorer))
        if names
    ]
    return [line for part in parts or ["loses nothing"] for line in _told(spec.name, part)]


def _told(name: str, text: str) -> list[str]:
    """A name and a text, wrapped beside it."""
    return textwrap.wrap(text, WIDTH, initial_indent=f"  {name:<15} ", subsequent_indent=" " * 18)


def _training(training: Mapping[str, Any]) -> list[str]:
    lines = _head("Model")
    if training["status"] == "stopped":
        reasons = training["validation"]["failures"]
        return [*lines, "  nothing was trained: the data set was refused", *(f"    {reason}" for reason in reasons)]
    evaluation = training["evaluation"]
    rows = evaluation["rows"]
    decided = training.get("registration")
    name = f"{training['model']} version {decided['version']}, alias champion" if decided else "rejected by its gates"
    lines += [
        f"  {name}",
        "  rows by time  " + ", ".join(f"{part} {count:,}" for part, count in rows.items()),
        "",
        f"  {'mean absolute error, minutes':<32}{'train':>9}{'validation':>12}{'test':>9}",
        _errors("model", evaluation["metrics"]),
        *(_errors(f"naive: {name.replace('_', ' ')}", values) for name, values in evaluation["baselines"].items()),
        f"  P10-P90 interval holds {evaluation['interval']['test_coverage']:.1%} of the test rows (aim: 80 %), "
        f"{_worst_part(evaluation['interval']['parts'])}",
        f"  if P90 is promised, {evaluation['business']['late_share']:.1%} of the test rows are late",
        "",
        f"  {'gate':<26}{'observed':>10}{'threshold':>11}  result",
    ]
    return [*lines, *(line for gate in evaluation["gates"] for line in _gate(gate))]


def _worst_part(parts: Sequence[Mapping[str, Any]]) -> str:
    tenths = [part["coverage"] for part in parts if part["kind"] == "tenth" and part["coverage"] is not None]
    return f"{min(tenths):.0%} to {max(tenths):.0%} of each tenth by prediction" if tenths else "too few to say where"


def _errors(name: str, metrics: Mapping[str, float]) -> str:
    values = [metrics.get(f"{part}_mae") for part in ("train", "validation", "test")]
    texts = ["-" if value is None else f"{value:.2f}" for value in values]
    return f"  {name:<32}{texts[0]:>9}{texts[1]:>12}{texts[2]:>9}"


def _gate(gate: Mapping[str, Any]) -> Iterable[str]:
    observed = "-" if gate["observed"] is None else f"{gate['observed']:.4g}"
    yield f"  {gate['name']:<26}{observed:>10}{gate['threshold']:>11.4g}  {'passed' if gate['passed'] else 'FAILED'}"
    yield f"      {gate['reason']}"


def _serving(story: Story) -> list[str]:
    lines = [*_head("Serving"), f"  {story.predictions:,} orders predicted as they were placed"]
    if not story.example:
        return [*lines, "  no order was placed lately to ask about"]
    request, answer = story.example["request"], story.example["answer"]
    lines.append(
        f"  asked now     order{_if_told(' of {}', request.get('order_value'))} at {request['restaurant_id']}"
        f"{_if_told(', {} km', request.get('distance_km'))}, placed {request['placed_at'][:16]}"
    )
    if story.example["status_code"] != 200:
        return [*lines, f"  answered      {story.example['status_code']}: {answer.get('detail', answer)}"]
    model = answer["model"]
    lines.append(
        f"  answered      {answer['delivery_minutes']:.1f} min (P10 {answer['p10_minutes']:.1f}, "
        f"P90 {answer['p90_minutes']:.1f}), status {answer['status']}, {model['name']} version {model['version']}"
    )
    return lines


def _if_told(words: str, value: object) -> str:
    return "" if value is None else words.format(value)


def _monitoring(monitoring: Mapping[str, Any]) -> list[str]:
    if not monitoring:
        return []
    performance, drift, verdict = monitoring["performance"], monitoring["drift"], monitoring["verdict"]
    mae = "-" if performance["mae"] is None else f"{performance['mae']:.2f} min"
    naive = "-" if performance.get("baseline_mae") is None else f"{performance['baseline_mae']:.2f} min"
    return [
        *_head("Monitoring"),
        f"  error         {mae} on {performance['outcomes']:,} orders whose outcome is known (naive: {naive})",
        f"  drift         {len(drift['drifted'])} of {drift['judged']} inputs drifted",
        f"  verdict       {verdict['action'].upper()}",
        *(f"                {line}" for reason in verdict["reasons"] for line in textwrap.wrap(reason, WIDTH - 16)),
    ]


def _next(story: Story, settings: Settings) -> list[str]:
    slowest = sorted(story.seconds.items(), key=lambda item: -item[1])[:3]
    return [
        *_head("Where to look next"),
        "  make up       leaves all of this running on its own schedule: Airflow, MLflow, the API",
        f"  reports       {settings.reports / 'monitoring'} (Evidently), {settings.reports / 'quality'} (validation)",
        "  docs/         architecture, your own orders, a new feature, a new model, operations",
        f"\n  {sum(story.seconds.values()):.0f} s in all; longest: "
        + ", ".join(f"{title.split(':')[0].lower()} {seconds:.0f} s" for title, seconds in slowest),
    ]


def _title(text: str) -> list[str]:
    return ["", "=" * WIDTH, text, "=" * WIDTH]


def _head(text: str) -> list[str]:
    return ["", f"{text} ".ljust(WIDTH, "-")]
