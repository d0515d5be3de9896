"""Explanation metrics that need Java (METEOR, the Penn Treebank tokenizer) or a model (BERTScore)."""

import shutil

import pytest
import torch

from open_r1.tiny import build_tokenizer
from open_r1.utils.bertscore import BertScorer
from open_r1.utils.nle_metrics import NleScorer, NleSettings
from open_r1.utils.text_tokens import tokenize_ptb


PREDICTIONS = ["người đàn ông đang lướt sóng", "a dog runs on the grass", ""]
REFERENCES = [["người đàn ông đang lướt sóng"], ["the dog is running on grass", "a cat"], ["it rains"]]

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="no Java")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """Folder of an untrained BERT of three layers, whose tokenizer puts special tokens around a text."""
    import transformers
    from tokenizers.processors import TemplateProcessing

    tokenizer = build_tokenizer()
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<|im_start|>", "<|im_end|>")]
    tokenizer.post_processor = TemplateProcessing(single="<|im_start|> $A <|im_end|>", special_tokens=ids)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token="<|im_start|>",
        sep_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=64,
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=len(fast), initializer_range=0.5, **sizes)
    folder = tmp_path_factory.mktemp("bert")
    transformers.BertModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return str(folder)


def compute_slowly(model, tokenizer, prediction, reference, layer):
    """F1 by the paper's equations, token by token; special tokens may be met but do not count."""
    vectors = []
    for text in (prediction, reference):
        inputs = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            states = model(input_ids=inputs["input_ids"], output_hidden_states=True).hidden_states[layer][0]
        vectors.append([state / state.norm() for state in states])
    best = [
        sum(max(float(own @ other) for other in right) for own in left[1:-1]) / len(left[1:-1])
        for left, right in (vectors, vectors[::-1])
    ]
    return 2 * best[0] * best[1] / sum(best)


@pytest.mark.parametrize("layer", [0, 2])
def test_bertscore_is_that_of_the_paper(bert, layer):
    scorer = BertScorer(bert, layer, "cpu")
    prediction, (first, second) = PREDICTIONS[1], REFERENCES[1]
    expected = [compute_slowly(scorer.model, scorer.tokenizer, prediction, text, layer) for text in (first, second)]
    scores = scorer.score([prediction] * 3, [[first], [second], [second, first]])
    assert scores == pytest.approx([*expected, max(expected)], abs=1e-5)
    assert expected[0] != pytest.approx(expected[1], abs=1e-3)


def test_bertscore_is_one_for_a_copy_and_zero_for_nothing(bert):
    assert BertScorer(bert, device="cpu").score(PREDICTIONS, REFERENCES)[::2] == pytest.approx([1.0, 0.0])
    assert BertScorer(bert, device="cpu").score(["x " * 5000], [["x " * 5000]]) == pytest.approx([1.0])


def test_bertscore_is_among_the_metrics_where_a_model_is_named(bert):
    settings = NleSettings(metrics=("bertscore",), bertscore_model=bert, bertscore_layer=2, device="cpu")
    values, reasons = NleScorer(PREDICTIONS, REFERENCES, settings).score([0, 2])
    assert values == pytest.approx({"bertscore": 0.5})
    assert reasons == {}


def test_a_model_that_is_not_there_is_a_reason_and_no_zero():
    settings = NleSettings(metrics=("bertscore", "cider"), bertscore_model="no/such-folder/model", device="cpu")
    values, reasons = NleScorer(PREDICTIONS, REFERENCES, settings).score(range(3))
    assert "no/such-folder/model" in reasons["bertscore"]
    assert list(values) == ["cider"]


@needs_java
def test_meteor_knows_a_copy_in_vietnamese_whatever_the_locale(monkeypatch):
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setenv("LC_ALL", "C")
    other_letters = "ngưới đạn ong đáng lượt song"  # the same, if letters outside ASCII were read as question marks
    references = [REFERENCES[0], REFERENCES[0]]
    scorer = NleScorer([PREDICTIONS[0], other_letters], references, NleSettings(metrics=("meteor",)))
    (copy,), (other,) = (scorer.score([i])[0].values() for i in (0, 1))
    assert copy > 0.95
    assert other < 0.5


@needs_java
def test_spice_without_its_models_says_what_is_missing():
    pytest.importorskip("pycocoevalcap")
    values, reasons = NleScorer(PREDICTIONS, REFERENCES, NleSettings(metrics=("spice",))).score([0])
    assert "spice" in values or "SPICE needs stanford-corenlp-3.6.0.jar" in reasons["spice"]


@needs_java
def test_english_is_split_as_the_caption_evaluation_splits_it():
    pytest.importorskip("pycocoevalcap")
    texts = ["The dog isn't here, (or there).", "", " Two-year-old cats!"]
    assert tokenize_ptb(texts) == [["the", "dog", "is", "n't", "here", "or", "there"], [], ["two-year-old", "cats"]]
