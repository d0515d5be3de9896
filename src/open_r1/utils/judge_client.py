"""Asks a language model behind an OpenAI-compatible server whether answers are right.

    settings = JudgeSettings(base_url="http://localhost:11434/v1", model="qwen2.5:7b")
    verdicts = get_judge(settings).ask([JudgeQuestion(question="What animal?", reference="a cat", answer="a kitten")])

Any number of questions is on its way at once, up to a bound. Nothing that the server does raises: a question that it
fails to answer has the verdict None, and counts. How to run a judge: docs/judge.md.
"""

import asyncio
import functools
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from open_r1.utils import background_loop
from open_r1.utils.extras import require
from open_r1.utils.judge_cache import JudgeCache, compute_key
from open_r1.utils.judge_protocol import (
    JudgeQuestion,
    build_messages,
    build_response_format,
    parse_verdict,
    read_body,
)


if TYPE_CHECKING:
    from openai import AsyncOpenAI

logger = logging.getLogger(__name__)

OUTCOMES = ("answered", "cached", "failed", "unreadable")
_SEED = 0
_BACK_OFF_S = 10  # at most, before each further attempt


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """Which judge, and how patiently it is asked."""

    base_url: str
    model: str
    api_key: str = field(default="none", repr=False)  # servers of one's own want none
    timeout_s: float = 30.0
    """Of one attempt."""
    retries: int = 2
    concurrency: int = 16
    """Questions on their way at the same time, of this process."""
    max_tokens: int = 512
    cache_dir: str | None = None

    def __post_init__(self):
        for name, least in (("timeout_s", 0), ("retries", -1), ("concurrency", 0), ("max_tokens", 0)):
            if not getattr(self, name) > least:
                option = name.removesuffix("_s")
                raise ValueError(f"--judge_{option} {getattr(self, name)}: must be more than {least}.")

    @property
    def longest_wait_s(self) -> float:
        """For one question, all attempts together."""
        return self.timeout_s * (self.retries + 1) + _BACK_OFF_S * self.retries


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of one question. Example: `Verdict(score=0.5, outcome="answered")`."""

    score: float | None  # 0 to 1; None: there is no verdict
    outcome: str  # one of OUTCOMES


def count_outcomes(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """How many questions were answered, known already, not answered, and answered with something unreadable."""
    return {outcome: sum(verdict.outcome == outcome for verdict in verdicts) for outcome in OUTCOMES}


def log_outcomes(verdicts: Sequence[Verdict], log_metric: Callable[[str, float], None]) -> None:
    """The counts as metrics, `judge/answered` and so on."""
    for outcome, count in count_outcomes(verdicts).items():
        log_metric(f"judge/{outcome}", float(count))


@functools.cache
def get_judge(settings: JudgeSettings) -> "JudgeClient":
    """The judge of these settings, one per process."""
    return JudgeClient(settings)


class JudgeClient:
    """Asks one judge. Its connections and its semaphore belong to the process's event loop."""

    def __init__(self, settings: JudgeSettings):
        self.settings = settings
        self._cache = JudgeCache(settings.cache_dir)
        self._semaphore = asyncio.Semaphore(settings.concurrency)
        self._client: AsyncOpenAI | None = None
        self._num_failures_in_row = 0

    def ask(self, questions: Sequence[JudgeQuestion]) -> list[Verdict]:
        """One verdict for each question, in order. For code that is no coroutine."""
        return background_loop.wait(self._ask(questions))

    async def ask_async(self, questions: Sequence[JudgeQuestion]) -> list[Verdict]:
        """The same for a coroutine, whatever loop it runs in."""
        return await asyncio.wrap_future(background_loop.start(self._ask(questions)))

    async def _ask(self, questions: Sequence[JudgeQuestion]) -> list[Verdict]:
        """Asks equal questions once.

        Where as many in a row as may be on their way have failed, the rest of the call is not asked: the server is
        down, and waiting for each would take hours.
        """
        openai = require("openai", "judge")
        self._num_failures_in_row = 0
        if self._client is None:
            self._client = openai.AsyncOpenAI(
                base_url=self.settings.base_url,
                api_key=self.settings.api_key,
                timeout=self.settings.timeout_s,
                max_retries=self.settings.retries,
            )
        requests = [self._build_request(question) for question in questions]
        keys = [compute_key(request) for request in requests]
        unique = dict(zip(keys, requests))
        asked = await asyncio.gather(*(self._find_verdict(openai, key, unique[key]) for key in unique))
        first = dict(zip(unique, asked))
        failures = Counter(error for _, error in asked if error)
        if failures:
            error, _ = failures.most_common(1)[0]
            logger.warning("the judge %s did not answer %d questions: %s", self._name, failures.total(), error)
        verdicts, seen = [], set()
        for key in keys:
            verdict = first[key][0]
            is_repeat = key in seen and verdict.outcome == "answered"
            verdicts.append(Verdict(score=verdict.score, outcome="cached") if is_repeat else verdict)
            seen.add(key)
        return verdicts

    @property
    def _name(self) -> str:
        return f"{self.settings.model} at {self.settings.base_url}"

    def _build_request(self, question: JudgeQuestion) -> dict[str, Any]:
        """Everything that a verdict depends on, as the server is sent it."""
        return {
            "model": self.settings.model,
            "messages": build_messages(question),
            "temperature": 0,
            "seed": _SEED,
            "max_tokens": self.settings.max_tokens,
            "response_format": build_response_format(question.form),
        }

    async def _find_verdict(self, openai: Any, key: str, request: dict[str, Any]) -> tuple[Verdict, str | None]:
        """A verdict, and what went wrong where the server gave none."""
        score = self._cache.get(key)
        if score is not None:
            return Verdict(score=score, outcome="cached"), None
        async with self._semaphore:
            if self._num_failures_in_row >= self.settings.concurrency:
                return Verdict(score=None, outcome="failed"), "not asked after so many failures"
            try:
                async with asyncio.timeout(self.settings.longest_wait_s):
                    reply = await self._send(request)
            except (openai.OpenAIError, TimeoutError) as error:
                self._num_failures_in_row += 1
                return Verdict(score=None, outcome="failed"), f"{type(error).__name__}: {error}"[:300]
            self._num_failures_in_row = 0
        score = parse_verdict(reply)
        if score is None:
            return Verdict(score=None, outcome="unreadable"), None
        self._cache.put(key, reply)
        return Verdict(score=score, outcome="answered"), None

    async def _send(self, request: dict[str, Any]) -> str:
        """The text of the reply; the client itself tries again, with pauses that grow."""
        raw = await self._client.chat.completions.with_raw_response.create(**request)
        return read_body(raw.http_response.text)
