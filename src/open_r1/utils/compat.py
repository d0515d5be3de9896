"""Workarounds for library versions that do not fit together; nothing else in the repo needs to know of them.

torchvision's wheels carry an extension built for CUDA. Beside a CPU build of torch it cannot load, and then
`import torchvision` itself fails with "operator torchvision::nms does not exist", which takes every image and video
processor of transformers down. The Python-only part of torchvision (all that the processors use) works once the two
operators that it refers to are declared, so they are declared, just before torchvision is first imported, and only
where the extension does not load.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import logging
import os
import sys
from collections.abc import MutableMapping
from pathlib import Path


_CHILD_PROCESS_FOLDER = Path(__file__).parent / "child_process"
_OPERATORS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
# bitsandbytes, which peft imports where it is installed, advises at every start to install what downloads kernels.
logging.getLogger("bitsandbytes.backends.cpu.ops").disabled = True
_kept_libraries = []  # a torch.library.Library undoes its definitions when it is collected


class _TorchvisionGuard(importlib.abc.MetaPathFinder):
    """Declares torchvision's operators when torchvision is about to be imported, then lets the import go on."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            spec = importlib.machinery.PathFinder.find_spec(fullname)
            if spec is not None and not _extension_loads(Path(spec.origin).parent):
                _declare_operators()
        return None


def _extension_loads(package_dir: Path) -> bool:
    import torch

    for library in package_dir.glob("_C*.so"):
        try:
            torch.ops.load_library(library)
        except OSError:
            return False
        return True
    return False


def _declare_operators() -> None:
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in _OPERATORS:
        library.define(name + _SCHEMA)
    _kept_libraries.append(library)


def guard_torchvision() -> None:
    """Arranges for torchvision to import beside a CPU build of torch. Cheap, and safe to call more than once."""
    already = "torchvision" in sys.modules or any(isinstance(finder, _TorchvisionGuard) for finder in sys.meta_path)
    if not already:
        sys.meta_path.insert(0, _TorchvisionGuard())


def guard_child_processes(environment: MutableMapping[str, str]) -> None:
    """The same for Python processes that other libraries start: a `sitecustomize` on their path does it."""
    known = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    needed = [str(_CHILD_PROCESS_FOLDER), str(Path(__file__).parents[2])]
    environment["PYTHONPATH"] = os.pathsep.join([*(path for path in needed if path not in known), *known])


def start_child_process(folder: Path) -> None:
    """What the `sitecustomize` in this folder does: guards the process, and runs the one that it hides, if any."""
    guard_torchvision()
    others = [path for path in sys.path if Path(path or ".").resolve() != folder.resolve()]
    hidden = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if hidden is not None:
        hidden.loader.exec_module(importlib.util.module_from_spec(hidden))


def speed_up_help(argv: list[str]) -> None:
    """Makes `--help` answer in two seconds instead of seven.

    transformers imports peft, and with it every modelling base class, before it can describe `TrainingArguments`.
    A process that only prints its options does without: peft is declared absent, for this process alone.
    """
    if {"-h", "--help"} & set(argv) and "peft" not in sys.modules:
        sys.modules["peft"] = None
