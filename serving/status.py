"""What became of a value on its way into the model."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["LABELS", "NOT_GIVEN", "FeatureStatus"]


class FeatureStatus(IntEnum):
    """What became of one input of one row; only what is present or outside goes into the model as it is."""

    PRESENT = 0
    STALE = 1
    """Older than its view's time to live."""
    MISSING = 2
    """Not there: never written, null, or nobody said of whom."""
    UNDECODABLE = 3
    """No number that a model can take: bytes that cannot be read, text, a list, NaN, an infinity, 1e300."""
    UNAVAILABLE = 4
    """The store did not answer; the median of the training rows stands in."""
    FUTURE = 5
    """Newer than the order: nobody knew it then."""
    OUTSIDE = 6
    """So far from all that training saw that something is wrong with it, or with the world."""

    @property
    def label(self) -> str:
        """The name in answers, logs and metrics."""
        return self.name.lower()


LABELS = tuple(status.label for status in FeatureStatus)
NOT_GIVEN = frozenset(set(FeatureStatus) - {FeatureStatus.PRESENT, FeatureStatus.STALE, FeatureStatus.OUTSIDE})
"""What answers list as missing; stale inputs have a list of their own."""
