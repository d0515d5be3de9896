"""Stored tables are mapped, are the same as what is read, and are made anew where anything they depend on changed."""

import json
import logging
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from open_r1.completions import get_answer_contract
from open_r1.data.arrow_cache import ArrowCache
from open_r1.data.columns import build_features, read_column
from open_r1.data.jsonl import load_sources
from open_r1.data.reading import LoadOptions
from open_r1.data.schema import BadDataError, RowRules
from open_r1.data.sources import FileOptions, resolve_sources


def make_row(number, image):
    turns = [{"from": "human", "value": "Rate it."}, {"from": "gpt", "value": number}]
    return {"id": number, "image": image, "conversations": turns}


@pytest.fixture
def folder(tmp_path):
    """Four images and a file of eight rows that name them."""
    rng = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(rng.integers(0, 256, (30, 30, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    write(tmp_path, [make_row(number, f"{number % 4}.png") for number in range(8)])
    return tmp_path


def write(folder, rows):
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def load(folder, cache="cache", template="default", **options):
    return load_sources(
        resolve_sources(
            [str(folder / "rows.jsonl")], [str(folder)], FileOptions(dataset_name=options.pop("name", None))
        ),
        LoadOptions(
            contract=get_answer_contract(template),
            arrow_cache_dir=None if cache is None else str(folder / cache),
            **options,
        ),
    )


def list_files(folder, cache="cache"):
    return sorted(os.listdir(folder / cache))


def test_stored_rows_are_the_rows_that_are_read(folder):
    read, stored, mapped = load(folder, cache=None), load(folder), load(folder)
    assert read[:] == stored[:] == mapped[:]
    assert read.features == mapped.features == build_features()
    assert not read.cache_files
    assert [Path(file["filename"]).parent for file in mapped.cache_files] == [folder / "cache"]


def test_a_second_load_reads_the_table_alone(folder):
    load(folder)
    (arrow,) = (folder / "cache").glob("*.arrow")
    before = arrow.stat()
    assert len(load(folder)) == 8
    assert arrow.stat() == before
    assert len(list_files(folder)) == 2  # the table and its report


@pytest.mark.parametrize(
    "change",
    [
        {"template": "scoring"},
        {"name": "OTHER"},
        {"verify_images": "exists"},
        {"rules": RowRules(require_mos=True)},
        {"on_bad_data": "skip"},
    ],
)
def test_other_options_make_another_table(folder, change):
    load(folder)
    load(folder, **change)
    assert len(list_files(folder)) == 4


def test_other_contents_at_the_same_size_and_time_make_another_table(folder):
    load(folder)
    path = folder / "rows.jsonl"
    before = path.stat()
    path.write_text(path.read_text().replace("Rate it.", "Rate it?"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert set(load(folder)["problem"]) == {"Rate it?"}


def test_an_image_that_is_damaged_later_is_found(folder):
    load(folder)
    content = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(BadDataError, match="2.png: cannot be decoded") as caught:
        load(folder)
    assert [bad.line for bad in caught.value.bad_rows] == [3, 7]
    (folder / "2.png").unlink()
    with pytest.raises(BadDataError, match="no such file"):
        load(folder)
    assert len(load(folder, verify_images="none")) == 8


def test_rows_that_were_left_out_are_reported_again_and_come_back_when_they_are_whole(folder, caplog):
    image = (folder / "3.png").read_bytes()
    (folder / "3.png").unlink()
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert len(load(folder, on_bad_data="skip")) == 6
        assert "left out 2 of 8 rows" in caplog.text and "rows.jsonl:4: image" in caplog.text
    (folder / "3.png").write_bytes(image)
    assert len(load(folder, on_bad_data="skip")) == 8


def test_bad_rows_leave_nothing_behind(folder):
    write(folder, [make_row(1, "1.png"), {}])
    with pytest.raises(BadDataError):
        load(folder)
    assert list_files(folder) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"arrow": "gone.arrow", "num_rows": 8, "bad_rows": []}'])
def test_a_damaged_report_is_written_anew(folder, content):
    load(folder)
    (report,) = (folder / "cache").glob("*.json")
    report.write_text(content)
    assert len(load(folder)) == 8
    assert ArrowCache(folder / "cache").read(report.stem).num_rows == 8


def test_a_folder_that_cannot_be_written_is_named_with_the_option(folder):
    (folder / "file").write_text("")
    with pytest.raises(ValueError, match=r"--arrow_cache_dir .*file/cache cannot be written"):
        load(folder, cache="file/cache")


def load_and_count(folder, results):
    results.put(sorted(load(folder)["id"]))


def test_processes_that_load_at_once_get_the_same_rows_and_leave_one_table(folder):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=load_and_count, args=(folder, results)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert found == [[str(number) for number in range(8)]] * 3
    assert len(list_files(folder)) == 2


def test_columns_are_read_in_order_also_of_chosen_rows(folder):
    dataset = load(folder)
    assert list(read_column(dataset, "id")) == dataset["id"][:]
    assert list(read_column(dataset.select([5, 0, 5]), "image_path")) == [
        [str(folder / "1.png")], [str(folder / "0.png")], [str(folder / "1.png")]
    ]  # fmt: skip
