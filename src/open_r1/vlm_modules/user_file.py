"""A VLM module out of a user's own file: `--vlm_module path/to/file.py:Class`."""

import importlib.util
import sys
from pathlib import Path

from open_r1.vlm_modules.vlm_module import VLMBaseModule


def load_module_class(place: str) -> type[VLMBaseModule]:
    """The class of a file that is run for it, once.

    Args:
        place: `path/to/file.py:Class`.

    Raises:
        ValueError: there is no such file or class, or the class is no VLM module.
    """
    path, _, name = place.rpartition(":")
    file = Path(path).resolve()
    if not file.is_file():
        raise ValueError(f"--vlm_module {place}: there is no file {path}.")
    module_name = f"vlm_module_file_{file.stem}"
    module = sys.modules.get(module_name)
    if module is None or module.__file__ != str(file):
        spec = importlib.util.spec_from_file_location(module_name, file)
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # data loader workers look the class up by this name
        spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, VLMBaseModule)):
        raise ValueError(f"--vlm_module {place}: {path} has no class {name} that is a VLMBaseModule.")
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise ValueError(f"--vlm_module {place}: {name} does not say {', '.join(missing)} (docs/add-a-model.md).")
    return found
