"""How turns of a conversation are separated."""

from dataclasses import dataclass


@dataclass
class Conversation:
    name: str
    sep: str
    system_message: str = ""


SEPARATORS = {"internvl2_5": "<|im_end|>\n", "Hermes-2": "<|im_end|>", "odd": "<|endofturn|>"}


def get_conv_template(name):
    return Conversation(name=name, sep=SEPARATORS[name])
