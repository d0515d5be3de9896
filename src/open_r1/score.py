"""Scores the quality of images and videos with a vision-language model: paths in, one row for each out.

    python -m open_r1.score --model output/run --images photos/ --output scores.csv
    python -m open_r1.score --model output/run --images test.jsonl --image_folder images --output scores.parquet
    python -m open_r1.score --model output/run --images photos/ --output scores.csv --num_samples 8 --temperature 1.0
    torchrun --nproc_per_node 8 -m open_r1.score --model output/run --images photos/ --output scores.csv
    python -m open_r1.score --model output/run --images photos/ --output scores.csv --engine vllm

The prompt is that of training. Decoding is greedy unless a temperature or several samples are asked for; an answer
without a readable score stays without one. A run that was interrupted goes on where it stopped when the same command
is given again. Formats and protocol: docs/evaluation.md. From Python: `open_r1.scorer.Scorer`.

Exit status: 0 when every image was answered (parsed or not), 3 when some could not be read.
"""

import argparse
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_r1.completions import IQA_QUESTION
from open_r1.utils.prediction_writer import PredictionWriter
from open_r1.utils.predictions import Prediction
from open_r1.utils.scoring import BATCH_SIZES, compute_checkpoint_id, find_image_paths, plan_batches


if TYPE_CHECKING:
    from open_r1.scorer import Scorer, ScoringSettings
    from open_r1.trainer.ranks import Ranks

logger = logging.getLogger(__name__)

STATUS_UNREADABLE = 3  # exit status; 1 and 2 are Python's and argparse's own
# Options of vLLM, and their names in EngineSettings.
_ENGINE_OPTIONS = {
    "gpu_memory_utilization": "gpu_memory_utilization",
    "tensor_parallel_size": "tensor_parallel_size",
    "max_model_len": "max_model_length",
    "enforce_eager": "enforce_eager",
}
_VIDEO_OPTIONS = ("fps", "min_frames", "max_frames", "max_pixels")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="score", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", required=True, help="Checkpoint folder or name on the Hugging Face hub.")
    add(
        "--images",
        required=True,
        nargs="+",
        help="Folders (searched recursively), images, videos, patterns, JSONL files, or .txt lists of paths.",
    )
    add("--output", required=True, type=Path, help="File to write or go on with: .csv, .jsonl or .parquet.")
    add("--image_folder", type=Path, help="Root of paths in JSONL files and lists. Default: the folder of each file.")
    add("--thinking", action=argparse.BooleanOptionalAction, help="Ask for the reasoning as well. Default: yes.")
    add("--question_template", help="In place of --thinking: scoring, scoring_no_think, or a text file.")
    add("--question", default=IQA_QUESTION, help="What is asked about each image. Default: as in training.")
    add("--describe", action="store_true", help="Also ask for a description of the quality: column description.")
    add("--batch_size", type=int, help="Images per batch. Default: 8, or 64 with vLLM.")
    add("--num_samples", type=int, default=1, help="Samples per image; the score is the mean of those parsed.")
    add("--temperature", type=float, help="0 is greedy. Default: 0, or 1 with several samples.")
    add(
        "--win_probability",
        action="store_true",
        help="Also write OUTPUT.wins.csv: how likely each image is better than each other (with several samples).",
    )
    add("--seed", type=int, default=42, help="Seed of the sampling.")
    add("--max_new_tokens", type=int, default=512, help="Limit of each answer.")
    add("--min_pixels", type=int, help="Lower bound of an image's area. Default: the checkpoint's.")
    add("--max_pixels", type=int, help="Upper bound of an image's area. Default: the checkpoint's.")
    add("--max_anyres_num", type=int, help="InternVL: tiles of an image at most. Default: the checkpoint's, 12.")
    add("--video_fps", type=float, default=2.0, help="Frames that are taken of each second of a video.")
    add("--video_min_frames", type=int, default=4, help="Frames that are taken of a short video.")
    add("--video_max_frames", type=int, default=32, help="Frames that are taken of a long video.")
    add("--video_max_pixels", type=int, help="Upper bound of a frame's area. Default: the family's.")
    add("--trust_remote_code", action="store_true", help="Run the Python code that comes with the model.")
    add("--vlm_module", help="Family of the model, as in training. Default: by its configuration.")
    add("--dtype", default="auto", help="Precision of the weights, as bfloat16. Default: the checkpoint's.")
    add("--device", default="auto", help="As cuda:0 or cpu. Default: CUDA where there is one, one for each process.")
    add("--overwrite", action="store_true", help="Start anew where the output exists.")
    _add_engine_arguments(parser.add_argument_group("who completes the prompts"))
    return parser


