"""Runs each contender of a benchmark in a process of its own, in turn, and keeps what it took.

Times on a shared machine drift; ratios of contenders measured in turn in one run do so much less. Quote those.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
Contender = Callable[..., Mapping[str, Any]]
"""Does the work and returns facts about its result (rows, a hash) that the table shows."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One contender at one size: medians over the runs.

    Attributes
    ----------
    seconds : float
        Wall time without start-up and imports.
    peak_mebibytes : float
        Largest resident size of the process.
    facts : mapping
        What the contender said of its result.
    """

    contender: str
    size: str
    seconds: float
    peak_mebibytes: float
    runs: int
    facts: Mapping[str, Any]


def compare(
    name: str,
    contenders: Mapping[str, Contender],
    sizes: Mapping[str, Mapping[str, Any]],
    *,
    anchor: str,
    packages: Sequence[str],
    runs: int = 3,
    leave_out: Collection[tuple[str, str]] = (),
    ratios_of: Collection[str] = (),
) -> list[Measurement]:
    """Measure all contenders at all sizes in turn, print the table and write the result file.

    Parameters
    ----------
    name : str
        Of the benchmark and its result file.
    contenders : mapping of str to callable
        Module-level functions; each gets a size's arguments by keyword. Outside of what is measured: a function in
        the contender's attribute `prepare` gets the same and returns further arguments, and one in `finish` gets all
        of them and returns further facts.
    sizes : mapping of str to mapping
        Keyword arguments by the size's name.
    anchor : str
        The contender that the others are divided by.
    packages : sequence of str
        Whose versions the result records.
    leave_out : collection of (str, str)
        Contenders and sizes that are not measured together.
    ratios_of : collection of str
        Facts that are shown divided by the anchor's, too.
    """
    measurements: list[Measurement] = []
    for size, arguments in sizes.items():
        chosen = {label: one for label, one in contenders.items() if (label, size) not in leave_out}
        seen: dict[str, list[tuple[float, float, Mapping[str, Any]]]] = {label: [] for label in chosen}
        for _ in range(runs):
            for label, contender in chosen.items():
                print(f"  {size}: {label} ...", flush=True)
                seen[label].append(_in_own_process(contender, arguments))
        measurements += _with_ratios([_median(label, size, seen[label]) for label in seen], anchor, ratios_of)
    print(table(measurements, anchor))
    write_result(name, measurements, anchor, sizes, packages)
    return measurements


def table(measurements: Sequence[Measurement], anchor: str) -> str:
    """The measurements as text, each beside its anchor."""
    lines = [f"{'size':<22}{'contender':<28}{'seconds':>9}{'ratio':>8}{'peak MiB':>10}  facts"]
    base = {m.size: m.seconds for m in measurements if m.contender == anchor}
    for m in measurements:
        facts = ", ".join(f"{key} {value}" for key, value in m.facts.items())
        ratio = m.seconds / base[m.size] if base.get(m.size) else float("nan")
        lines.append(f"{m.size:<22}{m.contender:<28}{m.seconds:>9.2f}{ratio:>8.2f}{m.peak_mebibytes:>10.0f}  {facts}")
    return "\n".join(lines)


def prepare_apart(function: Callable[..., object], *arguments: Any) -> None:
    """Prepare something in a process of its own: its memory and its imports are not those of the contenders.

    Raises
    ------
    SystemExit
        It failed.
    """
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(process.exitcode)


def _in_own_process(contender: Contender, arguments: Mapping[str, Any]) -> tuple[float, float, Mapping[str, Any]]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(contender, dict(arguments), sender))
    process.start()
    sender.close()
    try:
        result: tuple[float, float, Mapping[str, Any]] = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{contender}{dict(arguments)} died (exit status {process.exitcode})") from None
    process.join()
    return result


def _measure(contender: Contender, arguments: dict[str, Any], sender: Any) -> None:
    prepare = getattr(contender, "prepare", None)
    prepared = prepare(**arguments) if prepare else {}
    begun = time.perf_counter()
    facts = contender(**arguments, **prepared)
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    finish = getattr(contender, "finish", None)
    sender.send((seconds, peak, {**facts, **(finish(**arguments, **prepared) if finish else {})}))


def _median(label: str, size: str, results: Sequence[tuple[float, float, Mapping[str, Any]]]) -> Measurement:
    seconds = statistics.median(result[0] for result in results)
    peak = statistics.median(result[1] for result in results)
    facts = {name: _median_fact([result[2][name] for result in results]) for name in results[-1][2]}
    return Measurement(label, size, round(seconds, 3), round(peak, 1), len(results), facts)


def _median_fact(values: Sequence[Any]) -> Any:
    """Measured facts are floats; what counts or names something is the same in every run."""
    return round(statistics.median(values), 4) if isinstance(values[-1], float) else values[-1]


def _with_ratios(measured: list[Measurement], anchor: str, names: Collection[str]) -> list[Measurement]:
    base = next(m.facts for m in measured if m.contender == anchor) if names else {}
    return [
        replace(m, facts={**m.facts, **{f"{name} ratio": round(m.facts[name] / base[name], 2) for name in names}})
        for m in measured
    ]


def _shown(value: Any) -> str:
    """An argument as it is kept: of a folder only its name, as where it lay says nothing to others."""
    return value.name if isinstance(value, Path) else str(value)


def write_result(
    name: str,
    measurements: Sequence[Measurement],
    anchor: str,
    sizes: Mapping[str, Mapping[str, Any]],
    packages: Sequence[str],
) -> None:
    """Keep measurements as the result of a benchmark."""
    content = {
        "benchmark": name,
        "anchor": anchor,
        "sizes": {size: {key: _shown(value) for key, value in given.items()} for size, given in sizes.items()},
        "measured": [asdict(measurement) for measurement in measurements],
        "versions": {"python": platform.python_version(), **{package: version(package) for package in packages}},
        "machine": {"cores": os.cpu_count(), "architecture": platform.machine(), "system": platform.system()},
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=2) + "\n")
    print(f"written to benchmarks/results/{name}.json")
