"""Feast in a third of its time to import: what it has decorated for checks of types is instrumented when first called.

Typeguard reads and compiles a whole module for each function of it (agronholm/typeguard#468): six seconds for Feast, in
every process. Nothing is left unchecked; most of it is never called here. Imports little: every child process does it.
"""

import functools
import sys


def lazily(check):
    """Typeguard's decorator, which does its work at the first call of a function; a class is its methods."""
    import inspect

    def of_function(function):
        checked = []

        @functools.wraps(function)
        def call(*arguments, **named):
            if not checked:
                checked.append(check(function))
            return checked[0](*arguments, **named)

        return call

    def decorate(target=None, **options):
        if target is None or options:
            return check(target, **options)
        if not inspect.isclass(target):
            return of_function(target) if inspect.isfunction(target) else check(target)
        for name, method in list(vars(target).items()):
            if inspect.isfunction(method) and method.__qualname__ == f"{target.__qualname__}.{name}":
                setattr(target, name, of_function(method))
            elif isinstance(method, (classmethod, staticmethod)):
                setattr(target, name, type(method)(of_function(method.__func__)))
        return target

    return decorate


class _Typeguard:
    """Finds typeguard as everybody does, and makes its decorator lazy once it is loaded."""

    def find_spec(self, name, path=None, target=None):
        if name != "typeguard":
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_then_make_lazy(module):
                execute(module)
                module.typechecked = lazily(module.typechecked)

            spec.loader.exec_module = execute_then_make_lazy
        return spec


if not any(type(finder).__name__ == "_Typeguard" for finder in sys.meta_path) and "typeguard" not in sys.modules:
    sys.meta_path.insert(0, _Typeguard())
