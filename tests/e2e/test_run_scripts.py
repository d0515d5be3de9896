"""Every run script as users start it: its own command line, on a tiny model and tiny data, through the environment."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import write_iqa_data

from open_r1 import vllm_serve


ROOT = Path(__file__).parents[2]
SCRIPTS = {path.stem: path for path in sorted((ROOT / "run_scripts").glob("*/*.sh")) if path.parent.name != "slurm"}
SERVER_SCRIPT = ROOT / "run_scripts" / "vllm_server.sh"
SLURM_SCRIPT = ROOT / "run_scripts" / "slurm" / "multi_run_kadid.sh"
IQA_SCRIPTS = [name for name in SCRIPTS if re.search("kadid|koniq|combined", name)]  # the others: test_tasks.py
# Later options win over the script's. DeepSpeed, an extra, has a slow test of its own.
ON_CPU = ["--use_cpu", "true", "--bf16", "false", "--dtype", "float32"]
WITHOUT_DEEPSPEED = ["--deepspeed", ""]

# Slurm for one machine: every node is a process. `scancel` sends its signal to the tasks, not to the batch script.
SLURM = {
    "scontrol": 'if [ "$1" = requeue ]; then echo "$2" >> "$STUBS/requeued"; else printf "127.0.0.1\\nother\\n"; fi',
    "srun": """
        while [[ "$1" == --* ]]; do shift; done
        for ((node = 0; node < SLURM_JOB_NUM_NODES; node++)); do
            SLURM_NODEID=$node "$@" &
            echo $! >> "$STUBS/tasks"
        done
        code=0
        for task in $(jobs -p); do wait "$task" || code=$?; done
        exit $code""",
    "scancel": 'kill "-${1#--signal=}" $(cat "$STUBS/tasks")',
}
# What stands for torchrun where only the shell is at issue: it tells how it was called and ends as it is told to.
TORCHRUN = """
    printf '%s\\n' "$@" > "$STUBS/arguments$4" # of --node_rank
    trap 'echo saved; exit 1' USR1 TERM
    echo started; echo grumbled >&2
    if [ -n "${FAKE_EXIT:-}" ]; then exit "$FAKE_EXIT"; fi
    touch "$STUBS/started$4"; for _ in {1..600}; do sleep 0.1; done
"""


def write_stubs(folder: Path, **stubs: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, body in stubs.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / name).chmod(0o755)


def find_needs(name: str) -> list[str]:
    """Variables that a script cannot do without."""
    needs = re.findall(r"\$\{(\w+):\?", SCRIPTS[name].read_text())
    return [
        "MODEL_PATH",
        *(variable for variable in needs if variable != "IMAGE_FOLDERS"),
    ]  # the mix builds it


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Tiny training sets under the names that `make_data.py` gives; images lie beside them."""
    root = tmp_path_factory.mktemp("data")
    for name in ("KADID-10K", "TID2013", "KONIQ-10K", "LIVEC"):
        (root / name).mkdir()
        path, _ = write_iqa_data(root / name, num_rows=6, name=f"RL-{name}_train_scoring.jsonl")
        path.write_text(path.read_text().replace("NOISE", name))
    return root


