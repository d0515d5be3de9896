"""The report page in a browser: drawn, filtered and paged by clicks and keys, silent, and without a connection."""

import json
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator

import pytest
from report_runs import EVIL, build_record, write_run


FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync"


@pytest.fixture(scope="module")
def browser() -> Iterator:
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=executable, args=[*FLAGS.split(), "--disable-component-update"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser) -> Iterator:
    """A page that must end without an error in the console and without a request to anywhere else."""
    page = browser.new_page()
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    yield page
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:", "http://127.0.0.1:"))] == []
    page.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    records = [build_record(step, [f"<think>t{step}</think><answer>{step}</answer>", "plain"]) for step in range(120)]
    records[7]["completions"] = [EVIL, "other"]
    records[9]["rewards"]["fidelity_reward"] = [0.0, 9.0]
    return write_run(tmp_path_factory.mktemp("report") / "run", records)


def write_page(run, output) -> str:
    command = [sys.executable, "-m", "open_r1.report", str(run), "--output", str(output)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return f"file://{output}"


def open_page(page, address: str) -> None:
    page.goto(address)
    page.wait_for_selector("html[data-ready=all]", state="attached", timeout=60_000)


def test_every_panel_is_drawn(run, page, tmp_path):
    open_page(page, write_page(run, tmp_path / "page.html"))
    assert page.locator(".chart").count() == 2  # reward and loss
    assert page.locator(".chart .main-svg").count() >= 2
    assert page.locator("#facts .run").inner_text().startswith("run")
    assert page.locator("#settings tr").count() > 2


def test_a_real_run_is_drawn_with_its_pictures(tiny_checkpoint, iqa_data, page, tmp_path):
    from open_r1.grpo_jsonl import main

    data, folder = iqa_data
    main(
        [
            *("--model_name_or_path", tiny_checkpoint, "--data_file_paths", str(data), "--image_folders", str(folder)),
            *("--num_generations", "2", "--per_device_train_batch_size", "4", "--max_completion_length", "6"),
            *("--max_steps", "2", "--logging_steps", "1", "--use_cpu", "true", "--report_to", "none", "--seed", "1"),
            *("--output_dir", str(tmp_path / "run"), "--save_strategy", "no", "--disable_tqdm", "true"),
        ]
    )
    open_page(page, write_page(tmp_path / "run", tmp_path / "page.html"))
    titles = set(page.locator(".chart h3").all_inner_texts())
    assert {"Reward", "Reward parts", "Loss", "Clipped ratios", "Completion length", "Time of each stage"} <= titles
    assert page.inner_text("#page") == "page 1 of 1, 4 groups"
    assert page.locator("#group .card").count() == 2
    assert page.locator("#group .pictures img").evaluate("image => image.naturalWidth") == 56


def test_rollouts_are_paged_sorted_and_searched(run, page, tmp_path):
    open_page(page, write_page(run, tmp_path / "page.html"))
    assert page.inner_text("#page") == "page 1 of 3, 120 groups"
    page.click("#next")
    assert "step 50," in page.inner_text("#group h3")
    page.select_option("#sort", "spread")
    assert "step 9," in page.inner_text("#group h3")
    assert page.locator(".card.best").inner_text().startswith("reward 9")
    page.select_option("#sort", "step")
    page.fill("#search", "T117")
    assert page.inner_text("#page") == "page 1 of 1, 1 groups"
    assert page.inner_text("mark") == "t117"
    page.fill("#search", "")
    page.fill("#from", "30")
    page.fill("#to", "34")
    assert page.inner_text("#page") == "page 1 of 1, 5 groups"


def test_keys_go_through_groups_and_pages(run, page, tmp_path):
    open_page(page, write_page(run, tmp_path / "page.html"))
    for key, step in (("j", 1), ("j", 2), ("k", 1), ("n", 50), ("p", 0)):
        page.keyboard.press(key)
        assert f"step {step}," in page.inner_text("#group h3")
    page.keyboard.press("/")
    page.keyboard.type("t3")
    assert page.input_value("#search") == "t3"  # typed, not taken for a command


def test_markup_in_a_completion_is_shown_as_text(run, page, tmp_path):
    open_page(page, write_page(run, tmp_path / "page.html"))
    page.on("dialog", lambda dialog: pytest.fail("a completion was executed"))
    page.fill("#search", "alert(1)")
    assert "</script><script>alert(1)</script>" in page.locator(".card pre").first.inner_text()
    assert page.locator("#group script").count() == 0


def test_the_page_can_be_dark(run, page, tmp_path):
    open_page(page, write_page(run, tmp_path / "page.html"))
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(23, 23, 22)"


def test_a_watched_page_follows_the_run(run, page):
    command = [sys.executable, "-m", "open_r1.report", str(run), "--watch", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    killer = threading.Timer(120, server.kill)
    killer.start()
    try:
        address = server.stdout.readline().strip()
        open_page(page, address)
        version = urllib.request.urlopen(f"{address}version").read()
        with (run / "rollouts" / "rank0.jsonl").open("a") as file:
            file.write(json.dumps(build_record(500, ["late", "later"])) + "\n")
        assert urllib.request.urlopen(f"{address}version").read() != version
        page.get_by_text("121 groups").wait_for(timeout=30_000)
    finally:
        killer.cancel()
        server.kill()
        server.wait()
