"""Writes the generated parts of docs/rewards.md out of the registry, the tasks and the docstrings of the rewards.

    python -m open_r1.utils.reward_docs --write      # without --write: says whether the page is stale

A generated part lies between `<!-- generated: NAME -->` and `<!-- end -->`; the rest of the page is written by hand.
The docstring of a reward has a summary in its first line, paragraphs, and then the fields Range, Scope, Needs and
Source, a doctest, and Args. Everything but Args is shown.
"""

import argparse
import dataclasses
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from open_r1.reward_arguments import RewardArguments
from open_r1.rewards import REWARD_FUNCS, get_option_names
from open_r1.tasks import TASKS, list_other_names


PAGE = Path(__file__).parents[3] / "docs" / "rewards.md"
FIELDS = ("Range", "Scope", "Needs", "Source")
_FIELD = re.compile(rf"({'|'.join(FIELDS)}): *(.*)")
_SECTION = re.compile(r"(Args|Returns|Raises|Example|Examples|Note):$")
_PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_PLACES = {
    "coroutine": "beside the others, in the event loop",
    "thread": "beside the others, in a thread",
    "process": "beside the others, in worker processes",
}


@dataclass(kw_only=True)
class RewardDoc:
    """What a docstring says."""

    summary: str
    text: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)


def parse_docstring(docstring: str) -> RewardDoc:
    """Takes a reward's docstring apart.

    >>> parse_docstring('''Short is good.
    ...
    ... Up to a limit.
    ...
    ... Range: 0 to 1.
    ... ''')
    RewardDoc(summary='Short is good.', text='Up to a limit.', fields={'Range': '0 to 1'}, examples=[])
    """
    summary, _, rest = inspect.cleandoc(docstring).partition("\n")
    doc, text, current, is_skipping = RewardDoc(summary=summary), [], None, False
    for block in re.split(r"\n[ ]*\n", rest):
        if block.startswith(">>>"):
            doc.examples.append(block)
            continue
        for line in block.splitlines():
            found, is_indented = _FIELD.match(line), line.startswith(" ")
            if found:
                current, is_skipping = found.group(1), False
                doc.fields[current] = found.group(2)
            elif _SECTION.match(line):
                current, is_skipping = None, True
            elif is_skipping and is_indented:
                continue
            elif current is not None and is_indented:
                doc.fields[current] += f" {line.strip()}"
            else:
                current, is_skipping = None, False
                text.append(line)
        current = None
        text.append("")
    doc.text = re.sub(r"\n{3,}", "\n\n", "\n".join(text)).strip("\n")
    doc.fields = {name: value.rstrip(".") for name, value in doc.fields.items()}
    return doc


def render_table() -> str:
    """All rewards, a line each."""
    lines = ["| name | also called | metric | range | scope |", "|---|---|---|---|---|"]
    for name, func in REWARD_FUNCS.items():
        doc = parse_docstring(func.__doc__ or "")
        shown = [doc.fields.get("Range", "?"), doc.fields.get("Scope", "?")]
        other = ", ".join(f"`{short}` under {_quote(tasks)}" for short, tasks in _find_short_names(name).items())
        metric = f"`rewards/{func.__name__}/mean`"
        lines.append(f"| [`{name}`](#{name}) | {other} | {metric} | {' | '.join(shown)} |")
    return "\n".join(lines)


def render_tasks() -> str:
    """All tasks, a line each."""
    lines = ["| task | also | question template | short names |", "|---|---|---|---|"]
    for name, task in TASKS.items():
        short = ", ".join(f"`{short}` is [`{meaning}`](#{meaning})" for short, meaning in task.rewards.items())
        lines.append(f"| `{name}` | {_quote(list_other_names(name))} | `{task.question_template}` | {short} |")
    return "\n".join(lines)


def render_rewards() -> str:
    """A section for each reward."""
    return "\n\n".join(_render_reward(name, func) for name, func in REWARD_FUNCS.items())


def _render_reward(name: str, func: Callable[..., Any]) -> str:
    doc = parse_docstring(func.__doc__ or "")
    place = "coroutine" if inspect.iscoroutinefunction(func) else getattr(func, "runs_in", "main")
    facts = [f"* {label}: {doc.fields[label]}." for label in FIELDS if label in doc.fields]
    facts += [f"* Runs {_PLACES[place]}."] if place in _PLACES else []
    facts += [f"* Metric: `rewards/{func.__name__}/mean`."]
    facts += _render_options(func)
    parts = [f"### {name}", doc.summary, doc.text, "\n".join(facts)]
    parts += [f"```python\n{_without_directives(example)}\n```" for example in doc.examples]
    return "\n\n".join(part for part in parts if part)


def _render_options(func: Callable[..., Any]) -> list[str]:
    """The options that have a flag, with what `--help` says of them."""
    own = get_option_names(func)
    options = [item for item in dataclasses.fields(RewardArguments) if item.name in own]
    return [f"* `--{item.name}` ({_show_default(item)}): {item.metadata['help']}" for item in options]


def _show_default(item: dataclasses.Field) -> str:
    value = item.default_factory() if item.default is dataclasses.MISSING else item.default
    shown = " ".join(map(str, value)) if isinstance(value, list | tuple) else value
    return "no default" if value is None else f"default `{shown}`"


def _without_directives(example: str) -> str:
    return re.sub(r" *# doctest:.*", "", example)


def _find_short_names(name: str) -> dict[str, list[str]]:
    """What tasks call a reward, with the tasks."""
    found: dict[str, list[str]] = {}
    for task_name, task in TASKS.items():
        for short in (short for short, meaning in task.rewards.items() if meaning == name != short):
            found.setdefault(short, []).append(task_name)
    return found


def _quote(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


PARTS = {"table": render_table, "tasks": render_tasks, "rewards": render_rewards}


def render_page(page: str) -> str:
    """The page with its generated parts as they should be; ValueError where one of them has no place in it."""
    missing = sorted(PARTS.keys() - {found.group(2) for found in _PART.finditer(page)})
    if missing:
        raise ValueError(
            f"the page has no place for {', '.join(missing)}: add <!-- generated: NAME --> and <!-- end -->"
        )
    return _PART.sub(lambda found: f"{found.group(1)}\n{PARTS[found.group(2)]()}\n\n{found.group(3)}", page)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="reward_docs", description="Generated parts of docs/rewards.md.")
    parser.add_argument("--write", action="store_true", help="Write the page.")
    is_writing = parser.parse_args(argv).write
    page = PAGE.read_text(encoding="utf-8")
    wanted = render_page(page)
    if is_writing:
        PAGE.write_text(wanted, encoding="utf-8")
    elif page != wanted:
        sys.exit(f"{PAGE} is stale: python -m open_r1.utils.reward_docs --write")


if __name__ == "__main__":
    main(sys.argv[1:])
