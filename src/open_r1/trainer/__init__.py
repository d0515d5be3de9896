"""The group-wise GRPO trainer and the pure functions it is made of."""
