"""Scores the quality of images with a vision-language model: image paths in, one row per image out.

    python -m open_r1.score --model output/run --images photos/ --output scores.csv
    python -m open_r1.score --model output/run --images test.jsonl --image_folder images --output scores.csv
    python -m open_r1.score --model output/run --images photos/ --output scores.csv --num_samples 8 --temperature 1.0

The prompt is that of training. Decoding is greedy unless a temperature or several samples are asked for; an answer
without a readable score stays without one. A run that was interrupted goes on where it stopped when the same command
is given again. Formats and protocol: docs/evaluation.md.

Exit status: 0 when every image was answered (parsed or not), 3 when some could not be read.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_r1.completions import IQA_QUESTION, get_answer_contract, parse_score
from open_r1.utils.predictions import Prediction, PredictionWriter
from open_r1.utils.scoring import build_prediction, compute_batch_seed, compute_checkpoint_id, find_image_paths


if TYPE_CHECKING:
    from open_r1.inference.hf_generator import HFGenerator


logger = logging.getLogger(__name__)

STATUS_UNREADABLE = 3  # exit status; 1 and 2 are Python's and argparse's own


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="score", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", required=True, help="Checkpoint folder or name on the Hugging Face hub.")
    add("--images", required=True, nargs="+", help="Folders (searched recursively), images, patterns, or JSONL files.")
    add("--output", required=True, type=Path, help="File to write or go on with, .csv or .jsonl.")
    add("--image_folder", type=Path, help="Root of the images of JSONL files. Default: the folder of each file.")
    add("--thinking", action=argparse.BooleanOptionalAction, default=True, help="Ask for the reasoning as well.")
    add("--batch_size", type=int, default=8, help="Images per batch.")
    add("--num_samples", type=int, default=1, help="Samples per image; the score is the mean of those parsed.")
    add("--temperature", type=float, help="0 is greedy. Default: 0, or 1 with several samples.")
    add("--seed", type=int, default=42, help="Seed of the sampling.")
    add("--max_new_tokens", type=int, default=512, help="Limit of each answer.")
    add("--min_pixels", type=int, help="Lower bound of an image's area. Default: the checkpoint's.")
    add("--max_pixels", type=int, help="Upper bound of an image's area. Default: the checkpoint's.")
    add("--max_anyres_num", type=int, help="InternVL: tiles of an image at most. Default: the checkpoint's, 12.")
    add("--trust_remote_code", action="store_true", help="Run the Python code that comes with the model.")
    add("--vlm_module", help="Family of the model, as in training. Default: by its configuration.")
    add("--dtype", default="auto", help="Precision of the weights, as bfloat16. Default: the checkpoint's.")
    add("--device", default="auto", help="As cuda:0 or cpu. Default: CUDA where there is one.")
    add("--overwrite", action="store_true", help="Start anew where the output exists.")
    return parser


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.temperature is None:
        args.temperature = 1.0 if args.num_samples > 1 else 0.0
    if args.num_samples < 1 or args.batch_size < 1:
        parser.error("--num_samples and --batch_size must be at least 1")
    if args.num_samples > 1 and args.temperature == 0:
        parser.error("--num_samples above 1 needs a --temperature above 0: greedy answers are all the same")
    return args


def collect_settings(args: argparse.Namespace) -> dict[str, Any]:
    """All that the scores depend on, for the file beside the output."""
    names = ("model", "thinking", "batch_size", "num_samples", "temperature", "seed", "max_new_tokens")
    settings = {name: getattr(args, name) for name in (*names, "min_pixels", "max_pixels", "max_anyres_num", "dtype")}
    return settings | {"checkpoint_id": compute_checkpoint_id(args.model)}


class Scorer:
    """Scores batches of images with one model and one prompt."""

    def __init__(self, generator: "HFGenerator", args: argparse.Namespace):
        contract = get_answer_contract("scoring" if args.thinking else "scoring_no_think")
        text = {"type": "text", "text": contract.render(IQA_QUESTION)}
        self.messages = [{"role": "user", "content": [{"type": "image"}, text]}]
        self.generator = generator
        self.args = args
        self.num_cut = 0  # unparsed answers that had reached the token limit

    def score_batch(self, paths: list[str]) -> list[Prediction]:
        """Scores the images of one batch; those that cannot be read get a row that says why."""
        from open_r1.data.media import load_image

        prompts, predictions = {}, {}
        for path in paths:
            try:
                prompts[path] = self.generator.encode(self.messages, [load_image(path)])
            except ValueError as error:  # a damaged file, or a shape that the processor refuses
                predictions[path] = Prediction(path=path, error=str(getattr(error, "reason", error)))
        if prompts:
            predictions |= self._generate(prompts, compute_batch_seed(self.args.seed, paths))
        return [predictions[path] for path in paths]

    def _generate(self, prompts: dict[str, Any], seed: int) -> dict[str, Prediction]:
        from open_r1.inference.generator import SamplingSettings

        num_samples = self.args.num_samples
        sampling = SamplingSettings(
            max_new_tokens=self.args.max_new_tokens,
            temperature=self.args.temperature,
            seed=seed,
        )
        completions = self.generator.generate(list(prompts.values()), num_samples, sampling)
        texts = self.generator.decode(completions.token_ids)
        for text, reason in zip(texts, completions.finish_reasons, strict=True):
            self.num_cut += reason == "length" and parse_score(text) is None
        return {
            path: build_prediction(path, texts[index * num_samples : (index + 1) * num_samples])
            for index, path in enumerate(prompts)
        }


def score_images(paths: list[str], scorer: Scorer, writer: PredictionWriter) -> list[Prediction]:
    """Scores what the output does not hold yet, and returns the rows of all images, in order.

    Batches are cut from the whole list whatever is done already, and one that is half done is scored whole: so the
    numbers do not depend on where a run was interrupted.
    """
    from tqdm.auto import tqdm

    predictions = {prediction.path: prediction for prediction in writer.kept}
    batch_size = scorer.args.batch_size
    with tqdm(total=len(paths), desc="score", unit="image", dynamic_ncols=True) as bar:
        for start in range(0, len(paths), batch_size):
            batch = paths[start : start + batch_size]
            missing = [path for path in batch if path not in predictions]
            if missing:
                new = [row for row in scorer.score_batch(batch) if row.path in missing]
                writer.write(new)
                predictions |= {row.path: row for row in new}
            bar.update(len(batch))
    return [predictions[path] for path in paths]


def report_outcome(predictions: list[Prediction], num_cut: int, output: Path) -> int:
    """Logs how many images were scored, unparsed and unreadable; returns the exit status."""
    num_scored = sum(prediction.score is not None for prediction in predictions)
    num_unparsed = sum(prediction.is_unparsed for prediction in predictions)
    num_failed = len(predictions) - num_scored - num_unparsed
    logger.info("%d scored, %d unparsed, %d unreadable -> %s", num_scored, num_unparsed, num_failed, output)
    if num_cut:
        logger.warning("%d unparsed answers had reached --max_new_tokens", num_cut)
    return STATUS_UNREADABLE if num_failed else 0


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    from open_r1.inference.hf_generator import HFGenerator

    paths = find_image_paths(args.images, args.image_folder)
    settings = collect_settings(args)
    with PredictionWriter(args.output, settings, has_samples=args.num_samples > 1, overwrite=args.overwrite) as writer:
        if writer.kept:
            logger.info("%s holds %d rows already; going on from there", args.output, len(writer.kept))
        bounds = {"min_pixels": args.min_pixels, "max_pixels": args.max_pixels, "max_tiles": args.max_anyres_num}
        options = {"dtype": args.dtype, "device": args.device, "trust_remote_code": args.trust_remote_code}
        options["vlm_module_name"] = args.vlm_module
        generator = HFGenerator.from_pretrained(args.model, **options, **bounds)
        scorer = Scorer(generator, args)
        predictions = score_images(paths, scorer, writer)
    return report_outcome(predictions, scorer.num_cut, args.output)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
