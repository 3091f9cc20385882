"""The models in use: resolved by alias, verified before they are used, replaced while requests go on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

from serving.bundle import Bundle
from serving.errors import BundleError, NoChampion, RegistryUnavailable, StoreMismatch
from serving.predictor import Predictor
from serving.registry_client import CHALLENGER, CHAMPION, MODEL_NAME, BundleCache, ModelRef, Registry
from serving.traffic import TrafficError, TrafficRule

__all__ = ["Challenger", "Champion", "LoadedModel", "RegistryState", "Switch"]

logger = logging.getLogger(__name__)

RegistryState = Literal["not asked", "ok", "no champion", "unreachable"]
Switch = Literal["switched", "refused"]


CHAMPION_RULE = TrafficRule("off", 1.0, CHAMPION)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A verified model, ready to predict."""

    ref: ModelRef
    predictor: Predictor
    rule: TrafficRule = CHAMPION_RULE

    @property
    def variant(self) -> str:
        """The name in answers, logs and metrics."""
        return self.rule.variant

    @property
    def bundle(self) -> Bundle:
        """What was loaded."""
        return self.predictor.bundle


class Champion:
    """Keeps `current` at the version that has the alias `champion`.

    Parameters
    ----------
    registry : Registry
        Where to ask.
    cache : BundleCache
        Where downloaded bundles are kept.
    build : callable
        Makes a predictor of a verified bundle.
    on_switch : callable
        Told about each switch and each refusal, for the metrics.
    require : callable
        Holds a bundle against the online store: returns why that could not be done, or raises `StoreMismatch`.
    """

    alias = CHAMPION

    def __init__(
        self,
        registry: Registry,
        cache: BundleCache,
        build: Callable[[Bundle], Predictor],
        on_switch: Callable[[Switch], None] = lambda outcome: None,
        require: Callable[[Bundle], str | None] = lambda bundle: None,
    ) -> None:
        self.registry = registry
        self.cache = cache
        self.build = build
        self.on_switch = on_switch
        self.require = require
        self.current: LoadedModel | None = None
        self.registry_state: RegistryState = "not asked"
        self.registry_reason = "the registry has not been asked yet"
        self.refused: dict[ModelRef, str] = {}
        self.held: dict[ModelRef, str] = {}
        """The version that waits until the store has what it needs, and why."""
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def refusal(self) -> str | None:
        """Why the version refused last was refused; None if none was."""
        return next(chain(self.held.values(), reversed(self.refused.values())), None)

    @property
    def why_none(self) -> str:
        """Why there is no model, in words for a caller."""
        return self.registry_reason or self.refusal or "no model was loaded yet"

    def refresh(self) -> None:
        """Ask the registry once and switch if the alias has moved. Never raises what a registry or a bundle may do.

        A request that is being answered keeps the model it began with. A version that fails its checks is refused and
        logged as an error, and the old one stays.
        """
        try:
            ref = self.registry.resolve(MODEL_NAME, self.alias)
            self._set_state("ok", "")
        except NoChampion as error:
            self._set_state("no champion", str(error))
            return
        except RegistryUnavailable as error:
            self._set_state("unreachable", str(error))
            self._start_from_cache()
            return
        if (self.current is None or self.current.ref != ref) and ref not in self.refused:
            self._switch(ref)
        self._resolved(ref)

    def _resolved(self, ref: ModelRef) -> None:
        """The alias was asked for and leads to this version."""

    def _rule(self, ref: ModelRef) -> TrafficRule:
        """What part a version takes."""
        return CHAMPION_RULE

    @property
    def is_dead(self) -> bool:
        """Whether the thread was started and has ended without being told to."""
        return self._thread is not None and not self._thread.is_alive() and not self._stopping.is_set()

    def start(self, poll_seconds: float) -> None:
        """Refresh every `poll_seconds` in a thread."""
        self._thread = threading.Thread(target=self._poll, args=(poll_seconds,), name=f"{self.alias}-poll", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; a download under way is not waited for long."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)

    def _poll(self, poll_seconds: float) -> None:
        while not self._stopping.wait(poll_seconds):
            try:
                self.refresh()
            except Exception:  # the thread must outlive whatever a poll runs into, or no champion is ever seen again
                logger.exception("asking for the %s failed", self.alias)

    def _switch(self, ref: ModelRef) -> None:
        try:
            self._adopt(ref, self.cache.obtain(self.registry, ref))
        except (RegistryUnavailable, OSError) as error:
            self._set_state("unreachable", str(error))
            self._start_from_cache()
        except StoreMismatch as error:
            self._hold(ref, error)
        except BundleError as error:
            self._refuse(ref, error)
        else:
            self.cache.remember(ref)

    def _adopt(self, ref: ModelRef, directory: Path) -> None:
        bundle = Bundle.load(directory)
        if bundle.document.model != ref.name:
            raise BundleError(f"{directory} holds a bundle of the model {bundle.document.model}, not of {ref.name}")
        difference = bundle.verify()
        predictor = self.build(bundle)
        if predictor.standing_reasons and self.current is not None and not self.current.predictor.standing_reasons:
            raise BundleError(f"all its answers would be degraded here ({'; '.join(predictor.standing_reasons)})")
        if unknown := self.require(bundle):
            logger.warning("%s version %s is not held against the store: %s", ref.name, ref.version, unknown)
        self.held.clear()
        self.current = LoadedModel(ref, predictor, self._rule(ref))
        self.on_switch("switched")
        logger.info(
            "%s is %s version %s (self-test: largest difference %.2g min)",
            self.alias,
            ref.name,
            ref.version,
            difference,
        )

    def _hold(self, ref: ModelRef, error: StoreMismatch) -> None:
        """Try again at the next poll: a store can be filled."""
        reason = f"{ref.name} version {ref.version} waits: {error}"
        if self.held != {ref: reason}:
            self.held = {ref: reason}
            self.on_switch("refused")
            logger.error("ALARM: %s; %s", reason, self._kept)

    @property
    def _kept(self) -> str:
        return f"version {self.current.ref.version} stays" if self.current else "there is no other version to serve"

    def _refuse(self, ref: ModelRef, error: BundleError) -> None:
        self.refused[ref] = f"{ref.name} version {ref.version} was refused: {error}"
        self.cache.forget(ref)
        self.on_switch("refused")
        logger.error("ALARM: %s; %s", self.refused[ref], self._kept)

    def _start_from_cache(self) -> None:
        """Without a model and without a registry, serve the version that was last served here."""
        remembered = self.cache.remembered(MODEL_NAME, CHAMPION) if self.current is None else None
        if remembered is None:
            return
        try:
            self._adopt(*remembered)
        except StoreMismatch as error:
            self._hold(remembered[0], error)
        except BundleError as error:
            self._refuse(remembered[0], error)

    def _set_state(self, state: RegistryState, reason: str) -> None:
        if state != self.registry_state:
            expected = state == "ok" or (state == "no champion" and self.alias != CHAMPION)
            level = logging.INFO if expected else logging.WARNING
            logger.log(level, "registry: %s%s", state, f" ({reason})" if reason else "")
        self.registry_state, self.registry_reason = state, reason


class Challenger(Champion):
    """Keeps `current` at the version that has the alias `challenger`, as long as it has it and takes part.

    It is only an addition: without its alias, its registry at the start, or a bundle that passes, there is none.
    """

    alias = CHALLENGER

    @property
    def rule(self) -> TrafficRule:
        """What part it takes now."""
        return self.current.rule if self.current else TrafficRule()

    def refresh(self) -> None:
        """Ask the registry once, follow alias and tags. Never raises what a registry or a bundle may do."""
        super().refresh()
        if self.registry_state == "no champion" and self.current is not None:
            logger.info("%s version %s is no challenger any more", self.current.ref.name, self.current.ref.version)
            self.current = None

    def _resolved(self, ref: ModelRef) -> None:
        current = self.current
        if current is None:
            return
        if current.ref != ref:  # the one that has the alias now was refused
            self.current = None
        elif current.ref.tags != ref.tags:
            self.current = LoadedModel(ref, current.predictor, self._rule(ref))
            logger.info("challenger version %s: %s", ref.version, self.current.rule)

    def _rule(self, ref: ModelRef) -> TrafficRule:
        try:
            return TrafficRule.of(ref.tags, salt=ref.version)
        except TrafficError as error:
            logger.error("ALARM: %s version %s takes no part: %s", ref.name, ref.version, error)
            return TrafficRule()

    def _start_from_cache(self) -> None:
        """A challenger is not needed: without a registry nobody knows whether it should take part."""
