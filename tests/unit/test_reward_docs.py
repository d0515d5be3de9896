"""docs/rewards.md says what the code says, and docs/add-a-reward.md can be followed to the letter."""

import doctest
import re
import subprocess
import sys
import textwrap

import pytest

from open_r1.rewards import REWARD_FUNCS, build_reward_funcs
from open_r1.utils import reward_docs
from open_r1.utils.reward_docs import FIELDS, PAGE, parse_docstring, render_page


GUIDE = PAGE.with_name("add-a-reward.md")


@pytest.fixture
def followed(tmp_path):
    """The files that the guide says to write."""
    rewards, test = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "my_rewards.py").write_text(textwrap.dedent(rewards))
    (tmp_path / "test_my_rewards.py").write_text(textwrap.dedent(test))
    return tmp_path


def test_the_page_of_rewards_is_what_the_docstrings_say():
    page = PAGE.read_text(encoding="utf-8")
    assert page == render_page(page), "stale: python -m open_r1.utils.reward_docs --write"


@pytest.mark.parametrize("func", REWARD_FUNCS.values(), ids=REWARD_FUNCS)
def test_every_reward_says_its_range_scope_and_source_and_gives_an_example(func):
    doc = parse_docstring(func.__doc__)
    assert {"Range", "Scope"} <= doc.fields.keys()
    assert "Source" in doc.fields or "format" in func.__name__
    assert doc.examples and doc.summary.endswith(".")
    assert not [line for line in doc.text.splitlines() if line.startswith(FIELDS)]


def test_a_docstring_is_taken_apart():
    doc = parse_docstring("""Short is good.

    As in `2 * n`:

        r = 1

    * one
      point

    Range: 0 to 1.
    Needs: column `a`;
        extra `b`.

    >>> f()  # doctest: +SKIP
    1

    Args:
        a: A thing: with a colon.

        b: Another.
    """)
    assert doc.summary == "Short is good."
    assert doc.text == "As in `2 * n`:\n\n    r = 1\n\n* one\n  point"
    assert doc.fields == {"Range": "0 to 1", "Needs": "column `a`; extra `b`"}
    assert doc.examples == [">>> f()  # doctest: +SKIP\n1"]


def test_a_page_without_a_place_for_a_part_is_refused():
    with pytest.raises(ValueError, match="no place for rewards, table"):
        render_page("# Rewards\n<!-- generated: tasks -->\n<!-- end -->\n")


def test_the_examples_in_the_docstrings_hold():
    results = doctest.testmod(reward_docs)
    assert results.attempted and not results.failed


def test_a_stale_page_is_told(tmp_path, monkeypatch):
    page = tmp_path / "rewards.md"
    page.write_text("".join(f"<!-- generated: {name} -->\n<!-- end -->\n" for name in reward_docs.PARTS))
    monkeypatch.setattr(reward_docs, "PAGE", page)
    with pytest.raises(SystemExit, match="is stale: python -m open_r1.utils.reward_docs --write"):
        reward_docs.main([])
    reward_docs.main(["--write"])
    assert "### fidelity" in page.read_text()
    reward_docs.main([])


def test_the_reward_of_the_guide_passes_the_test_of_the_guide(followed):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_rewards.py"],
        cwd=followed, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_the_reward_of_the_guide_is_found_by_its_file(followed):
    (reward,) = build_reward_funcs([f"{followed / 'my_rewards.py'}:brevity_reward"], brevity_limit=4)
    assert reward([], [[{"role": "assistant", "content": "123456"}]]) == [0.5]


def test_the_guide_names_files_that_exist():
    for path in re.findall(r"`((?:src|tests)/[\w/]+\.py)`", GUIDE.read_text(encoding="utf-8")):
        assert (PAGE.parents[1] / path).is_file(), path
