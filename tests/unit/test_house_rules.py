"""The house rules that the syntax tree can show: budgets, annotations, import direction, no work at import, and more.

Each rule is a function of a parsed file that returns what breaks it, as `line: what`. A rule that is in the way is
changed here, in the open, with its reason.
"""

import ast
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "open_r1"
SOURCES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "datasets").rglob("*.py"))
ENTRIES = {path.stem for path in PACKAGE.glob("*.py") if '__name__ == "__main__"' in path.read_text()}

MAX_FILE_LINES, LONG_FILES = 300, {"grpo_trainer.py": 500}
MAX_FUNCTION_LINES, MAX_NESTING, MAX_ARGUMENTS = 80, 4, 8  # lines without the docstring

# Who may not import whom, below open_r1 and outside it. Imports point down: entries, trainer, then the rest.
FORBIDDEN_IMPORTS = {
    "rewards": (
        "data.jsonl",
        "data.mos",
        "inference",
        "trainer",
        "vlm_modules",
        "viz",
        "transformers",
        "accelerate",
        "trl",
    ),
    "vlm_modules": ("rewards", "data", "trainer", "inference", "viz", "accelerate"),
    "data": ("rewards", "vlm_modules", "trainer", "inference", "viz", "accelerate"),
    "inference": ("rewards", "data", "trainer", "viz", "accelerate"),
    "scorer": ("rewards", "trainer", "viz", "accelerate"),
    "viz": ("rewards", "trainer", "vlm_modules", "inference", "torch", "transformers"),
    "completions": ("rewards", "data", "trainer", "vlm_modules", "inference", "viz", "utils", "torch", "transformers"),
    "tasks": ("rewards", "data", "trainer", "vlm_modules", "inference", "viz", "utils", "torch", "transformers"),
    "templates": ("open_r1",),
    "json_text": ("open_r1",),
    "configs": ("rewards", "data", "trainer", "vlm_modules", "inference", "viz"),
    "utils.math": ("rewards", "data", "trainer", "vlm_modules", "inference", "viz", "torch", "transformers"),
} | {
    f"trainer.{name}": ("data", "vlm_modules", "rewards", "inference", "transformers", "accelerate")
    for name in ("advantages", "entropy", "importance", "loss_settings", "losses", "token_scores")
}
IMPORT_TIME_CALLS = {  # cheap, and without a side effect
    *("re.compile", "logging.getLogger", "str.maketrans", "frozenset", "set", "dict", "tuple", "sorted", "range"),
    *("Path", "len", "sum", "np.array", "TypeVar", "partial", "join", "split", "items", "values", "keys"),
    *("fromkeys", "enumerate", "zip"),
    "start_child_process",  # the same, in processes that other libraries start
    "guard_torchvision",  # an import hook; open_r1/__init__.py sets it, as it must precede any import of torchvision
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions_of(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def arguments_of(function: Function) -> list[ast.arg]:
    args = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return [arg for arg in args if arg.arg not in ("self", "cls")]


def code_lines(function: Function) -> int:
    docstring = function.body[0] if ast.get_docstring(function, clean=False) is not None else None
    lines = function.end_lineno - function.lineno + 1
    return lines - (docstring.end_lineno - docstring.lineno + 1 if docstring else 0)


def nesting_of(node: ast.AST, depth: int = 0) -> int:
    """Deepest block below a node; `elif` is no deeper than its `if`, and inner functions are counted by themselves."""
    deepest = depth
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef | ast.Lambda):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and [child] == node.orelse
        is_block = isinstance(child, ast.If | ast.For | ast.While | ast.With | ast.Try) and not is_elif
        deepest = max(deepest, nesting_of(child, depth + is_block))
    return deepest


def check_budgets(tree: ast.Module) -> Iterator[str]:
    for function in functions_of(tree):
        num_lines, nesting, num_arguments = code_lines(function), nesting_of(function), len(arguments_of(function))
        if num_lines > MAX_FUNCTION_LINES:
            yield f"{function.lineno}: {function.name} has {num_lines} lines"
        if nesting > MAX_NESTING:
            yield f"{function.lineno}: {function.name} nests {nesting} deep"
        if num_arguments > MAX_ARGUMENTS and function.name != "__init__":
            yield f"{function.lineno}: {function.name} has {num_arguments} arguments; use a record"


def check_docstring(tree: ast.Module) -> Iterator[str]:
    if not ast.get_docstring(tree):
        yield "1: no module docstring"


def check_annotations(tree: ast.Module) -> Iterator[str]:
    public = [node for node in tree.body if not getattr(node, "name", "_").startswith("_")]
    methods = [node for cls in public if isinstance(cls, ast.ClassDef) for node in cls.body]
    for function in (node for node in [*public, *methods] if isinstance(node, Function)):
        if function.name.startswith("_") and function.name != "__init__":
            continue
        bare = [arg.arg for arg in arguments_of(function) if arg.annotation is None]
        if bare or (function.returns is None and function.name != "__init__"):
            yield f"{function.lineno}: {function.name} lacks annotations: {', '.join(bare) or 'its result'}"


def check_excepts(tree: ast.Module) -> Iterator[str]:
    for handler in (node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)):
        is_broad = handler.type is None or ast.unparse(handler.type) in ("Exception", "BaseException")
        is_silent = all(isinstance(node, ast.Pass | ast.Continue) for node in handler.body)
        raises = any(isinstance(node, ast.Raise) for node in handler.body)
        if handler.type is None or is_silent or (is_broad and not raises):
            yield f"{handler.lineno}: except that is bare, silent, or broad without raising"


