"""vLLM on a server: completions, weights, and what becomes of a run when the server fails. With a real server."""

import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import ask, make_image
from processes import find_free_port, run_alone
from servers import Server

from open_r1.inference.generator import Completions, SamplingSettings
from open_r1.inference.hf_generator import HFGenerator
from open_r1.inference.vllm_engine import EngineError, EngineSettings
from open_r1.inference.vllm_generator import VLLMGenerator
from open_r1.trainer.policy_weights import PolicyWeights
from open_r1.vlm_modules.vlm_module import EncodedPrompt


PATIENCE_S = 120.0  # of engines whose server is well
GREEDY = SamplingSettings(max_new_tokens=12, temperature=0.0)


@pytest.fixture(scope="module")
def started(tiny_checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tiny_checkpoint, tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


@pytest.fixture
def server(started: Server) -> Server:
    """One that runs, whatever the last test did to it."""
    if started._process is None:
        started.start()
    return started


@pytest.fixture
def policy(tiny_checkpoint: str) -> HFGenerator:
    return HFGenerator.from_pretrained(tiny_checkpoint, dtype="float32")


@pytest.fixture
def engine(server: Server, tiny_checkpoint: str) -> Iterator:
    engine = connect(server, tiny_checkpoint)
    yield engine
    engine.close()


def connect(server: Server, model_path: str, timeout_s: float = PATIENCE_S, **settings):
    from open_r1.inference.vllm_server import ServerEngine

    port = find_free_port()
    own = EngineSettings(model_path=model_path, dtype="float32", **settings)
    return ServerEngine(own, server.address, timeout_s=timeout_s, group_port=port)


def build_generator(engine, policy: HFGenerator) -> VLLMGenerator:
    return VLLMGenerator(
        engine, policy.processor, policy.vlm_module, policy.eos_token_ids, policy.suppressed_token_ids
    )


def encode_prompts(policy: HFGenerator) -> list[EncodedPrompt]:
    """One image, two of which one is the same again, and none."""
    first, second = make_image(112, 112), make_image(140, 84, seed=1)
    return [
        policy.encode(ask("Rate it", 1), [first]),
        policy.encode(ask("Which is sharper?", 2), [second, first]),
        policy.encode(ask("Hello", 0), []),
    ]


@torch.no_grad()
def move(policy: HFGenerator, with_vision: bool = True) -> None:
    """New weights."""
    torch.manual_seed(0)
    for name, parameter in policy.model.named_parameters():
        if with_vision or "visual" not in name:
            parameter.add_(0.05 * torch.randn_like(parameter))


def compute_checksums(engine) -> dict[str, str]:
    """Of every weight on the server."""
    own = engine.client.post("/weight_checker", {"action": "checksum"})["checksums"]
    return own | engine.client.post("/collective_rpc", {"method": "digest_all_weights"})["results"][0]


def find_packed(checksums: dict[str, str]) -> set[str]:
    """Names under which vLLM sums up nothing, because its CPU kernels keep the weight elsewhere."""
    ends = ("qkv.weight", "proj.weight", ".0.weight", ".2.weight")
    return {name for name in checksums if name.startswith("dp0") and name.endswith(ends) and "patch" not in name}


def count_encoded_images(engine) -> int:
    """Since the last time."""
    return engine.client.post("/collective_rpc", {"method": "count_encoded_images"})["results"][0][0]


@torch.no_grad()
def compute_logps(policy: HFGenerator, prompt: EncodedPrompt, token_ids: list[int], temperature: float) -> list[float]:
    """What the policy itself says about a completion, tokens that are never drawn left out."""
    inputs = {
        "input_ids": torch.cat([prompt.input_ids, torch.tensor(token_ids)])[None],
        **{
            name: torch.nn.functional.pad(values, (0, len(token_ids)))[None]
            for name, values in prompt.token_inputs.items()
        },
        **policy.vlm_module.build_media_inputs(prompt.media, "cpu"),
    }
    logits = policy.model(**inputs).logits[0, prompt.num_tokens - 1 : -1].float()
    logits[:, policy.suppressed_token_ids] -= 100.0
    logps = (logits / temperature).log_softmax(dim=-1)
    return logps[range(len(token_ids)), token_ids].tolist()


class Stumbling(PolicyWeights):
    """Weights in whose middle something happens."""

    def __init__(self, model: torch.nn.Module, happens, after: int = 20):
        super().__init__(model)
        self._happens, self._after, self.num_passed = happens, after, 0

    def _generate(self) -> Iterator[tuple[str, torch.Tensor]]:
        for self.num_passed, pair in enumerate(super()._generate(), start=1):
            if self.num_passed == self._after:
                self._happens()
            yield pair


# ---- completions --------------------------------------------------------------------------------------------------


def test_greedy_completions_are_those_of_the_policy(engine, policy):
    prompts = encode_prompts(policy)
    engine.update_weights(PolicyWeights(policy.model), has_vision=True)
    completions = build_generator(engine, policy).generate(prompts, 1, GREEDY)
    expected = policy.generate(prompts, 1, GREEDY)
    assert completions.token_ids == expected.token_ids
    assert completions.finish_reasons == expected.finish_reasons


def test_log_probabilities_are_the_policys_own(engine, policy):
    engine.update_weights(PolicyWeights(policy.model), has_vision=True)
    prompts, sampling = encode_prompts(policy), SamplingSettings(max_new_tokens=12, temperature=0.7, seed=3)
    drawn = build_generator(engine, policy).generate(prompts, 4, sampling)
    assert len(drawn.token_ids) == 12
    for row, (token_ids, logps) in enumerate(zip(drawn.token_ids, drawn.per_token_logps, strict=True)):
        assert logps == pytest.approx(compute_logps(policy, prompts[row // 4], token_ids, 0.7), abs=1e-3)


def test_a_group_is_one_request_and_each_image_is_encoded_once(engine, policy, server):
    engine.update_weights(PolicyWeights(policy.model), has_vision=True)  # nothing is left of other tests
    names = ("vllm:request_params_n_count", "vllm:request_params_n_sum")
    before, _ = [server.read_metric(name) for name in names], count_encoded_images(engine)
    sampling = SamplingSettings(max_new_tokens=4, seed=1)
    first = build_generator(engine, policy).generate(encode_prompts(policy), 4, sampling)
    assert [server.read_metric(name) - start for name, start in zip(names, before)] == [3, 12]
    assert count_encoded_images(engine) == 2  # of three that are shown, of twelve completions
    assert build_generator(engine, policy).generate(encode_prompts(policy), 4, sampling) == first
    assert len({tuple(token_ids) for token_ids in first.token_ids}) > 6  # completions of a group differ


def test_media_with_other_tokens_between_their_placeholders_are_refused():
    from vllm.multimodal.inputs import PlaceholderRange

    from open_r1.inference.vllm_wire import _build_place

    edge = PlaceholderRange(3, 4, torch.tensor([False, True, True, False]))
    assert _build_place(edge) == {"offset": 4, "length": 2}
    with pytest.raises(ValueError, match="colocate"):
        _build_place(PlaceholderRange(3, 3, torch.tensor([True, False, True])))


# ---- weights ------------------------------------------------------------------------------------------------------


def test_new_weights_arrive_and_the_old_ones_come_back_bit_for_bit(engine, policy, tiny_checkpoint):
    prompts, generator = encode_prompts(policy), build_generator(engine, policy)
    engine.update_weights(PolicyWeights(policy.model), has_vision=True)
    original, first = compute_checksums(engine), generator.generate(prompts, 1, GREEDY)
    move(policy)
    engine.update_weights(PolicyWeights(policy.model), has_vision=True)
    moved = compute_checksums(engine)
    assert {name for name in original if moved[name] == original[name]} == find_packed(original)
    second = generator.generate(prompts, 1, GREEDY)
    assert second.token_ids == policy.generate(prompts, 1, GREEDY).token_ids != first.token_ids
    policy = HFGenerator.from_pretrained(tiny_checkpoint, dtype="float32")
    engine.update_weights(PolicyWeights(policy.model), has_vision=True)
    assert compute_checksums(engine) == original
    assert generator.generate(prompts, 1, GREEDY) == first


def test_weights_of_the_language_model_alone_leave_the_tower_and_its_features(engine, policy):
    prompts, generator = encode_prompts(policy), build_generator(engine, policy)
    engine.update_weights(PolicyWeights(policy.model), has_vision=True)
    original = compute_checksums(engine)
    generator.generate(prompts, 1, GREEDY)
    move(policy, with_vision=False)
    engine.update_weights(PolicyWeights(policy.model, lambda name: "visual" not in name), has_vision=False)
    count_encoded_images(engine)
    assert generator.generate(prompts, 1, GREEDY).token_ids == policy.generate(prompts, 1, GREEDY).token_ids
    assert count_encoded_images(engine) == 0
    changed = {name for name, checksum in compute_checksums(engine).items() if checksum != original[name]}
    assert changed == {name for name in original if "visual" not in name} - find_packed(original)
    engine.update_weights(PolicyWeights(policy.model), has_vision=True)
    generator.generate(prompts, 1, GREEDY)
    assert count_encoded_images(engine) == 2


def test_another_runs_weights_are_noticed_and_sending_all_heals(engine, policy, server, tiny_checkpoint):
    from open_r1.inference.vllm_server import LostWeightsError

    prompts, generator = encode_prompts(policy), build_generator(engine, policy)
    assert engine.forgets_weights
    engine.update_weights(PolicyWeights(policy.model), has_vision=True)
    assert not engine.forgets_weights
    other = connect(server, tiny_checkpoint)
    move(policy)
    other.update_weights(PolicyWeights(policy.model), has_vision=True)
    other.close()
    with pytest.raises(LostWeightsError, match="another run"):
        generator.generate(prompts, 1, GREEDY)
    assert engine.forgets_weights
    with pytest.raises(LostWeightsError, match="without the other"):
        engine.update_weights(PolicyWeights(policy.model, lambda name: "visual" not in name), has_vision=False)
    engine.update_weights(PolicyWeights(policy.model), has_vision=True)
    assert not engine.forgets_weights
    assert generator.generate(prompts, 1, GREEDY).token_ids == policy.generate(prompts, 1, GREEDY).token_ids


def test_weights_that_are_not_the_models_are_an_error_and_the_next_update_is_whole(engine, policy):
    class Wrong(PolicyWeights):
        def metadata(self):
            return [replace(weight, name=weight.name.replace("q_proj", "x_proj")) for weight in super().metadata()]

        def _generate(self):
            return ((name.replace("q_proj", "x_proj"), tensor) for name, tensor in super()._generate())

    started = time.monotonic()
    with pytest.raises(EngineError, match="did not get to the vLLM server .*update_weights"):
        engine.update_weights(Wrong(policy.model), has_vision=True)
    assert time.monotonic() - started < PATIENCE_S / 2
    check_next_update(engine, policy)


def test_a_run_that_ends_in_the_middle_of_an_update_does_not_hold_the_server_up(engine, policy):
    def end() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.update_weights(Stumbling(policy.model, end), has_vision=True)
    check_next_update(engine, policy)
    engine.client.start_weight_update()  # and one that ended just there
    check_next_update(engine, policy)


def check_next_update(engine, policy: HFGenerator) -> None:
    prompts = encode_prompts(policy)
    engine.update_weights(PolicyWeights(policy.model), has_vision=True)
    completions = build_generator(engine, policy).generate(prompts, 1, GREEDY)
    assert completions.token_ids == policy.generate(prompts, 1, GREEDY).token_ids


def generate_on_each(model_path: str, address: str, port: int) -> tuple[list[int], list[int], bool]:
    """Completions of a process's own prompt, and those that are expected; every weight is gathered by all."""
    from open_r1.inference.vllm_server import ServerEngine

    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    policy = HFGenerator.from_pretrained(model_path, dtype="float32")
    move(policy)
    weights = Stumbling(policy.model, torch.distributed.barrier)
    settings = EngineSettings(model_path=model_path, dtype="float32")
    engine = ServerEngine(settings, address, timeout_s=PATIENCE_S, group_port=port, rank=rank)
    assert engine.forgets_weights
    engine.update_weights(weights, has_vision=True)
    torch.distributed.barrier()
    prompts = encode_prompts(policy)[rank : rank + 1]
    [completion] = build_generator(engine, policy).generate(prompts, 1, GREEDY).token_ids
    [expected] = policy.generate(prompts, 1, GREEDY).token_ids
    forgets = engine.forgets_weights
    engine.close()
    return completion, expected, forgets


def test_several_processes_share_a_server_and_the_first_one_sends(server, tiny_checkpoint):
    arguments, path = (tiny_checkpoint, server.address, find_free_port()), {"PYTHONPATH": str(Path(__file__).parent)}
    for completion, expected, forgets in run_alone(
        generate_on_each, *arguments, num_processes=2, timeout=600, environment=path
    ):
        assert completion == expected
        assert not forgets


# ---- servers that cannot be used ----------------------------------------------------------------------------------


def test_a_server_of_another_model_or_with_too_little_room_is_refused(server, tiny_checkpoint, tmp_path):
    from open_r1.tiny import build_tiny_vlm

    build_tiny_vlm(str(tmp_path / "other"), preset="demo", seed=0)
    with pytest.raises(ValueError, match=r"another model.*depth|another model.*hidden_size"):
        connect(server, str(tmp_path / "other"))
    with pytest.raises(ValueError, match="takes 2048 tokens .*, not 2049"):
        connect(server, tiny_checkpoint, max_model_length=2049)
    connect(server, tiny_checkpoint, max_model_length=2048, scales_logps=True).close()


def test_a_prompt_that_is_too_long_is_refused_at_once(engine, policy):
    prompt = policy.encode(ask("long " * 3000, 0), [])
    with pytest.raises(EngineError, match="refuses"):
        build_generator(engine, policy).generate([prompt], 1, GREEDY)


# ---- servers that fail --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=["hangs", "is killed"])
def test_a_server_that_fails_during_an_update_is_an_error_in_time(server, policy, tiny_checkpoint, number):
    engine = connect(server, tiny_checkpoint)
    impatient(engine, 10.0)
    engine.update_weights(PolicyWeights(policy.model), has_vision=True)
    weights = Stumbling(policy.model, lambda: server.send_signal(number))
    started = time.monotonic()
    try:
        with pytest.raises(EngineError, match="The weights did not get to the vLLM server"):
            engine.update_weights(weights, has_vision=True)
    finally:
        server.kill()
    assert time.monotonic() - started < 45  # for the weights, and for a server that may come back
    assert weights.num_passed == len(weights.metadata())  # other processes have had company until the end


def test_a_server_that_is_killed_is_an_error_in_time_and_one_that_is_restarted_is_noticed(
    server, policy, tiny_checkpoint
):
    from open_r1.inference.vllm_server import LostWeightsError

    engine, prompts = connect(server, tiny_checkpoint), encode_prompts(policy)
    generator = build_generator(engine, policy)
    move(policy)
    engine.update_weights(PolicyWeights(policy.model), has_vision=True)
    threading.Timer(1.0, server.kill).start()
    impatient(engine, 5.0)
    started = time.monotonic()
    with pytest.raises(EngineError, match="fails for 5 s"):
        generate_for_ever(generator, prompts)
    assert time.monotonic() - started < 30
    impatient(engine, 600.0)
    threading.Thread(target=server.start).start()
    with pytest.raises(LostWeightsError, match="restarted"):
        generator.generate(prompts, 1, GREEDY)
    assert engine.forgets_weights
    engine.update_weights(PolicyWeights(policy.model), has_vision=True)
    assert generator.generate(prompts, 1, GREEDY).token_ids == policy.generate(prompts, 1, GREEDY).token_ids


def impatient(engine, timeout_s: float) -> None:
    """Sets an engine's patience; it must start with more on a busy machine."""
    engine.client.timeout_s = timeout_s


def generate_for_ever(generator: VLLMGenerator, prompts: list[EncodedPrompt]) -> Completions:
    while True:
        generator.generate(prompts, 4, SamplingSettings(max_new_tokens=200))


def test_a_port_that_is_taken_is_an_error_at_once(server, policy, tiny_checkpoint):
    engine = connect(server, tiny_checkpoint)
    with socket.create_server(("", engine._group_port)):
        started = time.monotonic()
        with pytest.raises(EngineError, match=rf"no connection by port {engine._group_port} .*--vllm_group_port"):
            engine.update_weights(PolicyWeights(policy.model), has_vision=True)
        assert time.monotonic() - started < 30
    check_next_update(engine, policy)


def test_nobody_there_is_an_error_with_the_command_that_starts_a_server(tiny_checkpoint, tmp_path: Path):
    nobody = Server(tiny_checkpoint, tmp_path)
    started = time.monotonic()
    with pytest.raises(EngineError, match=rf"{nobody.address} fails for 2 s.*open_r1.vllm_serve --model"):
        connect(nobody, tiny_checkpoint, timeout_s=2.0)
    assert time.monotonic() - started < 20
