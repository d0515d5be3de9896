"""Folders of runs as training leaves them, with text that no page should take for markup."""

import json
from pathlib import Path


EVIL = "<think></script><script>alert(1)</script></think><answer>3</answer>\u2028<!--"


def build_record(step: int, texts: list[str], image: str = "a.png", **row) -> dict:
    size = len(texts)
    return {
        "step": step,
        "row": {"id": str(step), "dataset_name": "KADID-10K", "image_path": [image], "mos": 3.0, **row},
        "completions": texts,
        "rewards": {
            "fidelity_reward": [g / size for g in range(size)],
            "format_reward": [1.0, None][:size] * (size // 2),
        },
        "advantages": [float(g) for g in range(size)],
        "finish_reasons": ["stop"] * size,
    }


def write_run(
    folder: Path, records: list[dict], metrics: list[dict] | None = None, weights: list[float] | None = None
) -> Path:
    (folder / "rollouts").mkdir(parents=True)
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    (folder / "rollouts" / "rank0.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    metrics = metrics or [{"step": step, "reward": step / 10, "loss": 0.1} for step in range(1, 6)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    config = {"training": {"reward_weights": weights, "learning_rate": 1e-6}, "model": {"model_name_or_path": "m"}}
    (folder / "run.json").write_text(json.dumps({"time": "now", "command": ["grpo_jsonl.py"], "config": config}))
    return folder
