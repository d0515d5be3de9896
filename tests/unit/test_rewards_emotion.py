"""The emotion reward: one emotion, the labelled one."""

import doctest

import pytest

from open_r1.completions import wrap_answer
from open_r1.rewards import build_reward_funcs, emotion
from open_r1.rewards.emotion import emotion_reward
from open_r1.utils import emotions
from open_r1.utils.emotions import DFEW, LABELS, MAFW, RAVDESS, get_labels, read_emotion


def score(texts, solution, dataset_name="MAFW", **columns):
    return emotion_reward(
        prompts=[None] * len(texts),
        completions=[[{"role": "assistant", "content": text}] for text in texts],
        solution=[wrap_answer(solution)] * len(texts),
        dataset_name=[dataset_name] * len(texts),
        **columns,
    )


def answer(text):
    return "<think>his brows\nare drawn</think>\n" + wrap_answer(text)


RIGHT = ["anger", "Angry", " ANGRY. ", "angrily", "furious", "angry, furious", "The man feels angry.", "**anger**"]
RIGHT += ["His most obvious emotion is anger", "\nangry\n"]
WRONG = [
    *(
        "sad",
        "angry and sad",
        "angry or surprised",
        "angry, happy, sad, neutral, fear",
        "not angry",
        "angry?! no: happy",
    ),
    *("anger contempt", "I do not know", "emotion", "", " ", "angryhappy", "dangerous", "angry bored", "anger 5 fear"),
    *("<answer>", '{"reasoning_steps": [], "answer": ""}', "angry " * 5000 + "sad", "no anger", "愤怒"),
]


@pytest.mark.parametrize("text", RIGHT)
def test_the_labelled_emotion_earns_one_however_it_is_worded(text):
    assert score([answer(text)], "anger") == [1.0]


@pytest.mark.parametrize("text", WRONG, ids=lambda text: text[:20])
def test_another_emotion_several_or_none_earns_nothing(text):
    assert score([answer(text)], "anger") == [0.0]


@pytest.mark.parametrize("text", ["angry", "<think>angry</think>", "", '{"reasoning_steps": [], "answer": ""}'])
def test_only_the_answer_counts(text):
    assert score([text], "anger") == [0.0]


def test_an_answer_over_several_lines_is_read():
    assert score(["<think>\n</think><answer>\nanger\n</answer>"], "angry") == [1.0]


@pytest.mark.parametrize("media", [{"image": ["a.png"]}, {"video": ["a.mp4"]}, {}])
def test_rows_with_a_picture_a_video_or_neither_are_rewarded_alike(media):
    assert score([answer("anger")], "anger", **media) == [1.0]


def test_a_blank_label_abstains():
    assert score([answer("anger"), answer("")], " ") == [None, None]


def test_a_label_outside_the_known_ones_is_compared_as_text():
    assert score([answer("Boredom."), answer("bored"), answer("anger")], "boredom", "OTHER") == [1.0, 0.0, 0.0]


def test_every_data_set_has_the_classes_of_its_authors():
    assert (len(MAFW), len(DFEW), len(RAVDESS)) == (11, 7, 8)
    assert get_labels("DFEW set_1") == DFEW
    assert get_labels("something else") is get_labels(None) is None


@pytest.mark.parametrize("dataset", LABELS)
def test_every_class_is_read_as_itself_and_as_nothing_else(dataset):
    assert [read_emotion(label, dataset) for label in LABELS[dataset]] == list(LABELS[dataset])


@pytest.mark.parametrize(
    "dataset, written, label",
    [  # labels as the data sets and R1-Omni write them
        ("DFEW", "happy sad neutral angry surprise disgust fear", DFEW),
        (
            "MAFW",
            "anger disgust fear happiness neutral sadness surprise contempt anxiety helplessness disappointment",
            MAFW,
        ),
        (
            "MAFW",
            "contemptuous disappointed helpless anxious",
            ("contempt", "disappointment", "helplessness", "anxiety"),
        ),
        ("RAVDESS", "neutral calm happy sad angry fearful disgust surprised", RAVDESS),
    ],
)
def test_labels_are_read_as_their_files_write_them(dataset, written, label):
    assert [read_emotion(word, dataset) for word in written.split()] == list(label)


def test_calm_is_a_class_of_ravdess_alone():
    assert score([answer("calm")], "calm", "RAVDESS") == [1.0]
    assert score([answer("calm")], "neutral", "RAVDESS") == [0.0]
    assert score([answer("calm")], "neutral", "DFEW") == [1.0]


def test_an_emotion_without_a_class_is_no_other_class():
    assert score([answer("anxious")], "fear", "DFEW") == [0.0]
    assert score([answer("anxious")], "anxiety", "MAFW") == [1.0]


def test_accuracy_is_the_emotion_under_its_task():
    (accuracy,) = build_reward_funcs(["accuracy"], "emotion", question_template="emotion")
    completions = [[{"role": "assistant", "content": answer("joy")}]]
    assert accuracy([], completions, solution=["happy"], dataset_name=["DFEW"]) == [1.0]


@pytest.mark.parametrize("module", [emotion, emotions], ids=lambda module: module.__name__)
def test_the_examples_in_the_docstrings_hold(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
