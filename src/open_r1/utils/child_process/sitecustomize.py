"""Python imports this when a process starts that has this folder on its path; see `compat.guard_child_processes`."""

from pathlib import Path

from open_r1.utils.compat import start_child_process


start_child_process(Path(__file__).parent)
