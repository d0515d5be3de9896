"""What a table of completions holds, whatever the completions hold."""

import pytest
from builders import make_image

from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.trainer.rollout_log import GroupRecord
from open_r1.utils.trackers import CompletionTableCallback, list_rows, load_thumbnail


def make_record(name: str, image_path: list[str]) -> GroupRecord:
    return GroupRecord(
        step=3,
        row={"image_path": image_path, "problem": "How good?"},
        completions=[f"<think>{name}</think>\n| 1", f"{name} 2"],
        rewards={"fidelity_reward": [0.5, None]},
        advantages=[0.7, -0.7],
        finish_reasons=["stop", "length"],
    )


class Writer:
    """Keeps what TensorBoard's writer would write."""

    def __init__(self):
        self.texts, self.images = [], []

    def add_text(self, tag, text, step):
        self.texts.append((tag, text, step))

    def add_image(self, tag, image, step, dataformats):
        self.images.append((tag, image.shape, step))

    def flush(self):
        pass


def log(records, tmp_path, logs):
    writer = Writer()
    holder = type("Holder", (), {"tb_writer": writer})
    callback = CompletionTableCallback(3, lambda: [object(), holder()])
    callback.take(records)
    args = GRPOConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    state = type("State", (), {"is_world_process_zero": True, "global_step": 4})
    for _ in range(2):  # the second line has no round of its own
        callback.on_log(args, state, None, logs)
    return writer


def test_rows_are_whole_groups_up_to_the_limit():
    rows = list_rows([make_record("a", []), make_record("b", [])], limit=3)
    assert [(group, row["completion"]) for group, row in rows] == [
        (0, "<think>a</think>\n| 1"), (0, "a 2"), (1, "<think>b</think>\n| 1")
    ]  # fmt: skip
    assert rows[1][1]["fidelity_reward"] is None and rows[1][1]["advantage"] == -0.7


def test_tags_and_lines_of_completions_stay_in_their_cell(tmp_path):
    make_image(600, 300).save(tmp_path / "a.png")
    writer = log([make_record("a", [str(tmp_path / "a.png")])], tmp_path, {"loss": 0.1})
    ((tag, text, step),) = writer.texts
    assert (tag, step) == ("completions", 4)
    assert "&lt;think&gt;a&lt;/think&gt;<br>\\| 1" in text
    assert len(text.strip().splitlines()) == 4
    assert writer.images == [("completions/group_0", (128, 256, 3), 4)]


def test_evaluation_lines_and_rows_without_a_picture_send_no_more_than_there_is(tmp_path):
    record = make_record("a", [str(tmp_path / "gone.png")])
    assert log([record], tmp_path, {"eval_reward": 0.1}).texts == []
    writer = log([record], tmp_path, {"loss": 0.1})
    assert len(writer.texts) == 1 and writer.images == []
    assert load_thumbnail({"image_path": []}) is None


@pytest.mark.parametrize(("settings", "problem"), [({"log_completions": True}, "needs a tracker"),
                                                   ({"num_logged_completions": 0}, "at least 1")])  # fmt: skip
def test_settings_that_would_show_nothing_are_refused(tmp_path, settings, problem):
    with pytest.raises(ValueError, match=problem):
        GRPOConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, **settings)
