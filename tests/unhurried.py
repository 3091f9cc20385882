"""Feast in a third of its time to import: what it has decorated for checks of types is instrumented when first called.

Typeguard reads and compiles a whole module for each function of it (agronholm/typeguard#468): six seconds for Feast, in
every process. Nothing is left unchecked; most of it is never called here.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any


def lazily(check: Callable[..., Any]) -> Callable[..., Any]:
    """Typeguard's decorator, which does its work at the first call of a function; a class is its methods."""

    def of_function(function: Any) -> Any:
        checked: list[Any] = []

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            if not checked:
                checked.append(check(function))
            return checked[0](*arguments, **named)

        return call

    def decorate(target: Any = None, **options: Any) -> Any:
        if target is None or options:
            return check(target, **options)
        if not inspect.isclass(target):
            return of_function(target) if inspect.isfunction(target) else check(target)
        for name, method in list(vars(target).items()):
            if inspect.isfunction(method) and method.__qualname__ == f"{target.__qualname__}.{name}":
                setattr(target, name, of_function(method))
            elif isinstance(method, classmethod | staticmethod):
                setattr(target, name, type(method)(of_function(method.__func__)))
        return target

    return decorate


class _Typeguard(importlib.abc.MetaPathFinder):
    """Finds typeguard as everybody does, and makes its decorator lazy once it is loaded."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "typeguard":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_then_make_lazy(module: Any) -> None:
                execute(module)
                module.typechecked = lazily(module.typechecked)

            spec.loader.exec_module = execute_then_make_lazy  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Typeguard())
