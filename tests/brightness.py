"""A tiny model that was taught to read brightness as quality, for tests of scoring."""

from pathlib import Path

import torch
from PIL import Image

from open_r1.completions import IQA_QUESTION, get_answer_contract
from open_r1.inference.hf_generator import HFGenerator


LEVELS = [round(15 + 240 * step / 9) for step in range(10)]  # brightness of the pictures, 0 to 255


def teach_brightness(folder: Path, num_steps: int = 120) -> None:
    """Trains the checkpoint to answer with the brightness of a grey picture on a scale of 1 to 5, in a few seconds."""
    generator = HFGenerator.from_pretrained(str(folder), device="cpu")
    model, processor = generator.model, generator.processor
    contract = get_answer_contract("scoring")
    text = {"type": "text", "text": contract.render(IQA_QUESTION)}
    messages = [{"role": "user", "content": [{"type": "image"}, text]}]
    images = [Image.new("RGB", (56, 56), (level,) * 3) for level in LEVELS]
    prompt = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = dict(processor(text=[prompt] * len(images), images=images, return_tensors="pt"))
    answers = [contract.compose(think="noise", answer=f"{1 + 4 * level / 255:.1f}") + "<|im_end|>" for level in LEVELS]
    answer_ids = processor.tokenizer(answers, return_tensors="pt")["input_ids"]  # all of one length
    labels = torch.cat([torch.full_like(inputs["input_ids"], -100), answer_ids], dim=1)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], answer_ids], dim=1)
    inputs["attention_mask"] = torch.ones_like(labels)
    inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, answer_ids.shape[1]))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(num_steps):
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
