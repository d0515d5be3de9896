"""Reward functions of the user's own, out of Python files: `--reward_funcs path/to/file.py:function`."""

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


_PREFIX = "reward_file_"


def load_reward_file(path: Path) -> ModuleType:
    """Runs a file, as a module of its own; once, unless it has changed. FileNotFoundError where there is none."""
    if not path.is_file():
        raise FileNotFoundError(f"no reward file {path}")
    path = path.resolve()
    name = f"{_PREFIX}{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    changed_at = path.stat().st_mtime_ns
    known = sys.modules.get(name)
    if known is not None and known.changed_at == changed_at:
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    module.changed_at = changed_at
    sys.modules[name] = module  # dataclasses look their module up, and so does whoever sends a function elsewhere
    spec.loader.exec_module(module)
    return module


def list_reward_files() -> list[str]:
    """The files that were loaded, for another process to load them, too."""
    modules = [module for name, module in sys.modules.items() if name.startswith(_PREFIX)]
    return [module.__file__ for module in modules]


def load_function(path: Path, function: str) -> Callable[..., Any]:
    """The function of that name from a file; ValueError with the names that it has where it has none such."""
    module = load_reward_file(path)
    func = getattr(module, function, None)
    if not inspect.isfunction(func):
        public = [name for name, value in vars(module).items() if inspect.isfunction(value) and name[0] != "_"]
        raise ValueError(f"{path} has no function {function!r}; it has: {', '.join(public) or 'none'}")
    return func
