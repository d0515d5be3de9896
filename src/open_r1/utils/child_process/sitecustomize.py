"""Python imports this when a process starts that has this folder on its path; see `compat.guard_child_processes`."""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

from open_r1.utils.compat import guard_torchvision


guard_torchvision()

# The environment's own, which this one hides.
_OTHERS = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).resolve().parent]
_SPEC = importlib.machinery.PathFinder.find_spec("sitecustomize", _OTHERS)
if _SPEC is not None:
    _SPEC.loader.exec_module(importlib.util.module_from_spec(_SPEC))
