"""Group-wise reinforcement learning for vision-language models."""

from open_r1.utils.compat import guard_torchvision


__version__ = "0.1.0"

guard_torchvision()
