"""Libraries that only some rewards or readers need, imported when they are first used."""

import importlib
from types import ModuleType


def require(name: str, extra: str) -> ModuleType:
    """Import a library that one of the package's extras installs.

    Args:
        name: The module's import name, such as `rapidfuzz` or `pycocotools.cocoeval`.
        extra: The extra in setup.py that brings it.

    Returns:
        The imported module.

    Raises:
        ImportError: The module, or something it needs, is not installed; the message has the command.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f'`{name}` cannot be imported ({error}); install it: pip install -e ".[{extra}]"') from error
