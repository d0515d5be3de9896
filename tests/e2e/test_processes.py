"""The helper by which tests run a function in a process of its own."""

import os

import pytest
from processes import run_alone


def describe_process(word: str) -> tuple[str, int]:
    return word, int(os.environ.get("RANK", -1))


def fail(word: str) -> None:
    raise ValueError(f"no {word}")


def test_the_result_of_a_process_comes_back_and_of_several_by_rank():
    assert run_alone(describe_process, "one") == ("one", -1)
    assert run_alone(describe_process, "two", num_processes=2) == [("two", 0), ("two", 1)]


def test_what_fails_there_fails_here_with_its_words():
    with pytest.raises(AssertionError, match="no luck"):
        run_alone(fail, "luck")
