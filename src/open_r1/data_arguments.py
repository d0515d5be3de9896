"""Options that say which rows and images a script works on, whatever it does with them. Used through `configs.py`."""

from dataclasses import dataclass, field

from open_r1.completions import get_answer_contract
from open_r1.tasks import Task, find_task_of_template, get_task


_DATA_SUFFIXES = (".yaml", ".yml", ".json", ".jsonl")


def _doc(text: str, default=None, **kwargs):
    return field(default=default, metadata={"help": text, **kwargs})


def _list_doc(text: str):
    return field(default_factory=list, metadata={"help": text})


@dataclass
class DataArguments:
    """Rows and images, for every script that trains. What the files look like: docs/data.md."""

    data_file_paths: list[str] = _list_doc(
        "JSONL files, JSON lists, or YAML mixtures of them; several, or one string of them joined with ':'."
    )
    image_folders: list[str] = _list_doc("Root folder of each file's images and videos, in the same order and form.")
    image_root: str | None = _doc("Root folder of the images of all files, in place of --image_folders.")
    dataset_name: str | None = _doc(
        "Dataset name of rows that carry none; default: the name of their file. With --use_huggingface_dataset the "
        "data set itself: a folder, or its name on the hub. A .yaml, .json or .jsonl file is read as a data file."
    )
    use_huggingface_dataset: bool = _doc("Read the data set --dataset_name in place of files.", False)
    dataset_config: str | None = _doc("Configuration of a data set of the hub.")
    dataset_train_split: str = _doc("Split of a Hugging Face data set to train on.", "train")
    dataset_test_split: str = _doc("Its split to evaluate on, where evaluation is asked for.", "test")
    reward_method: list[str] | None = _doc(
        "How answers are judged (reward method_accuracy): one per data file, or one string of them joined with ':'. "
        "A row's own accu_reward_method wins."
    )
    arrow_cache_dir: str | None = _doc(
        "Folder where rows are stored as Arrow tables, which later runs map into memory. Default: files of more than "
        "32 MB together, beside the cache of `datasets`."
    )
    on_bad_data: str = _doc(
        "What to do when rows cannot be used: refuse to start, or leave them out and say how many.",
        "error",
        choices=["error", "skip"],
    )
    verify_images: str = _doc(
        "Check images before training by decoding each (finds truncated files), by existence only, or not at all.",
        "decode",
        choices=["decode", "exists", "none"],
    )
    task_type: str | None = _doc(
        "What the rows ask for: iqa, rec, vqa, … (docs/tasks.md); says what follows the question, and what the "
        "rewards accuracy and format mean. Default: by --question_template, iqa where neither is given."
    )
    question_template: str | None = _doc(
        "Instruction that follows the question: its name, or a text file with {Question} in it. Default: the task's."
    )
    min_pixels: int | None = _doc("Images are enlarged to at least this many pixels. Default: the checkpoint's.")
    max_pixels: int | None = _doc("Images are reduced to at most this many pixels. Default: the checkpoint's.")
    max_anyres_num: int | None = _doc(
        "InternVL: tiles that an image is cut into at most, a thumbnail not counted. Default: the checkpoint's, 12."
    )
    video_fps: float = _doc("Frames that are taken of each second of a video.", 2.0)
    video_min_frames: int = _doc("Frames that are taken of a short video, where it has as many.", 4)
    video_max_frames: int = _doc("Frames that are taken of a long video.", 32)
    video_max_pixels: int | None = _doc(
        "Frames are reduced to at most this many pixels. Default: 200704, which is 256 visual tokens for two frames."
    )
    video_audio: bool = _doc(
        "Videos come with their sound, where they have one. For families that take sound: Qwen2.5-Omni.", False
    )

    def __post_init__(self):
        for name in ("data_file_paths", "image_folders", "reward_method"):
            if isinstance(getattr(self, name), str):  # one value in a YAML file
                setattr(self, name, [getattr(self, name)])
        self._check_data()
        if self.task_type is None:
            self.task_type = find_task_of_template(self.question_template or "scoring")
        if self.question_template is None:
            self.question_template = self.task.question_template
        get_answer_contract(self.question_template)

    def _check_data(self) -> None:
        name = self.dataset_name
        if self.use_huggingface_dataset:
            if not name:
                raise ValueError("--use_huggingface_dataset needs --dataset_name: a folder, or a data set of the hub.")
            if self.data_file_paths:
                raise ValueError("--data_file_paths and --use_huggingface_dataset name two sources: give one of them.")
            return
        if not self.data_file_paths and name and name.lower().endswith(_DATA_SUFFIXES):
            self.data_file_paths, self.dataset_name = [name], None
        if not self.data_file_paths:
            hint = (
                f" Unsupported file type: --dataset_name {name} is no .yaml, .json or .jsonl file; " if name else " "
            )
            raise ValueError(
                f"--data_file_paths is missing: name at least one JSONL file.{hint}With --use_huggingface_dataset, "
                "--dataset_name is a folder that save_to_disk wrote, or a data set of the hub."
            )
        is_mixture = all(path.lower().endswith((".yaml", ".yml")) for path in self.data_file_paths)
        if not self.image_folders and self.image_root is None and not is_mixture:
            raise ValueError(
                "--image_folders is missing: name the root folder of the images, one per data file, or --image_root."
            )

    @property
    def task(self) -> Task:
        return get_task(self.task_type)

    @property
    def image_bounds(self) -> dict[str, int | None]:
        """Bounds of images, by their names in `vlm_modules.processors.ImageBounds`."""
        return {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels, "max_tiles": self.max_anyres_num}

    @property
    def video_options(self) -> dict[str, float | int | bool | None]:
        """Options of videos, by their names in `data.video.VideoSettings`."""
        names = ("fps", "min_frames", "max_frames", "max_pixels", "audio")
        return {name: getattr(self, f"video_{name}") for name in names}

    @property
    def all_file_paths(self) -> list[str]:
        """Every data file of the run, each string perhaps several."""
        return [self.dataset_name] if self.use_huggingface_dataset else self.data_file_paths