def _add_engine_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--engine", choices=tuple(BATCH_SIZES), default="hf", help="transformers, or vLLM (docs/vllm.md). Default: hf."
    )
    add("--gpu_memory_utilization", type=float, help="vLLM: share of a GPU's memory. Default: 0.9.")
    add("--tensor_parallel_size", type=int, help="vLLM: GPUs that share one copy of the model. Default: 1.")
    add("--max_model_len", type=int, help="vLLM: tokens of prompt and answer. Default: as many as memory allows.")
    add("--enforce_eager", action="store_true", default=None, help="vLLM: no CUDA graphs; starts sooner, is slower.")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.question_template is not None and args.thinking is not None:
        parser.error("--question_template and --thinking choose the same thing: give one of them")
    args.thinking = True if args.thinking is None else args.thinking
    if args.question_template is None:
        args.question_template = "scoring" if args.thinking else "scoring_no_think"
    if args.temperature is None:
        args.temperature = 1.0 if args.num_samples > 1 else 0.0
    if args.batch_size is None:
        args.batch_size = BATCH_SIZES[args.engine]
    if args.num_samples < 1 or args.batch_size < 1:
        parser.error("--num_samples and --batch_size must be at least 1")
    if args.num_samples > 1 and args.temperature == 0:
        parser.error("--num_samples above 1 needs a --temperature above 0: greedy answers are all the same")
    if args.win_probability and args.num_samples == 1:
        parser.error("--win_probability needs the spread of several samples: give --num_samples, 8 for instance")
    problem = check_engine_arguments(args)
    if problem:
        parser.error(problem)
    return args


