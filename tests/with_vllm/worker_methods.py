"""What tests ask of a server's workers, by `/collective_rpc`; `vllm_serve --worker-extension-cls` gives it to them."""

import torch
from training_runs import digest, read_engine_weights


class WorkerMethods:
    """Counts the images that the vision tower encodes, and reads weights, packed ones included."""

    def count_encoded_images(self) -> list[int]:
        """One number: since the last call, or since the first, which starts the count."""
        if not hasattr(self, "_counts"):
            self._counts: list[int] = []
            self.model_runner.get_model().visual.register_forward_pre_hook(self._note, with_kwargs=True)
        total = sum(self._counts)
        self._counts.clear()
        return [total]

    def digest_all_weights(self) -> dict[str, str]:
        """A checksum of each weight. vLLM's own leave out those that its CPU kernels keep packed."""
        return digest(read_engine_weights(self.model_runner.get_model()))

    def _note(self, module: torch.nn.Module, positional: tuple, named: dict) -> None:
        self._counts.append(len(named["grid_thw"] if "grid_thw" in named else positional[1]))
