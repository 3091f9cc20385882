"""What one ingestion did, for the record and for a person."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

_SHOWN_NOTES = 20


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What one ingestion did. Counts of versions, unless they say rows.

    Attributes
    ----------
    mapping, orders : str
        Name of the mapping; where the orders came from, without a password.
    rows_read, rows_filtered : int
        Rows of the source; rows that the mapping's `where` left out.
    landed : int
        New versions written to the landing folder, refused ones not included.
    duplicates, already_landed : int
        Identical versions within the source (one of each was kept); versions that an earlier ingestion landed.
    refused : dict of str to int
        Versions that go to the quarantine, by rule.
    examples : list of str
        The first reasons.
    first_known, last_known : datetime
        Span of the versions' `known_at`, UTC.
    complete_until : datetime
        The new watermark.
    market_clock : str
        The zone whose hours and weekdays the features name, and who said so.
    behind_watermark : int
        Landed versions that were known before the watermark of an earlier ingestion: hours that may have been run.
    withdrawn : int
        Orders of which a later version lacks what an earlier one told; what was known is kept (see `fold`).
    files : list of str
        Files written.
    told : list of str
        How files were read where that had to be decided, what was decided by the whole source, and what was put into
        another form.
    allowed : list of str
        What a person had decided (`--allow`), in this ingestion and in earlier ones of the source.
    """

    mapping: str
    orders: str
    rows_read: int
    rows_filtered: int
    landed: int
    duplicates: int
    already_landed: int
    refused: dict[str, int]
    examples: list[str]
    first_known: datetime
    last_known: datetime
    complete_until: datetime
    market_clock: str
    behind_watermark: int
    withdrawn: int
    files: list[str] = field(repr=False)
    told: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The report with JSON types."""
        return {key: value.isoformat() if isinstance(value, datetime) else value for key, value in asdict(self).items()}

    def summary(self) -> str:
        """The report for a person to read."""
        lines = [
            f"{self.mapping}: {self.rows_read:,} rows read from {self.orders}",
            f"  landed            {self.landed:,} order versions in {len(self.files)} files",
            f"  known             {self.first_known:%Y-%m-%d %H:%M} to {self.last_known:%Y-%m-%d %H:%M} UTC",
            f"  complete until    {self.complete_until:%Y-%m-%d %H:%M} UTC",
            f"  market's clock    {self.market_clock}",
        ]
        counts = {
            "rows filtered": self.rows_filtered,
            "duplicates": self.duplicates,
            "already landed": self.already_landed,
            **{f"refused: {rule}": count for rule, count in self.refused.items()},
        }
        lines += [f"  {name:<17} {count:,}" for name, count in counts.items() if count]
        lines += [f"    for example: {example}" for example in self.examples]
        lines += [f"  note: {sentence}" for sentence in self.told[:_SHOWN_NOTES]]
        if len(self.told) > _SHOWN_NOTES:
            lines.append(f"  note: and {len(self.told) - _SHOWN_NOTES} more")
        lines += [f"  allowed: {decision}" for decision in self.allowed]
        if self.withdrawn:
            lines.append(
                f"  {self.withdrawn:,} orders have a later row that lacks what an earlier one told: what was known is "
                "kept; if such rows are corrections, say so with `corrections`"
            )
        if self.behind_watermark:
            lines.append(
                f"  {self.behind_watermark:,} versions lie before the earlier watermark: the next hourly run finds them"
                " and quarantines those that come later than the lateness horizon after their order's placing, unless"
                f" a backfill from {self.first_known:%Y-%m-%d %H:%M} takes them in first"
            )
        return "\n".join(lines)
