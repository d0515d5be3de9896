"""Options of the judge, a part of `RewardArguments`. What they do: docs/judge.md."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from open_r1.utils.judge_client import JudgeSettings


def _doc(text: str, default=None, **kwargs):
    """`aliases`: as the parents spell the option."""
    return field(default=default, metadata={"help": text, **kwargs})


@dataclass
class JudgeArguments:
    """Which language model judges answers, for `llm_judge` and for whatever else asks one."""

    judge_base_url: str | None = _doc(
        "OpenAI-compatible server of the judge, such as http://localhost:11434/v1. Default: the environment variable "
        "OPENAI_API_BASE.",
        aliases=["--llm_judge_base_url"],
    )
    judge_model: str | None = _doc("Name of the judge's model on that server.", aliases=["--llm_judge_model"])
    use_llm_judge: bool = _doc("Let the judge grade answers that the rules of `vqa_accuracy` leave open.", False)
    judge_api_key_env: str = _doc(
        "Environment variable that holds the server's key, if it wants one.", "OPENAI_API_KEY"
    )
    judge_timeout: float = _doc("Seconds until an attempt to ask the judge is given up.", 30.0)
    judge_retries: int = _doc("Further attempts after one that failed, with growing pauses.", 2)
    judge_concurrency: int = _doc("Questions that a process asks at the same time.", 16)
    judge_max_tokens: int = _doc("Longest reply of the judge, its thinking included.", 512)
    judge_cache_dir: str | None = _doc(
        "Folder that keeps verdicts, for all processes and runs. Default: memory alone."
    )

    def build_judge(self, environment: Mapping[str, str]) -> "JudgeSettings | None":
        """The judge that the options and the environment name; None where they name no model.

        The key goes into no other record, so that it is not written down with the options of a run.

        Args:
            environment: `os.environ`.

        Raises:
            ValueError: a model without a server or the other way round, or a value that is out of range.
        """
        from open_r1.utils.judge_client import JudgeSettings

        base_url = self.judge_base_url or environment.get("OPENAI_API_BASE")
        if self.judge_model is None:
            if self.use_llm_judge:
                raise ValueError("--use_llm_judge: name the judge with --judge_model and --judge_base_url.")
            if self.judge_base_url is not None:
                raise ValueError(f"--judge_base_url {base_url}: name the model to ask there, with --judge_model.")
            return None
        if not base_url:
            raise ValueError(
                f"--judge_model {self.judge_model}: name its server with --judge_base_url (Ollama: "
                "http://localhost:11434/v1) or in the environment variable OPENAI_API_BASE."
            )
        return JudgeSettings(
            base_url=base_url,
            model=self.judge_model,
            api_key=environment.get(self.judge_api_key_env) or "none",
            timeout_s=self.judge_timeout,
            retries=self.judge_retries,
            concurrency=self.judge_concurrency,
            max_tokens=self.judge_max_tokens,
            cache_dir=self.judge_cache_dir,
        )