@pytest.fixture
def environment(data, tiny_checkpoint, tmp_path) -> dict[str, str]:
    """What users export, and commands that stand for Slurm's."""
    stubs = tmp_path / "stubs"
    write_stubs(stubs, **SLURM)
    inherited = {name: os.environ[name] for name in ("HOME", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    return inherited | {
        "PATH": os.pathsep.join([str(stubs), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "MODEL_PATH": tiny_checkpoint,
        "IMAGE_FOLDER": str(data / "KADID-10K"),
        "DATA_FILE": str(data / "KADID-10K" / "RL-KADID-10K_train_scoring.jsonl"),
        "DATA_ROOT": str(data),
        "VIDEO_FOLDER": str(data),
        "DATASET": str(data),
        "TASK_TYPE": "counting",
        "KADID_IMAGES": str(data / "KADID-10K"),
        "TID2013_IMAGES": str(data / "TID2013"),
        "KONIQ_IMAGES": str(data / "KONIQ-10K"),
        "LIVEC_IMAGES": str(data / "LIVEC"),
        "OUTPUT_DIR": str(tmp_path / "output"),
        "GPUS_PER_NODE": "1",
        "NNODES": "1",
        "NODE_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(find_free_port()),
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "nodes",
        "SLURM_JOB_ID": "7",
        "STUBS": str(stubs),
    }


def run(script: Path, environment: dict[str, str], *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(script), *options], capture_output=True, text=True, env=environment, cwd=ROOT, timeout=600
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


# ---- the command lines ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", sorted(set(IQA_SCRIPTS) - {"one_node_run_kadid", "multi_run_kadid"})
)  # those run below
def test_the_dry_run_of_a_script_tells_its_plan(name, environment):
    result = run(SCRIPTS[name], environment, *ON_CPU, *WITHOUT_DEEPSPEED, "--dry_run")
    assert result.returncode == 0, result.stdout[-3000:]
    plan = dict(line.split(maxsplit=1) for line in result.stdout.splitlines() if len(line.split()) > 1)
    assert plan["step"] == "8 prompts, 48 completions"
    # 6 rows fit one step; of four data sets each fills one by itself.
    assert plan["run"] == ("40 steps" if "combined" in name else "10 steps")
    assert plan["rewards"] == "fidelity_reward, format_reward"
    assert ("LoRA of rank 64" in plan["model"]) == ("lora" in name)
    generation = {"colocate": "vLLM on the same devices", "server": "vLLM at http://127.0.0.1:8000"}
    assert plan["generation"].startswith(generation.get(name.rpartition("_")[2], "the policy itself"))
    assert plan["rows"].count("6 of ") == (4 if "combined" in name else 1)
    assert "steps" in (Path(environment["OUTPUT_DIR"]) / "node0.log").read_text()
    assert not list(Path(environment["OUTPUT_DIR"]).glob("*.json*"))


def test_two_nodes_of_a_slurm_job_train_together(environment):
    """sbatch -> multi_run_kadid.sh -> one_node_run_kadid.sh, for real: rendezvous, one step, whole checkpoint."""
    environment["MASTER_PORT"] = str(find_free_port())
    few = ["--num_train_epochs", "1", "--max_completion_length", "8", "--save_strategy", "epoch"]
    result = run(SLURM_SCRIPT, environment, *ON_CPU, *WITHOUT_DEEPSPEED, *few)
    assert result.returncode == 0, result.stdout[-3000:]
    output_dir = Path(environment["OUTPUT_DIR"])
    assert sorted(path.name for path in (output_dir / "rollouts").glob("*.jsonl")) == ["rank0.jsonl", "rank1.jsonl"]
    assert (output_dir / "node0.log").is_file() and (output_dir / "node1.log").is_file()
    assert (output_dir / "checkpoint-1" / "optimizer.pt").is_file()  # a job that is queued again goes on from it
    training = json.loads((output_dir / "run.json").read_text())["config"]["training"]
    assert training["per_device_train_batch_size"] == 48 and training["resume_from_checkpoint"] == "auto"
    assert not (output_dir / "debug.txt").exists()
    assert not (Path(environment["STUBS"]) / "requeued").exists()


@pytest.mark.slow
def test_a_script_trains_with_its_deepspeed_settings(environment):
    pytest.importorskip("deepspeed")
    environment["GPUS_PER_NODE"] = "2"
    few = ["--max_steps", "1", "--max_completion_length", "8"]
    result = run(SCRIPTS["one_node_run_kadid"], environment, *ON_CPU, *few)
    assert result.returncode == 0, result.stdout[-3000:]
    assert (Path(environment["OUTPUT_DIR"]) / "model.safetensors").stat().st_size > 100_000  # gathered, not slices


# ---- what the shell does ----------------------------------------------------------------------------------------


@pytest.fixture
def stubbed(environment) -> dict[str, str]:
    """The environment with a torchrun that trains nothing."""
    write_stubs(Path(environment["STUBS"]), torchrun=TORCHRUN)
    return environment


def read_arguments(environment: dict[str, str], node: int = 0) -> list[str]:
    return (Path(environment["STUBS"]) / f"arguments{node}").read_text().splitlines()


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_ends_as_torchrun_ends_and_keeps_what_it_said(name, stubbed):
    result = run(SCRIPTS[name], stubbed | {"FAKE_EXIT": "7"}, "--output_dir", "a folder")
    assert result.returncode == 7
    assert sorted(result.stdout.split()) == ["grumbled", "started"]
    assert sorted((Path(stubbed["OUTPUT_DIR"]) / "node0.log").read_text().split()) == ["grumbled", "started"]
    assert read_arguments(stubbed)[-2:] == ["--output_dir", "a folder"]  # the user's options come last, unbroken


@pytest.mark.parametrize("name", SCRIPTS)
def test_full_fine_tuning_is_spread_over_gpus_with_settings_that_are_there(name, stubbed):
    run(SCRIPTS[name], stubbed | {"FAKE_EXIT": "0"})
    arguments = read_arguments(stubbed)
    last = len(arguments) - arguments[::-1].index("--deepspeed")
    assert Path(arguments[last]).is_file()
    trains_a_part = "lora" in name or "vivqa" in name
    assert Path(arguments[last]).name == ("zero2.json" if trains_a_part else "zero3.json")


def test_eight_processes_on_one_node_unless_told_otherwise(stubbed):
    for name in ("GPUS_PER_NODE", "NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
        del stubbed[name]
    # What some clusters export, counting nodes, is none of the scripts' variables.
    stubbed |= {"FAKE_EXIT": "0", "WORLD_SIZE": "4", "RANK": "3"}
    run(SCRIPTS["one_node_run_kadid"], stubbed)
    arguments = read_arguments(stubbed)
    launcher = dict(zip(arguments[:14:2], arguments[1:14:2]))
    assert (launcher["--nnodes"], launcher["--node_rank"], launcher["--nproc_per_node"]) == ("1", "0", "8")
    assert launcher["--master_addr"] == "127.0.0.1"


@pytest.mark.parametrize("name, variable", [(name, variable) for name in SCRIPTS for variable in find_needs(name)])
def test_a_path_or_number_that_is_not_set_is_asked_for(name, variable, stubbed):
    del stubbed[variable]
    result = run(SCRIPTS[name], stubbed | {"FAKE_EXIT": "0"})
    assert result.returncode != 0
    assert f"{variable}: set it to" in result.stderr


def test_the_server_and_the_run_that_asks_it_share_out_the_gpus_of_a_node(stubbed):
    write_stubs(Path(stubbed["STUBS"]), python='printf "%s\\n" "$CUDA_VISIBLE_DEVICES" "$@" > "$STUBS/server"')
    write_stubs(Path(stubbed["STUBS"]), torchrun='printf "%s\\n" "$CUDA_VISIBLE_DEVICES" "$@" > "$STUBS/training"')
    stubbed |= {"SERVER_PORT": "8123"}
    del stubbed["GPUS_PER_NODE"]
    assert run(SERVER_SCRIPT, stubbed, "--max_model_len", "2048").returncode == 0
    assert run(SCRIPTS["one_node_run_kadid_vllm_server"], stubbed).returncode == 0
    gpus, *command = (Path(stubbed["STUBS"]) / "server").read_text().splitlines()
    server = vllm_serve.build_parser().parse_args(command[2:])
    assert (gpus, command[:2]) == ("7", ["-m", "open_r1.vllm_serve"])
    assert (server.model, server.port, server.tensor_parallel_size) == (stubbed["MODEL_PATH"], 8123, 1)
    assert (server.host, server.max_model_len) == ("127.0.0.1", 2048)
    gpus, *arguments = (Path(stubbed["STUBS"]) / "training").read_text().splitlines()
    assert gpus == "0,1,2,3,4,5,6" and arguments[arguments.index("--nproc_per_node") + 1] == "7"
    assert arguments[arguments.index("--vllm_server_port") + 1] == "8123"


def test_a_server_on_several_gpus_shares_the_model_among_them(stubbed):
    write_stubs(Path(stubbed["STUBS"]), python='printf "%s\\n" "$CUDA_VISIBLE_DEVICES" "$@" > "$STUBS/server"')
    assert run(SERVER_SCRIPT, stubbed | {"SERVER_GPUS": "4,5,6,7"}).returncode == 0
    gpus, *command = (Path(stubbed["STUBS"]) / "server").read_text().splitlines()
    assert gpus == "4,5,6,7"
    assert vllm_serve.build_parser().parse_args(command[2:]).tensor_parallel_size == 4


@pytest.mark.parametrize("variable", ["RUN_NAME", "EXP_NAME"])
def test_a_run_name_with_a_slash_is_refused(variable, stubbed):
    for name in ("one_node_run_kadid", "one_node_run_kadid_lora"):
        result = run(SCRIPTS[name], stubbed | {"FAKE_EXIT": "0", variable: "a/b"})
        assert result.returncode == 2 and "a/b" in result.stderr


def test_the_name_of_a_run_is_its_folder(stubbed, tmp_path):
    del stubbed["OUTPUT_DIR"]
    script = str(SCRIPTS["one_node_run_koniq"])
    subprocess.run(["bash", script], env=stubbed | {"FAKE_EXIT": "0", "RUN_NAME": "seven"}, cwd=tmp_path, timeout=60)
    assert (tmp_path / "output" / "seven" / "node0.log").is_file()
    assert "output/seven" in read_arguments(stubbed)


def test_a_signal_to_everything_leaves_time_to_save_and_the_log_whole(stubbed):
    command = ["bash", str(SCRIPTS["one_node_run_kadid"])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=stubbed, start_new_session=True)
    wait_for((Path(stubbed["STUBS"]) / "started0").exists, process)
    os.killpg(process.pid, signal.SIGTERM)
    assert "saved" in process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert (Path(stubbed["OUTPUT_DIR"]) / "node0.log").read_text().endswith("saved\n")


def test_a_slurm_job_whose_time_is_up_saves_and_is_queued_again(stubbed):
    stubs = Path(stubbed["STUBS"])
    process = subprocess.Popen(
        ["bash", str(SLURM_SCRIPT)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=stubbed, cwd=ROOT
    )
    wait_for(lambda: all((stubs / f"started{node}").exists() for node in (0, 1)), process)
    process.send_signal(signal.SIGUSR1)  # as --signal=B:USR1 does: to the batch script alone
    output = process.communicate(timeout=60)[0]
    assert output.count("saved") == 2
    assert (stubs / "requeued").read_text() == "7\n"
    assert process.returncode != 0


def test_a_slurm_job_that_fails_is_not_queued_again(stubbed):
    result = run(SLURM_SCRIPT, stubbed | {"FAKE_EXIT": "9"})
    assert result.returncode == 9
    assert not (Path(stubbed["STUBS"]) / "requeued").exists()
    assert read_arguments(stubbed, 0)[3] == "0" and read_arguments(stubbed, 1)[3] == "1"  # --node_rank
