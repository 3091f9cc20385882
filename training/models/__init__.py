"""The models: one module each, with its `SPEC`. A new file here is a new model; nothing else lists them."""

from __future__ import annotations

import importlib
import pkgutil
from functools import lru_cache
from typing import TYPE_CHECKING

from training.errors import UnknownModel
from training.spec import ModelSpec

if TYPE_CHECKING:
    from config import Settings

__all__ = ["get_spec", "specs"]


@lru_cache
def specs() -> dict[str, ModelSpec]:
    """All specs by name, sorted.

    Raises
    ------
    ValueError
        A module has no `SPEC`, or two have the same name.
    """
    found: dict[str, ModelSpec] = {}
    for module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        spec = getattr(importlib.import_module(f"{__name__}.{module}"), "SPEC", None)
        if not isinstance(spec, ModelSpec):
            raise ValueError(f"training/models/{module}.py defines no SPEC of type ModelSpec")
        if spec.name in found:
            raise ValueError(f"training/models/{module}.py: a model named {spec.name!r} exists already")
        found[spec.name] = spec
    return found


def get_spec(name: str, settings: Settings | None = None) -> ModelSpec:
    """The spec of that name; with settings, under the gate thresholds of this installation.

    Raises
    ------
    UnknownModel
        There is none.
    ValueError
        `settings.gate_thresholds` names a gate that the model does not have.
    """
    try:
        spec = specs()[name]
    except KeyError:
        raise UnknownModel(f"no model {name!r} in training/models/; there are {sorted(specs())}") from None
    return spec.with_thresholds(settings.gate_thresholds.get(name, {})) if settings else spec
