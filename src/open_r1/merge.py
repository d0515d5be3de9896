"""Merges adapters (LoRA, DoRA, rsLoRA) into the model that they were trained on: out comes an ordinary checkpoint.

    python -m open_r1.merge --adapters output/run --output output/merged --dtype bfloat16

The output holds weights (safetensors), configuration, generation config and processor, and is taken by every entry of
this project, by transformers and by vLLM. The sum is taken in float32 and stored in the base model's precision, or in
`--dtype`. Adapters that were trained on a quantised base are merged into its unquantised weights. More: docs/peft.md.
"""

import argparse
import logging
import sys
from pathlib import Path

from open_r1.utils.adapters import find_model_source, load_base_config, merge_adapters


logger = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="merge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--adapters", required=True, type=Path, help="Folder with adapter_config.json, as training leaves it.")
    add("--output", required=True, type=Path, help="Folder to write to; new, or empty.")
    add("--base", help="The base model, where it lies elsewhere than adapter_config.json says.")
    dtypes = ("auto", "bfloat16", "float16", "float32")
    add("--dtype", default="auto", choices=dtypes, help="Precision of the stored weights. Default: the base's.")
    add("--trust_remote_code", action="store_true", help="Run the Python code that comes with the base model.")
    add("--overwrite", action="store_true", help="Write into a folder that holds other files.")
    return parser


def check_folders(adapters: Path, output: Path, base_path: str, overwrite: bool) -> None:
    """Refuses an output folder in which something would be lost or mistaken.

    Raises:
        ValueError: it is not empty, or is that of the adapters or of the base.
    """
    if output.is_file():
        raise ValueError(f"--output {output} is a file; name a folder.")
    if output.resolve() in (adapters.resolve(), Path(base_path).resolve()):
        raise ValueError(f"--output {output} is what is merged; name another folder.")
    if (output / "adapter_config.json").is_file():
        raise ValueError(
            f"--output {output} holds adapters, for which the result would be taken; name another folder."
        )
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise ValueError(f"--output {output} is not empty: name another folder, or add --overwrite.")


def merge(
    adapters: Path,
    output: Path,
    *,
    base: str | None = None,
    dtype: str = "auto",
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> None:
    """Writes the merged checkpoint.

    Args:
        adapters: Folder of the adapters.
        output: Folder to write to.
        base: The base model, in place of the one that the adapters name.
        dtype: Precision of the stored weights; `auto` is the base's.
        overwrite: Write into a folder that is not empty.
        trust_remote_code: Whether code that comes with the base may run.

    Raises:
        ValueError: a folder is not what it should be, or the adapters do not fit the base.
    """
    source = find_model_source(str(adapters), base=base, trust_remote_code=trust_remote_code)
    if source.adapters_path is None:
        raise ValueError(f"--adapters {adapters} holds no adapter_config.json, so it is no folder of adapters.")
    check_folders(adapters, output, source.base_path, overwrite)
    from open_r1.vlm_modules import select_vlm_module
    from open_r1.vlm_modules.processors import load_processor

    config = load_base_config(source)
    if getattr(config, "quantization_config", None):
        raise ValueError(f"{source.base_path} is quantised: name its unquantised weights with --base.")
    vlm_module = select_vlm_module(config)
    processor = load_processor(vlm_module, source)
    model_class = vlm_module.get_model_class(config)
    model = model_class.from_pretrained(source.base_path, config=config, revision=source.revision, dtype="auto")
    model = merge_adapters(model, str(adapters))
    if dtype != "auto":
        import torch

        model = model.to(getattr(torch, dtype))
    model.save_pretrained(output)
    processor.save_pretrained(output)
    logger.info("merged %s into %s -> %s", adapters, source.base_path, output)


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    options = {name: getattr(args, name) for name in ("base", "dtype", "overwrite", "trust_remote_code")}
    merge(args.adapters, args.output, **options)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
