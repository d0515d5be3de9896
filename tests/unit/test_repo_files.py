"""Loose ends: everything shipped loads, parses, is documented, and runs on another machine than the author's."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from open_r1.rewards import REWARD_FUNCS
from open_r1.tasks import TASKS


ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "open_r1"
SHIPPED = ["src", "configs", "datasets", "docs", "local_scripts", "run_scripts", "tests", ".github", ".ci"]
FILES = sorted(path for folder in SHIPPED for path in (ROOT / folder).rglob("*") if path.is_file())
FILES += sorted(path for path in ROOT.iterdir() if path.is_file())
YAML_FILES = [path for path in FILES if path.suffix in (".yaml", ".yml")]
SHELL_SCRIPTS = [path for path in FILES if path.suffix == ".sh" or path.parent.name == ".ci"]


def test_every_reward_is_tested_and_documented():
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "unit").glob("test_*.py"))
    docs = (ROOT / "docs" / "rewards.md").read_text()
    untested = [name for name, func in REWARD_FUNCS.items() if func.__name__ not in tests and f'"{name}"' not in tests]
    assert untested == []
    assert [name for name in {*REWARD_FUNCS, *TASKS} if f"`{name}`" not in docs] == []


def test_test_files_have_names_of_their_own():
    """pytest takes two files of one name for the same module, and then collects nothing."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_the_datasets_folder_does_not_shadow_the_library():
    assert not (ROOT / "datasets" / "__init__.py").exists()


def test_no_folder_of_the_tests_passes_for_a_library_that_is_not_installed():
    """pytest puts `tests` on the path of imports, where any folder is a package."""
    pins = "".join(path.read_text() for path in ROOT.glob("requirements*.txt")) + (ROOT / "setup.py").read_text()
    libraries = {name.replace("-", "_").lower() for name in re.findall(r"[\w-]+(?=[><=]=)", pins)}
    assert {"torch", "vllm", "qwen_vl_utils"} <= libraries
    assert [path for path in (ROOT / "tests").iterdir() if path.stem in libraries] == []


def test_no_module_shadows_another_when_an_entry_is_run_by_its_path():
    own = {path.stem for path in PACKAGE.iterdir()} - {"__init__", "__pycache__"}
    others = {*sys.stdlib_module_names, *importlib.metadata.packages_distributions()} - {"open_r1"}
    assert own & others == set()


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.name)
def test_every_yaml_file_loads(path):
    assert yaml.safe_load(path.read_text()) is not None


@pytest.mark.parametrize("path", SHELL_SCRIPTS, ids=lambda path: path.name)
def test_every_shell_script_parses(path):
    checked = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_no_file_names_a_place_on_somebodys_machine():
    text_files = [path for path in FILES if path.suffix in (".py", ".md", ".sh", ".yaml", ".yml", ".json", ".toml")]
    place = re.compile(r"(?<![\w.])/(home|root|Users|work|mnt|tmp)/\w")
    named = {
        str(path.relative_to(ROOT)): found.group()
        for path in text_files
        if path != Path(__file__) and (found := place.search(path.read_text(encoding="utf-8")))
    }
    assert named == {}
