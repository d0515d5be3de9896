"""Explanation metrics: equal to pycocoevalcap's, in three versions, and missing ones are named with their reason."""

import doctest

import pytest

from open_r1.utils import bertscore, nle_metrics
from open_r1.utils.nle_eval import NleRow, evaluate_nle, parse_nle_rows
from open_r1.utils.nle_metrics import NleScorer, NleSettings


PURE_PYTHON = ("bleu", "rouge_l", "cider")
PREDICTIONS = ["vì người đàn ông đang lướt sóng", "có chó trên cỏ", "trời mưa to", "hai quả táo trong bát"]
REFERENCES = [
    ["người đàn ông đang lướt trên sóng biển", "có ván lướt dưới chân"],
    ["con chó đang chạy trên cỏ"],
    ["trời đang mưa rất to"],
    ["vì có hai quả táo đỏ trong bát"],
]
RESULTS = [
    {"image_name": "a.jpg", "question": "Ông làm gì?", "answer": "lướt sóng", "predict": "Lướt sóng."},
    {"image_name": "b.jpg", "question": "Con gì?", "answer": "chó", "predict": "chó"},
    {"image_name": "c.jpg", "question": "Trời thế nào?", "answer": "mưa", "predict": "nắng"},
    {"image_name": "d.jpg", "question": "Có mấy quả?", "answer": "hai", "predict": ""},
]
for result, prediction in zip(RESULTS, PREDICTIONS, strict=True):
    result["pred_explanation"] = prediction
LABELS = [
    {**{key: result[key] for key in ("image_name", "question", "answer")}, "explanation": own, "answer_type": kind}
    for result, own, kind in zip(RESULTS, REFERENCES, ("other", "other", "other", "number"), strict=True)
]


def evaluate(results=RESULTS, labels=LABELS, **settings):
    rows, _ = parse_nle_rows(results, labels)
    return evaluate_nle(rows, NleSettings(**{"metrics": PURE_PYTHON, **settings}))


def words(text):
    return text.removeprefix("vì ")


def test_metrics_are_those_of_pycocoevalcap():
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu")
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    gold = {i: [words(text) for text in own] for i, own in enumerate(REFERENCES)}
    found = {i: [words(text)] for i, text in enumerate(PREDICTIONS)}
    expected = {f"bleu_{n}": score for n, score in enumerate(bleu.Bleu(4).compute_score(gold, found, verbose=0)[0], 1)}
    expected |= {"rouge_l": Rouge().compute_score(gold, found)[0], "cider": Cider().compute_score(gold, found)[0]}
    values, reasons = NleScorer(PREDICTIONS, REFERENCES, NleSettings(metrics=PURE_PYTHON)).score(range(4))
    assert reasons == {}
    assert values == pytest.approx(expected, abs=1e-9)
    assert all(value > 0.05 for value in values.values())


def test_filtered_is_over_right_answers_and_scaled_is_times_accuracy():
    metrics = evaluate().metrics
    assert metrics["accuracy"] == 0.5
    assert metrics["scaled/rouge_l"] == pytest.approx(0.5 * metrics["unfiltered/rouge_l"])
    right = NleScorer(PREDICTIONS[:2], REFERENCES[:2], NleSettings(metrics=PURE_PYTHON)).score(range(2))[0]
    assert {name: metrics[f"filtered/{name}"] for name in right} == pytest.approx(right)
    assert metrics["filtered/rouge_l"] != pytest.approx(metrics["unfiltered/rouge_l"])
    assert (metrics["other/accuracy"], metrics["number/accuracy"]) == (2 / 3, 0.0)


def test_the_tokenizer_is_in_every_report():
    assert evaluate().notes[0] == "tokenizer: syllable (figures of another are not comparable)"


def test_an_opening_word_counts_on_neither_side_unless_asked_for():
    results = [{**result, "pred_explanation": f"Vì {words(result['pred_explanation'])}"} for result in RESULTS]
    assert evaluate(results).metrics == pytest.approx(evaluate().metrics)
    kept = evaluate(results, strip_opening=False)
    assert kept.metrics["unfiltered/bleu_1"] < evaluate().metrics["unfiltered/bleu_1"]
    assert any('"because" is kept' in note for note in kept.notes)


def test_a_metric_that_cannot_be_computed_is_named_with_its_reason(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    report = evaluate(metrics=("rouge_l", "meteor", "spice", "bertscore"))
    assert not any("meteor" in name or "spice" in name or "bertscore" in name for name in report.metrics)
    assert "no meteor: METEOR runs in Java, and there is no `java` here" in report.notes
    assert "no spice: SPICE runs in Java, and there is no `java` here" in report.notes
    assert "no bertscore: BERTScore needs a model: name a folder with --bertscore_model" in report.notes
    assert "unfiltered/rouge_l" in report.metrics


def test_a_tokenizer_that_cannot_run_is_an_error_and_not_another_tokenizer(monkeypatch, tmp_path):
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="java"):
        evaluate(tokenizer="ptb")


