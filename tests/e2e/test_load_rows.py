"""A million rows load within bounded memory and are mapped from disk afterwards."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


SCRIPT = Path(__file__).parents[2] / "benchmarks" / "load_rows.py"


def measure(output_dir: Path, num_rows: int) -> list[dict]:
    command = [sys.executable, str(SCRIPT), "--json", "--num_rows", str(num_rows), "--output_dir", str(output_dir)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert finished.returncode == 0, finished.stderr
    return [json.loads(line) for line in finished.stdout.splitlines()]


def test_the_benchmark_of_loading_rows_runs_at_its_smallest_size(tmp_path):
    first, second = measure(tmp_path, num_rows=1000)
    assert first["num_rows"] == second["num_rows"] == 1000
    assert min(first["seconds"], first["cpu_seconds"], first["peak_rss_gib"]) > 0


@pytest.mark.slow
def test_a_million_rows_take_less_than_one_and_a_half_gibibytes(tmp_path):
    first, second = measure(tmp_path, num_rows=1_000_000)
    sys.stdout.write(f"{first}\n{second}\n")
    assert first["num_rows"] == second["num_rows"] == 1_000_000
    assert max(first["peak_rss_gib"], second["peak_rss_gib"]) < 1.5
