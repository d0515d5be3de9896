"""Reward models: what they see and give, and what is refused; tiny ones of two families, with random weights."""

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForSequenceClassification,
)

from open_r1.rewards import build_reward_funcs
from open_r1.tiny import build_processor
from open_r1.trainer.reward_models import build_reward_model


SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
PROMPT = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Rate it."}]}]
ANSWERS = ["good", "a much longer answer, which is bad and worse", "<answer>3</answer>"]


def save_chat_model(folder, num_labels=1):
    """A Qwen2 with a chat template; no padding token is set in its configuration."""
    torch.manual_seed(0)
    tokenizer = build_processor().tokenizer
    config = Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=2, num_labels=num_labels, **SIZES)
    Qwen2ForSequenceClassification(config).save_pretrained(folder)
    build_processor().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_plain_model(folder):
    """A BERT of 32 positions without a chat template."""
    torch.manual_seed(0)
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *["Rate", "it", ".", "good", "a", "much", "longer", "answer", ",", "which", "is", "bad", "and", "worse"],
    ]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(folder)
    config = BertConfig(vocab_size=len(words), max_position_embeddings=32, num_labels=1, pad_token_id=0, **SIZES)
    BertForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


def as_completions(*texts):
    return [[{"role": "assistant", "content": text}] for text in texts]


def score_alone(folder, text, **options):
    """What the model gives for one text, by hand."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt", **options)).logits[0, 0].item()


def test_a_model_with_a_chat_template_scores_the_conversation(tmp_path):
    folder = save_chat_model(tmp_path / "judge-of-taste")
    reward = build_reward_model(folder)
    rewards = reward([PROMPT] * 3, as_completions(*ANSWERS))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = []
    for answer in ANSWERS:
        messages = [{"role": "user", "content": "Rate it."}, {"role": "assistant", "content": answer}]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        assert "Rate it." in text and answer in text
        expected.append(score_alone(folder, text, add_special_tokens=False))
    assert rewards == pytest.approx(expected, abs=1e-5)  # padding changes nothing
    assert len(set(rewards)) == 3
    assert reward.__name__ == "judge-of-taste"


def test_a_model_without_one_scores_prompt_and_completion_in_a_row(tmp_path):
    folder = save_plain_model(tmp_path / "plain")
    logged = {}
    rewards = build_reward_model(folder)(
        [PROMPT] * 3, as_completions(*ANSWERS[:2], "good " * 100), log_metric=logged.__setitem__
    )
    expected = [score_alone(folder, f"Rate it.\n{answer}") for answer in ANSWERS[:2]]
    expected.append(score_alone(folder, "good " * 30))  # cut at its beginning, to what the model can take
    assert rewards == pytest.approx(expected, abs=1e-5)
    assert logged == {"rewards/plain/truncated": pytest.approx(1 / 3)}


def test_scoring_leaves_no_gradient_and_no_trace_in_the_random_streams(tmp_path):
    folder = save_plain_model(tmp_path / "plain")
    state = torch.random.get_rng_state()
    build_reward_model(folder)([PROMPT], as_completions("good"))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_model_of_several_labels_or_none_is_refused(tmp_path, tiny_checkpoint):
    with pytest.raises(ValueError, match="has 3 labels: a reward model has one"):
        build_reward_model(save_chat_model(tmp_path / "sentiment", num_labels=3))
    with pytest.raises(ValueError, match="is Qwen2_5_VLForConditionalGeneration: name a sequence classifier"):
        build_reward_model(tiny_checkpoint)


def test_code_of_a_model_runs_only_on_request(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "strange"
    folder.mkdir()
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForSequenceClassification": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": names}))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'it_ran')!r}, 'w')\n")
    with pytest.raises(ValueError, match="trust_remote_code"):
        build_reward_model(str(folder))
    assert not (tmp_path / "it_ran").exists()


def test_names_of_models_are_told_from_names_of_rewards(tmp_path):
    asked = []

    def build_model(name):
        asked.append(name)
        return lambda **columns: []

    folder = tmp_path / "mine"
    folder.mkdir()
    for name in (str(folder), "Skywork/Reward-V2", "format"):
        build_reward_funcs([name], build_model=build_model)
    assert asked == [str(folder), "Skywork/Reward-V2"]
    with pytest.raises(ValueError, match="unknown reward 'acuracy'"):
        build_reward_funcs(["acuracy"], build_model=build_model)
