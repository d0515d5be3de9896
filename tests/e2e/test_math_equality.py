"""Mathematics by math-verify in its own process: equal and hostile expressions, threads, a process that hangs."""

import threading
import time

import pytest

from open_r1.completions import wrap_answer
from open_r1.rewards import build_reward_funcs
from open_r1.utils import math_equality
from open_r1.utils.answer_grading import compare_expressions, compare_free_text
from open_r1.utils.math_equality import is_equal


@pytest.mark.parametrize(
    "answer, gold, is_right",
    [
        ("\\frac{1}{2}", "0.5", True),
        ("$\\frac{1}{2}$", "1/2", True),
        ("\\boxed{\\frac{1}{2}}", "1/2", True),
        ("\\sqrt{3}/2", "\\frac{\\sqrt{3}}{2}", True),
        ("1+x^2", "x^2+1", True),
        ("(x+1)^2", "x^2+2x+1", True),
        ("x=5", "5", True),
        ("(1, 2)", "(1,2)", True),
        ("$\\{2,1\\}$", "$\\{1,2\\}$", True),
        ("2^{10}", "1024", True),
        ("$60^\\circ$", "60", True),
        ("2<x", "x>2", True),
        ("x^2-1", "x^2+1", False),
        ("\\frac{1}{3}", "1/2", False),
        ("\\sqrt{2}", "2", False),
        ("(2, 1)", "(1,2)", False),
        ("$1$, $2$", "2", False),
        ("$1$ or $2$", "2", False),
        ("\\boxed{4}\\boxed{5}", "5", False),
        ("x", "y^2", False),
    ],
)
def test_expressions_are_compared_as_mathematics(answer, gold, is_right):
    assert compare_expressions(answer, gold) == float(is_right)
    assert compare_free_text(answer, gold) == float(is_right)


@pytest.mark.parametrize(
    "answer",
    [
        "9^9^9^9",
        "9^{9^{9^{9}}}",
        "(9)^{(9)^{9}}",
        "10**10**10",
        "10^{1000000000}",
        "100000!",
        "1" * 100_000,
        "(" * 100,
        "{" * 50 + "}" * 50,
        "\\frac{" * 30,
        "\\sqrt{" * 8 + "2" + "}" * 8,
        "\\int" * 20,
        "__import__('os').system('false')",
        "\x00",
        "\ud800",
        "\n".join("12"),
    ],
)
def test_hostile_expressions_are_wrong_in_seconds(answer):
    start = time.perf_counter()
    assert compare_expressions(answer, "x^2+1") == 0.0
    assert time.perf_counter() - start < 20.0


def test_it_works_from_threads():
    verdicts = {}

    def compare(number):
        verdicts[number] = is_equal("x^2+4", f"x^2+{number}")

    threads = [threading.Thread(target=compare, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == {number: number == 4 for number in range(8)}


def test_a_process_that_does_not_answer_is_replaced(monkeypatch):
    assert is_equal("y+1", "1+y")
    with monkeypatch.context() as impatient:
        impatient.setattr(math_equality, "_SECONDS_TO_KILL", 0)
        assert not is_equal("y+2", "2+y")
    assert is_equal("y+3", "3+y")


def test_a_process_that_has_died_is_replaced():
    assert is_equal("z+1", "1+z")
    process = math_equality._get_worker()._process
    process.kill()
    process.wait()
    assert not is_equal("z+2", "2+z")
    assert is_equal("z+3", "3+z")


def test_the_reward_compares_expressions():
    (reward,) = build_reward_funcs(["accuracy"], task_type="math")
    completions = [[{"role": "assistant", "content": wrap_answer(text)}] for text in ("\\frac{6}{4}", "1.6", "x")]
    assert reward([None] * 3, completions, solution=[wrap_answer("$\\frac{3}{2}$")] * 3) == [1.0, 0.0, 0.0]
