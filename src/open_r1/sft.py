"""Cold start: supervised fine-tuning on the JSONL data of GRPO, before GRPO, with TRL's `SFTTrainer`.

    python -m open_r1.sft --config configs/sft/demo.yaml --model_name_or_path output/demo/model \
        --data_file_paths output/demo/data/demo_train.jsonl --image_folders output/demo/data/images \
        --output_dir output/demo/sft

The prompt is rendered as in GRPO; what the model learns to write is described in `cold_start.py`. The loss is taken on
the completion alone. The output folder is an ordinary checkpoint, to be given to `grpo_jsonl`.
"""

import contextlib
import json
import logging
import sys
from typing import TYPE_CHECKING

from open_r1.utils.compat import speed_up_help


if TYPE_CHECKING:
    from datasets import Dataset
    from trl import SFTTrainer

    from open_r1.configs import GRPOModelConfig, SFTScriptArguments
    from open_r1.trainer.cold_start_config import ColdStartConfig


def parse_arguments(argv: list[str]) -> "tuple[SFTScriptArguments, ColdStartConfig, GRPOModelConfig]":
    speed_up_help(argv)
    from trl import TrlParser

    from open_r1.configs import GRPOModelConfig, SFTScriptArguments
    from open_r1.trainer.cold_start_config import ColdStartConfig

    return TrlParser((SFTScriptArguments, ColdStartConfig, GRPOModelConfig), prog="sft").parse_args_and_config(argv)


def load_records(paths: list[str]) -> dict[str, dict]:
    """The rows as their files have them, by their `source` ("file.jsonl:12"), as far as they are JSON."""
    from open_r1.data.reading import read_entries
    from open_r1.data.sources import RowSource

    records = {}
    for path in paths:
        for number, entry in read_entries(RowSource(file=path, image_root="", dataset_name="")):
            with contextlib.suppress(ValueError):  # the loader has reported these
                records[f"{path}:{number}"] = json.loads(entry) if isinstance(entry, bytes) else entry
    return records


def load_data(script_args: "SFTScriptArguments", seed: int) -> "Dataset":
    """Rows with `prompt`, `completion` (conversations) and `images`, which are opened when a row is read."""
    from open_r1.cold_start import compose_completion
    from open_r1.completions import get_answer_contract
    from open_r1.data.loading import load_rows
    from open_r1.data.media import load_image
    from open_r1.data.sources import JSON_SUFFIXES, list_data_files
    from open_r1.trainer.vision import find_media_kinds

    if script_args.use_huggingface_dataset:
        raise ValueError("--use_huggingface_dataset: the cold start reads what to write from JSONL files; export it.")
    contract = get_answer_contract(script_args.question_template)
    dataset = load_rows(
        script_args,
        script_args.data_file_paths,
        script_args.image_folders,
        split="train",
        seed=seed,
        require_mos=False,
    )
    if "video" in find_media_kinds(dataset):
        raise ValueError("the cold start takes no videos: leave rows with `video` out of its files.")
    paths = [path for path in list_data_files(script_args.data_file_paths) if path.endswith(JSON_SUFFIXES)]
    records = load_records(paths)

    def add_completion(row: dict) -> dict:
        noise = {"noise_std": script_args.score_noise_std, "decimals": script_args.score_decimals, "seed": seed}
        text = compose_completion(records[row["source"]], row["mos"], contract, **noise)
        return {"completion": [{"role": "assistant", "content": [{"type": "text", "text": text}]}]}

    def open_images(rows: dict[str, list]) -> dict[str, list]:
        return {**rows, "images": [[load_image(path) for path in paths] for paths in rows["images"]]}

    dataset = dataset.map(add_completion).rename_column("image_path", "images")
    return dataset.select_columns(["prompt", "completion", "images"]).with_transform(open_images)


def build_trainer(
    script_args: "SFTScriptArguments", training_args: "ColdStartConfig", model_args: "GRPOModelConfig"
) -> "SFTTrainer":
    from transformers import set_seed
    from transformers.trainer_callback import ProgressCallback

    from open_r1.trainer.cold_start_trainer import ColdStartTrainer
    from open_r1.trainer.loading import load_policy, load_processor, load_vlm_module
    from open_r1.utils.callbacks import LiveProgressCallback, MetricsFileCallback

    vlm_module = load_vlm_module(model_args)
    if vlm_module.get_vlm_key() == "internvl_chat":
        raise ValueError(
            f"{model_args.model_name_or_path}: the cold start needs a processor of transformers, which checkpoints "
            "with code of their own lack; take the same model from a name that ends in -hf."
        )
    dataset = load_data(script_args, training_args.seed)
    set_seed(training_args.seed)
    trainer = ColdStartTrainer(
        load_policy(model_args, vlm_module, keep_dropout=True),
        training_args,
        train_dataset=dataset,
        processing_class=load_processor(model_args, vlm_module, script_args.image_bounds),
        callbacks=[MetricsFileCallback(), LiveProgressCallback()],
    )
    trainer.remove_callback(ProgressCallback)
    return trainer


def main(argv: list[str] | None = None) -> None:
    script_args, training_args, model_args = parse_arguments(sys.argv[1:] if argv is None else argv)
    from open_r1.trainer.run import find_checkpoint, train_and_save

    checkpoint = find_checkpoint(training_args.resume_from_checkpoint, training_args.output_dir)
    trainer = build_trainer(script_args, training_args, model_args)
    train_and_save(trainer, checkpoint, script_args, model_args)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        main()
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