def test_cider_of_a_single_row_has_no_value_and_says_so():
    report = evaluate(RESULTS[:1], LABELS[:1])
    assert "unfiltered/cider" not in report.metrics
    assert any(note.startswith("no cider: document frequencies of 1 items") for note in report.notes)


def test_without_a_right_answer_there_is_nothing_filtered():
    report = evaluate(RESULTS[2:], LABELS[2:])
    assert not any(name.startswith("filtered/") for name in report.metrics)
    assert "no answer is right: nothing is left of the filtered metrics" in report.notes


def test_rows_without_an_explanation_or_a_reference_are_counted():
    results = [dict(result) for result in RESULTS]
    results[0]["pred_explanation"] = ""
    labels = [dict(label) for label in LABELS]
    labels[1]["explanation"] = []
    counts = evaluate(results, labels).counts
    assert counts == {"rows": 4, "correct": 2, "with_references": 3, "without_explanation": 1}


@pytest.mark.parametrize(
    "predicted, answer, language, is_right",
    [
        ("Hoà bình!", "hòa  bình", "vi", True),
        ("an toàn", "toàn", "vi", False),  # "an" is a Vietnamese word
        ("a dog", "dog", "en", True),
        ("a dog", "dog", "vi", False),
        ("", "", "vi", False),
        ("?", "!", "vi", False),
        ("không phải", "không", "vi", False),
    ],
)
def test_an_answer_is_right_when_its_words_are_those_of_the_gold_one(predicted, answer, language, is_right):
    row = NleRow(id="1", question="?", answer=answer, predicted=predicted, explanations=[], pred_explanation="")
    assert row.is_right(language) is is_right


def test_answers_share_words_in_f1():
    results = [{**RESULTS[0], "predict": "người lướt sóng"}, RESULTS[1]]
    assert evaluate(results, LABELS[:2]).metrics["answer_f1"] == pytest.approx((2 * 2 / 5 + 1) / 2)


def test_references_may_stand_in_the_results_themselves():
    results = [{**result, "explanation": own} for result, own in zip(RESULTS, REFERENCES, strict=True)]
    rows, num_missing = parse_nle_rows(results)
    assert [row.explanations for row in rows] == REFERENCES
    assert num_missing == 0


def test_labels_are_found_by_picture_and_question():
    labels = [{**label, "image_name": f"val2014/{label['image_name']}"} for label in LABELS[::-1]]
    rows, num_missing = parse_nle_rows(RESULTS[:3], labels)
    assert [row.explanations for row in rows] == REFERENCES[:3]
    assert num_missing == 1


@pytest.mark.parametrize(
    "change, message",
    [
        ({"predict": ...}, "row 1 of the predictions lacks predict"),
        ({"question": "Ai?"}, "row 1 of the predictions has no label: a.jpg / ai"),
    ],
)
def test_rows_that_cannot_be_used_are_refused(change, message):
    record = {key: value for key, value in {**RESULTS[0], **change}.items() if value is not ...}
    with pytest.raises(ValueError, match=message):
        parse_nle_rows([record], LABELS)


@pytest.mark.parametrize("settings", [{"tokenizer": "words"}, {"metrics": ("bleurt",)}])
def test_unknown_tokenizers_and_metrics_are_refused_with_the_known_ones(settings):
    with pytest.raises(ValueError, match="known: (syllable, ptb|bleu, rouge_l, cider, meteor, spice, bertscore)"):
        NleSettings(**settings)


def test_the_environment_is_as_before_java(monkeypatch):
    monkeypatch.delenv("JAVA_TOOL_OPTIONS", raising=False)
    with nle_metrics._utf8_java():
        assert "UTF-8" in nle_metrics.os.environ["JAVA_TOOL_OPTIONS"]
    assert "JAVA_TOOL_OPTIONS" not in nle_metrics.os.environ


def test_a_layer_that_the_model_does_not_have_is_refused():
    assert bertscore.choose_layer("models/phobert-base", 12) == 12
    assert bertscore.choose_layer("phobert-base", 12, 7) == 7
    with pytest.raises(ValueError, match="--bertscore_layer 13: phobert-base has layers 0 to 12"):
        bertscore.choose_layer("phobert-base", 12, 13)
    assert doctest.testmod(bertscore).failed == 0
