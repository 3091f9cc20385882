"""What can go wrong in training, and what its message tells the reader to do.

TrainingError
├── DatasetError            the training set cannot be built or read
│   ├── EmptyPopulation     no row has a label that is known by now
│   ├── SourceLacks         the source has no column without which there is no such model
│   └── RowsChanged         the feature store gave back other rows than it was asked for
├── UnknownModel            no spec of that name
├── GatesNotPassed          a version was about to be made of a candidate that failed a gate
├── BundleMismatch          the files of a model do not agree with each other
└── RegistryError
    ├── RegistryUnavailable MLflow does not answer
    ├── RegistryRefuses     MLflow answers, and not with what it was asked for
    │   └── ExperimentDeleted   the model's experiment is in MLflow's trash
    ├── ArtifactsGone       MLflow no longer has a run, or its files
    ├── UnknownVersion      no such version of the model
    ├── VersionInUse        what is asked for cannot be done to the champion
    ├── ChampionMoved       somebody else promoted in the meantime
    └── NothingToRollBack   the champion has no predecessor
"""

from __future__ import annotations


class TrainingError(Exception):
    """Base of all errors of this room."""

    transient = False
    """Whether the same step may do well a little later, with nothing changed by anybody."""


class DatasetError(TrainingError):
    """The training set cannot be built or read."""


class EmptyPopulation(DatasetError):
    """No row has a label that is known at the as-of instant."""


class SourceLacks(DatasetError):
    """The source has no column of a kind without which there can be no such model: nothing that anybody has to mend."""


class RowsChanged(DatasetError):
    """The feature store gave back other rows than it was asked for."""


class UnknownModel(TrainingError):
    """No spec of that name in `training/models/`."""


class GatesNotPassed(TrainingError):
    """A version was about to be made of a candidate that failed a gate."""


class BundleMismatch(TrainingError):
    """The files of a model do not agree with each other."""


class RegistryError(TrainingError):
    """The model registry refuses, or is in another state than expected."""


class RegistryUnavailable(RegistryError):
    """MLflow does not answer."""

    transient = True


class RegistryRefuses(RegistryError):
    """MLflow answers, and not with what it was asked for."""


class ExperimentDeleted(RegistryRefuses):
    """The model's experiment was deleted, and keeps its name."""


class ArtifactsGone(RegistryError):
    """MLflow no longer has a run, or its files."""


class UnknownVersion(RegistryError):
    """No such version of the model."""


class VersionInUse(RegistryError):
    """What is asked for cannot be done to the champion."""


class ChampionMoved(RegistryError):
    """Somebody else promoted a version in the meantime."""

    transient = True


class NothingToRollBack(RegistryError):
    """The champion has no predecessor."""
