"""Settings: what is accepted works, the rest is refused with a remedy."""

import pytest

from open_r1.configs import GRPOModelConfig, GRPOScriptArguments
from open_r1.grpo_jsonl import build_rewards
from open_r1.trainer.advantages import AdvantageSettings
from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.trainer.loss_settings import LossSettings


def build(tmp_path, **kwargs) -> GRPOConfig:
    return GRPOConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, **kwargs)


def test_the_batch_counts_completions_and_holds_whole_groups(tmp_path):
    assert build(tmp_path, per_device_train_batch_size=48, num_generations=6).groups_per_step == 8
    with pytest.raises(ValueError, match="take 42 or 48"):
        build(tmp_path, per_device_train_batch_size=45, num_generations=6)
    with pytest.raises(ValueError, match="take 8 or 8"):
        build(tmp_path, per_device_train_batch_size=4, num_generations=8)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, False),  # one optimizer step per round
        ({"gradient_accumulation_steps": 4}, False),
        ({"gradient_accumulation_steps": 4, "steps_per_generation": 2}, False),  # two rounds per optimizer step
        ({"steps_per_generation": 2}, True),  # two optimizer steps per round
        ({"num_iterations": 2}, True),
    ],
)
def test_old_log_probabilities_are_kept_only_where_a_round_outlives_an_optimizer_step(tmp_path, settings, expected):
    assert build(tmp_path, **settings).is_off_policy == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_generations": 1, "per_device_train_batch_size": 1}, "at least 2"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"beta": -0.1}, "beta must not be negative"),
        ({"num_iterations": 0}, "num_iterations must be at least 1"),
        ({"remove_unused_columns": True}, "remove_unused_columns must stay false"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor 0.1 is refused"),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"},
            "evaluation has no loss",
        ),
        ({"top_p": 0.0}, "top_p must be in"),
        ({"top_k": -1}, "top_k must not be negative"),
        ({"temperature": float("nan")}, "temperature must be positive"),
        ({"epsilon": -1.0}, "epsilon must not be negative"),
        ({"max_prompt_length": 0}, "max_prompt_length must be at least 1"),
        ({"prediction_loss_only": True}, "prediction_loss_only True is refused"),
        ({"dataloader_drop_last": True}, "filled up from its beginning"),
        ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha 5.0 is refused"),
        ({"train_sampling_strategy": "group_by_length"}, "take random or sequential"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size True is refused"),
    ],
)
def test_what_would_be_ignored_or_cannot_work_is_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, **settings)


def test_the_upper_clip_bound_follows_the_lower_one_unless_given(tmp_path):
    assert build(tmp_path, epsilon=0.1).epsilon_high == 0.1
    assert build(tmp_path, epsilon=0.2, epsilon_high=0.28).epsilon_high == 0.28


def test_cispo_caps_the_ratio_where_its_authors_do(tmp_path):
    assert build(tmp_path, loss_type="cispo").epsilon_high == 5.0
    assert build(tmp_path, loss_type="cispo", epsilon_high=3.0).build_loss_settings().epsilon_high == 3.0


def test_the_loss_gets_the_settings_that_were_given(tmp_path):
    given = {
        "loss_type": "dapo",
        "importance_sampling_level": "sequence",
        "epsilon_high": 0.28,
        "delta": 2.0,
        "beta": 0.01,
        "kl_estimator": "k2",
        "use_bias_correction_kl": True,
        "top_entropy_quantile": 0.2,
        "entropy_coef": 0.001,
    }
    assert build(tmp_path, epsilon=0.1, **given).build_loss_settings() == LossSettings(epsilon_low=0.1, **given)
    faded = {"loss_type": "sapo", "sapo_temperature_pos": 2.0, "sapo_temperature_neg": 3.0, "beta": 0.04}
    assert build(tmp_path, **faded).build_loss_settings() == LossSettings(**faded)
    assert build(tmp_path).build_loss_settings() == LossSettings(beta=0.04)