def check_engine_arguments(args: argparse.Namespace) -> str | None:
    """What is wrong with the options of the engine, if anything is."""
    given = [name for name in _ENGINE_OPTIONS if getattr(args, name) is not None]
    if args.engine != "vllm":
        return f"--{given[0]} does nothing without --engine vllm: add it, or leave the option out" if given else None
    if args.device != "auto":
        return "--device does nothing with --engine vllm: leave it out, and choose with CUDA_VISIBLE_DEVICES"
    if args.gpu_memory_utilization is not None and not 0 < args.gpu_memory_utilization <= 1:
        return f"--gpu_memory_utilization {args.gpu_memory_utilization}: take a share of the memory, as 0.9"
    for name in ("tensor_parallel_size", "max_model_len"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            return f"--{name} must be at least 1"
    return None


def build_settings(args: argparse.Namespace) -> "ScoringSettings":
    from open_r1.data.video import VideoSettings
    from open_r1.scorer import ScoringSettings

    names = ("question_template", "question", "batch_size", "num_samples", "temperature", "seed", "max_new_tokens")
    video = VideoSettings(**{name: getattr(args, f"video_{name}") for name in _VIDEO_OPTIONS})
    return ScoringSettings(**{name: getattr(args, name) for name in names}, describe=args.describe, video=video)


def collect_settings(args: argparse.Namespace, settings: "ScoringSettings") -> dict[str, Any]:
    """All that the scores depend on, for the file beside the output."""
    names = ("model", "thinking", "batch_size", "num_samples", "temperature", "seed", "max_new_tokens", "describe")
    names += (
        "min_pixels",
        "max_pixels",
        "max_anyres_num",
        "dtype",
        "engine",
        *(f"video_{name}" for name in _VIDEO_OPTIONS),
    )
    own = {name: getattr(args, name) for name in names}
    return own | {"prompt": settings.prompt_text, "checkpoint_id": compute_checkpoint_id(args.model)}


def load_scorer(args: argparse.Namespace, settings: "ScoringSettings", ranks: "Ranks") -> "Scorer":
    from open_r1.scorer import Scorer
    from open_r1.vlm_modules.processors import ImageBounds

    bounds = ImageBounds(min_pixels=args.min_pixels, max_pixels=args.max_pixels, max_tiles=args.max_anyres_num)
    given = {name: getattr(args, option) for option, name in _ENGINE_OPTIONS.items()}
    return Scorer.from_pretrained(
        args.model,
        device=ranks.choose_device(args.device) if args.engine == "hf" else "auto",
        dtype=args.dtype,
        settings=settings,
        bounds=bounds,
        engine=args.engine,
        vlm_module_name=args.vlm_module,
        trust_remote_code=args.trust_remote_code,
        **{name: value for name, value in given.items() if value is not None},
    )


def plan_work(paths: list[str], batch_size: int, ranks: "Ranks") -> list[list[str]]:
    """The batches of this process: those of one process alone, dealt out one by one."""
    from open_r1.data.media import read_image_size
    from open_r1.scorer import is_video

    def read_size(path: str) -> tuple[int, int] | None:
        return None if batch_size == 1 or is_video(path) else read_image_size(path)

    are_videos = list(map(is_video, paths))
    with ThreadPoolExecutor(8) as pool:  # headers of many files, perhaps behind a network
        sizes = list(pool.map(read_size, paths))
    batches = plan_batches(sizes, are_videos, batch_size)
    return [[paths[index] for index in batch] for batch in batches[ranks.rank :: ranks.world_size]]


def score_batches(
    batches: list[list[str]],
    args: argparse.Namespace,
    settings: "ScoringSettings",
    ranks: "Ranks",
    writer: PredictionWriter,
) -> int:
    """Scores what the output does not hold yet; returns how many answers were cut.

    Batches are cut from the whole list whatever is done already, and one that is half done is scored whole: so the
    numbers do not depend on where a run was interrupted. The model is loaded where there is something to do.
    """
    from tqdm.auto import tqdm

    known = {prediction.path for prediction in writer.kept}
    num_done, total = sum(path in known for batch in batches for path in batch), sum(map(len, batches))
    # vLLM's engines start together or not at all, even where one of them has nothing left to do.
    num_missing = ranks.sum(total - num_done) if args.engine == "vllm" else total - num_done
    scorer = load_scorer(args, settings, ranks) if num_missing else None
    with tqdm(total=total, desc="score", unit="image", dynamic_ncols=True, disable=not ranks.is_first) as bar:
        for batch in batches:
            missing = set(batch) - known
            if missing:
                writer.write(row for row in scorer.score_batch(batch) if row.path in missing)
            bar.update(len(batch))
    return 0 if scorer is None else scorer.num_cut


def report_outcome(predictions: list[Prediction], num_cut: int, output: Path) -> int:
    """Logs how many images were scored, unparsed and unreadable; returns the exit status."""
    num_scored = sum(prediction.score is not None for prediction in predictions)
    num_unparsed = sum(prediction.is_unparsed for prediction in predictions)
    num_failed = len(predictions) - num_scored - num_unparsed
    logger.info("%d scored, %d unparsed, %d unreadable -> %s", num_scored, num_unparsed, num_failed, output)
    if num_cut:
        logger.warning("%d unparsed answers had reached --max_new_tokens", num_cut)
    return STATUS_UNREADABLE if num_failed else 0


def run(args: argparse.Namespace, ranks: "Ranks") -> int:
    from open_r1.utils.win_probabilities import check_number, write_wins

    if args.engine == "vllm":
        from open_r1.inference.vllm_engine import check_vllm

        check_vllm()  # before anything of an earlier run is replaced
    settings = build_settings(args)
    paths = find_image_paths(args.images, args.image_folder)
    if args.win_probability:
        check_number(paths)
    columns = {"has_samples": args.num_samples > 1, "has_description": args.describe}
    noted = collect_settings(args, settings)
    with ranks.first_goes_ahead():
        writer = PredictionWriter(args.output, noted, **columns, overwrite=args.overwrite, process_index=ranks.rank)
    with writer:
        writer.check_names(paths)
        if writer.kept and ranks.is_first:
            logger.info("%s holds %d rows already; going on from there", args.output, len(writer.kept))
        num_cut = score_batches(plan_work(paths, args.batch_size, ranks), args, settings, ranks, writer)
    num_cut = ranks.sum(num_cut)  # and all have written all
    status = 0
    if ranks.is_first:
        predictions = writer.finish(paths)
        if args.win_probability:
            write_wins(args.output.with_name(args.output.name + ".wins.csv"), predictions)
        status = report_outcome(predictions, num_cut, args.output)
    return ranks.sum(status)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    from open_r1.trainer.ranks import join_ranks

    with join_ranks() as ranks:
        return run(args, ranks)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        sys.exit(main())
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