def check_stars_and_globals(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Global) or (isinstance(node, ast.ImportFrom) and node.names[0].name == "*"):
            yield f"{node.lineno}: {ast.unparse(node)}"


def check_import_time(tree: ast.Module) -> Iterator[str]:
    allowed = IMPORT_TIME_CALLS | {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef | ast.Import | ast.ImportFrom):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("__name__ == '__main__'", "TYPE_CHECKING"):
            continue
        for call in (part for part in ast.walk(node) if isinstance(part, ast.Call)):
            name = ast.unparse(call.func)
            if not {name, name.rsplit(".", 1)[-1]} & allowed:
                yield f"{call.lineno}: {name}() at import"
        if "os.environ" in ast.unparse(node):
            yield f"{node.lineno}: environment read at import"


def check_print(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
            yield f"{node.lineno}: print"


def check_reward_purity(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        text = ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute | ast.Import | ast.ImportFrom) else ""
        if re.search(r"\brandom\b|^open$|\.open$|environ|getenv", text):
            yield f"{node.lineno}: {text} in a reward"


def check_answer_tag(tree: ast.Module) -> Iterator[str]:
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and "<answer" in str(node.value) and id(node) not in docstrings:
            yield f"{node.lineno}: the answer tag belongs to the answer contracts"


def check_imports(tree: ast.Module, module: str) -> Iterator[str]:
    """`module` is the dotted name below open_r1."""
    forbidden = set() if f"{module}.".startswith("trainer.") else {"torch.distributed"}  # only the trainer knows ranks
    for owner, names in FORBIDDEN_IMPORTS.items():
        if f"{module}.".startswith(f"{owner}."):
            forbidden.update(names, (f"open_r1.{name}" for name in names))
    if module not in ENTRIES:
        forbidden.update(f"open_r1.{entry}" for entry in ENTRIES)
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        if any(f"{name}.".startswith(f"{other}.") for name in names for other in forbidden):
            yield f"{node.lineno}: {module} must not {ast.unparse(node)}"


def assert_kept(check: Callable[[ast.Module], Iterator[str]], paths: list[Path]) -> None:
    problems = [
        f"{path.relative_to(ROOT)}:{problem}"
        for path in paths
        for problem in check(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not problems, "\n".join(["", *problems])


@pytest.mark.parametrize(
    "check",
    [check_budgets, check_docstring, check_excepts, check_stars_and_globals, check_import_time],
)
def test_sources_keep_the_rule(check):
    assert_kept(check, SOURCES + SCRIPTS)


def test_public_signatures_of_the_package_are_annotated():
    assert_kept(check_annotations, SOURCES)


def test_only_entry_points_and_viz_print():
    assert_kept(check_print, [path for path in SOURCES if path.stem not in ENTRIES and path.parent.name != "viz"])


def test_rewards_are_pure():
    assert_kept(check_reward_purity, [path for path in SOURCES if path.parent.name == "rewards"])


def test_the_answer_tag_is_written_where_the_contracts_are():
    contracts = (PACKAGE / "completions.py", PACKAGE / "templates.py")
    assert_kept(check_answer_tag, [path for path in SOURCES + SCRIPTS if path not in contracts])


def test_imports_point_down():
    for path in SOURCES:
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        assert_kept(partial(check_imports, module=module), [path])


def test_files_are_short():
    counts = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES + SCRIPTS}
    limits = {path: LONG_FILES.get(path.name, MAX_FILE_LINES) for path in counts}
    assert [f"{path.relative_to(ROOT)}: {count}" for path, count in counts.items() if count > limits[path]] == []


def test_nine_functions_in_ten_fit_a_screen():
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES]
    lengths = sorted(code_lines(function) for tree in trees for function in functions_of(tree))
    assert lengths[int(0.9 * len(lengths))] <= 40


NESTED = "def f():\n for a in b:\n  for c in a:\n   if c:\n    while c:\n     with c:\n      pass"
BAD = {
    check_budgets: ["def f(a, b, c, d, e, g, h, i, j): pass", "def f():\n" + "    x = 1\n" * 81, NESTED],
    check_docstring: ["x = 1"],
    check_annotations: ["def f(a) -> int: ...", "def f(a: int): ...", "class A:\n def f(self, a) -> int: ..."],
    check_excepts: ["try: x\nexcept: raise", "try: x\nexcept E: pass", "try: x\nexcept Exception: y = 1"],
    check_stars_and_globals: ["from a import *", "def f():\n global x"],
    check_import_time: ["client = OpenAI()", "load()", "if load(): x = 1", "x = os.environ['A']"],
    check_print: ["print(1)"],
    check_reward_purity: ["import random", "np.random.rand()", "open('a')", "os.environ['A']", "os.getenv('A')"],
    check_answer_tag: ["x = '<answer>'", "x = f'<answer>{y}</answer>'"],
    partial(check_imports, module="rewards.new"): ["from open_r1.trainer import x", "import transformers.utils"],
    partial(check_imports, module="data.new"): ["from open_r1 import rewards", "import torch.distributed as dist"],
}


@pytest.mark.parametrize("check, sample", [(check, sample) for check, samples in BAD.items() for sample in samples])
def test_every_rule_can_be_broken(check, sample):
    assert list(check(ast.parse(sample)))