@pytest.mark.parametrize(
    ("given", "scale_rewards"),
    [
        ({}, "group"),
        ({"scale_rewards": "batch"}, "batch"),
        ({"advantage_estimator": "rloo"}, "none"),
        ({"advantage_estimator": "reinforce_plus_plus"}, "batch"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "group"),
    ],
)
def test_advantages_are_scaled_as_their_estimator_is_defined_unless_said_otherwise(tmp_path, given, scale_rewards):
    expected = AdvantageSettings(**{"scale_rewards": scale_rewards, **given})
    assert build(tmp_path, **given).build_advantage_settings() == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_type": "ppo"}, "loss_type must be one of"),
        ({"loss_type": "sapo", "epsilon": 0.1}, "epsilon 0.1 would be ignored"),
        ({"beta": 0.0, "kl_estimator": "k1"}, "kl_estimator k1 would be ignored"),
        ({"advantage_estimator": "gae"}, "advantage_estimator must be grpo, rloo or reinforce_plus_plus"),
        ({"advantage_estimator": "rloo", "scale_rewards": "group"}, "scale_rewards group would be ignored"),
    ],
)
def test_an_algorithm_that_contradicts_itself_is_refused_at_the_start(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, **settings)


def test_settings_that_were_written_down_can_be_read_again(tmp_path):
    for given in ({"loss_type": "cispo"}, {"advantage_estimator": "rloo"}, {"loss_type": "sapo"}):
        config = build(tmp_path, **given)
        names = ("loss_type", "epsilon", "epsilon_high", "advantage_estimator", "scale_rewards")
        again = build(tmp_path, **{name: getattr(config, name) for name in names})
        assert again.build_loss_settings() == config.build_loss_settings()
        assert again.build_advantage_settings() == config.build_advantage_settings()


def test_data_and_images_must_be_named():
    with pytest.raises(ValueError, match="data_file_paths is missing"):
        GRPOScriptArguments(image_folders=["a"])
    with pytest.raises(ValueError, match="image_folders is missing"):
        GRPOScriptArguments(data_file_paths=["a.jsonl"])
    with pytest.raises(ValueError, match="val_split_ratio"):
        GRPOScriptArguments(data_file_paths=["a.jsonl"], image_folders=["a"], val_split_ratio=1.0)


def test_an_option_of_a_reward_that_is_not_used_is_refused():
    given = {"data_file_paths": ["a.jsonl"], "image_folders": ["a"], "overlong_cache": 20}
    assert GRPOScriptArguments(reward_funcs=["format", "overlong"], **given).overlong_cache == 20
    with pytest.raises(ValueError, match="overlong_cache belongs to the reward `overlong`"):
        GRPOScriptArguments(**given)


def test_the_overlong_penalty_gets_the_limit_of_the_run(tmp_path):
    given = {"data_file_paths": ["a.jsonl"], "image_folders": ["a"], "reward_funcs": ["overlong"]}
    training_args = build(tmp_path, max_completion_length=10)
    (reward,) = build_rewards(GRPOScriptArguments(overlong_cache=5, **given), training_args)
    assert reward([], [], completion_ids=[[1] * 5, [1] * 8, [1] * 10]) == [0.0, -0.6, -1.0]
    with pytest.raises(ValueError, match=r"between 1 and max_completion_length \(10\), not 11"):
        build_rewards(GRPOScriptArguments(overlong_cache=11, **given), training_args)


def test_both_spellings_of_the_dtype_work():
    assert GRPOModelConfig(model_name_or_path="m", torch_dtype="bfloat16").dtype == "bfloat16"
    assert GRPOModelConfig(model_name_or_path="m", dtype="bfloat16").dtype == "bfloat16"


def test_quantised_weights_without_adapters_are_refused():
    with pytest.raises(ValueError, match="add --use_peft"):
        GRPOModelConfig(model_name_or_path="m", load_in_4bit=True)
