"""Label files of every known layout become the same records; what could be read in two ways is refused."""

import math
from pathlib import Path

import pytest

from open_r1.data.cards import CARD_FOLDER, load_card
from open_r1.data.mos import MosRecord, load_labels, normalise_mos, normalise_records
from open_r1.data.schema import BadDataError


REAL_LABELS = Path(__file__).parents[3] / "shared" / "data"
needs_real_labels = pytest.mark.skipif(not REAL_LABELS.is_dir(), reason="the real label files are not at hand")

KADID_HEADER = "dist_img,ref_img,dmos,var"


def write(path, content):
    path.write_text(content, encoding="utf-8")
    return path


def rec(image, mos, reference=None, std=None, num=None):
    return MosRecord(image=image, mos=mos, reference=reference, mos_std=std, num_ratings=num)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a.png 3.5\nb.png 4\n", [rec("a.png", 3.5), rec("b.png", 4.0)]),
        ("3.5 a.bmp\n4 b.BMP\n", [rec("a.bmp", 3.5), rec("b.BMP", 4.0)]),
        ("a.png 3.5 .7\nb.png 4 .5\n", [rec("a.png", 3.5, std=0.7), rec("b.png", 4.0, std=0.5)]),
        ("r.png a.png 3\nr.png b.png 4\n", [rec("a.png", 3.0, "r.png"), rec("b.png", 4.0, "r.png")]),
        ("a.png r.png 3\nb.png r.png 4\n", [rec("a.png", 3.0, "r.png"), rec("b.png", 4.0, "r.png")]),
        ("r.png a.png 3 1\nr.png b.png 4 2", [rec("a.png", 3.0, "r.png", 1.0), rec("b.png", 4.0, "r.png", 2.0)]),
        ("I01_01_01.png, 4.57\nI01_01_02.png, 4.33\n", [rec("I01_01_01.png", 4.57), rec("I01_01_02.png", 4.33)]),
    ],
)
def test_layouts_that_leave_no_doubt_are_recognised(tmp_path, content, expected):
    assert load_labels(write(tmp_path / "labels.txt", content)) == expected


@pytest.mark.parametrize(
    "content",
    [
        "a.png b.png 3\nc.png d.png 4\n",  # which is the reference?
        "a.png r.png 3 .5\nb.png r.png 4 .6\n",  # a standard deviation, or KADID-10k's variance?
        "a.png 3 4 5\nb.png 3 4 5\n",
        "3 4\n5 6\n",
        "a b 3\nc d 4\n",  # names, or halves of names with spaces?
        "a.png b.png\nc.png d.png\n",
    ],
)
def test_layouts_that_leave_a_choice_are_refused_with_the_remedy(tmp_path, content):
    path = write(tmp_path / "labels.txt", content)
    with pytest.raises(ValueError, match=r"labels.txt.*name the columns in order"):
        load_labels(path)


def test_named_columns_settle_any_layout(tmp_path):
    path = write(tmp_path / "labels.txt", "a.png r.png 3 .25 7 x\nb.png s.png 4 .36 8 y\n")
    expected = [rec("a.png", 3.0, "r.png", 0.5, 7), rec("b.png", 4.0, "s.png", 0.6, 8)]
    assert load_labels(path, columns="dis ref mos var num -") == expected


def test_a_header_of_roles_settles_the_layout_too(tmp_path):
    content = 'dis ref mos std\n"my image.png" "a ""big"" cat, 4k" 3 .5\nb.png "a dog, 4k" 4 .6\n'
    expected = [rec("my image.png", 3.0, 'a "big" cat, 4k', 0.5), rec("b.png", 4.0, "a dog, 4k", 0.6)]
    path = write(tmp_path / "labels.txt", content)
    assert load_labels(path) == load_labels(path, card=load_card("AGIQA-3K")) == expected


def test_commas_in_quoted_names_do_not_separate(tmp_path):
    path = write(tmp_path / "labels.txt", '"a, b.png" 3\n"c, d.png" 4\n')
    assert load_labels(path) == [rec("a, b.png", 3.0), rec("c, d.png", 4.0)]


@pytest.mark.parametrize("columns", ["ref dis", "dis mos mos", "dis mos std var", "dis score", ""])
def test_impossible_columns_are_refused(tmp_path, columns):
    with pytest.raises(ValueError, match="column"):
        load_labels(write(tmp_path / "labels.txt", "a.png 3\n"), columns=columns)


def test_official_kadid_labels_hold_the_variance_and_higher_is_better(tmp_path):
    content = f"{KADID_HEADER}\nI01_01_01.png,I01.png,4.57,0.496\nI01_01_05.png,I01.png,1.1,0.3\n"
    path = write(tmp_path / "dmos.csv", content)
    for records in (load_labels(path), load_labels(path, card=load_card("KADID-10K"))):
        assert [record.mos for record in records] == [4.57, 1.1]
        assert records[0].reference == "I01.png"
        assert records[0].mos_std == pytest.approx(0.7042726744663603)  # as in the released text file


def test_an_unknown_header_is_refused(tmp_path):
    path = write(tmp_path / "labels.csv", "image,score\na.png,3\n")
    with pytest.raises(ValueError, match=r"labels.csv:1: the header 'image,score' is not known"):
        load_labels(path)
    with pytest.raises(ValueError, match="knows no layout of the header"):
        load_labels(path, card=load_card("KADID-10K"))
    assert load_labels(path, columns="dis mos") == [rec("a.png", 3.0)]


def test_a_card_refuses_files_of_a_name_it_does_not_know(tmp_path):
    with pytest.raises(ValueError, match="the card of BID knows no layout of files named 'labels.txt'"):
        load_labels(write(tmp_path / "labels.txt", "a.png 3\n"), card=load_card("BID"))


def test_every_bad_row_is_named_with_file_and_line(tmp_path):
    lines = ["a.png 3 1", "b.png n/a 1", "", "c.png 4", "d.png nan 1", "e.png 3 -1", "my f.png 3 1", "a.png 2 1"]
    lines += [f"g{number}.png 3 1" for number in range(10)]
    path = write(tmp_path / "labels.txt", "\n".join(lines))
    with pytest.raises(BadDataError) as caught:
        load_labels(path)
    found = [(bad.line, bad.reason) for bad in caught.value.bad_rows]
    assert [line for line, _ in found] == [2, 4, 5, 6, 7, 8]
    reasons = ["'n/a'", "2 columns", "finite", "negative", "double quotes", "line 1 already"]
    for (_, reason), expected in zip(found, reasons, strict=True):
        assert expected in reason
    assert f"{path}:2: " in str(caught.value)


def test_an_image_with_two_labels_is_refused(tmp_path):
    with pytest.raises(BadDataError, match=r"labels.txt:3: a.png is labelled in line 1 already"):
        load_labels(write(tmp_path / "labels.txt", "a.png 3\nb.png 3\na.png 4\n"))


def test_odd_spacing_line_ends_and_a_byte_order_mark_do_no_harm(tmp_path):
    (tmp_path / "labels.txt").write_bytes(b"\xef\xbb\xbf  a.png \t 3.5\r\n\r\nb.png\t4e0   ")
    assert load_labels(tmp_path / "labels.txt") == [rec("a.png", 3.5), rec("b.png", 4.0)]


def test_files_that_cannot_be_read_say_why(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9.png 3\n")
    write(tmp_path / "empty.txt", "\n")
    write(tmp_path / "header.txt", "dis mos\n")
    write(tmp_path / "quote.csv", 'dis,mos\n"a.png,3\n')
    expected = {
        "latin.txt": "not UTF-8", "empty.txt": "is empty", "header.txt": "below the header",
        "quote.csv": r"quote.csv:2: ", "missing.txt": "does not exist",
    }  # fmt: skip
    for name, reason in expected.items():
        with pytest.raises(ValueError, match=reason):
            load_labels(tmp_path / name)


def test_jsonl_rows_serve_as_labels_with_their_reference(tmp_path):
    turns = '"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": 3.5}]'
    path = write(tmp_path / "a.jsonl", f'{{"image": "a.png", "reference": "coffee", {turns}}}\n')
    assert load_labels(path) == [rec("a.png", 3.5, "coffee")]
    write(path, f'{{"image": ["a.png", "b.png"], {turns}}}\n{{"image": [], {turns}}}\n')
    with pytest.raises(BadDataError, match=r"(?s)a.jsonl:1: .*one image.*a.jsonl:2: no image"):
        load_labels(path)


def test_dmos_is_flipped_so_that_higher_is_better(tmp_path):
    content = "1600.AWGN.1.png 0.061989\n1600.AWGN.5.png 0.75\n"
    records = load_labels(write(tmp_path / "csiq_label.txt", content), card=load_card("CSIQ"))
    assert [record.mos for record in records] == pytest.approx([0.938011, 0.25])
    assert [record.reference for record in records] == ["1600", "1600"]
    records = load_labels(tmp_path / "csiq_label.txt", columns="dis mos", direction="dmos")
    assert normalise_mos([record.mos for record in records]) == [5.0, 1.0]


def test_labels_outside_the_range_of_the_card_are_refused(tmp_path):
    path = write(tmp_path / "KADID-10K_mos.txt", "I01.png I01_01_01.png 57 .7\nI01.png I01_01_02.png 4 .7\n")
    with pytest.raises(BadDataError, match=r"mos.txt:1: the MOS 57 lies outside 1 to 5"):
        load_labels(path, card=load_card("KADID-10K"))


def test_normalising_maps_the_range_to_1_to_5_and_the_deviation_with_it():
    # KADID-10k: labels from 1 to 4.93, so 4.57 becomes 3.57 / 3.93 * 4 + 1
    assert normalise_mos([1.0, 4.57, 4.93]) == [1.0, 4.633587786259543, 5.0]
    records = normalise_records([rec("a", 20.0, std=5.0), rec("b", 60.0, std=10.0), rec("c", 100.0)])
    assert [record.mos for record in records] == [1.0, 3.0, 5.0]
    assert [record.mos_std for record in records] == [0.25, 0.5, None]  # 4 / 80 of the raw ones
    with pytest.raises(ValueError, match="no range"):
        normalise_mos([3.0, 3.0])


@needs_real_labels
@pytest.mark.parametrize(
    ("file", "count", "low", "high", "has_reference", "has_std"),
    [
        ("BID_test_all.txt", 586, 0.0, 100.0, False, False),
        ("LIVEC_test_all.txt", 1169, 0.0, 100.0, False, True),
        ("KADID-10K/KADID-10K_mos.txt", 10125, 1.0, 4.93, True, True),
        ("KADID-10K/KADID-10K_test_set.txt", 2000, 1.0, 5.0, True, True),
    ],
)
def test_real_label_files_are_read_alike_by_inference_and_by_card(file, count, low, high, has_reference, has_std):
    path = REAL_LABELS / file
    records = load_labels(path)
    assert len(records) == count
    assert low <= min(record.mos for record in records) <= max(record.mos for record in records) <= high
    assert all((record.reference is not None) == has_reference for record in records)
    assert all((record.mos_std is not None) == has_std for record in records)
    card = load_card(path.name.split("_")[0])
    assert load_labels(path, card=card) == records


@needs_real_labels
def test_released_normalised_labels_are_what_normalising_the_raw_ones_gives():
    raw = load_labels(REAL_LABELS / "KADID-10K" / "KADID-10K_mos.txt")
    normalised = {record.image: record.mos for record in normalise_records(raw)}
    for split in ("train", "val", "test"):
        for record in load_labels(REAL_LABELS / "KADID-10K" / f"KADID-10K_{split}_set.txt"):
            assert math.isclose(normalised.pop(record.image), record.mos, rel_tol=1e-15)
    assert not normalised


@pytest.mark.parametrize("name", sorted(path.stem for path in CARD_FOLDER.glob("*.yaml")))
def test_every_card_loads_is_named_as_its_file_and_says_where_labels_come_from(name):
    card = load_card(name.lower())
    assert card.name == name
    assert card.source
    assert card.layouts


def test_columns_are_found_by_the_headers_names_wherever_they_stand(tmp_path):
    layout = "{columns: {dis: file, mos: score, skip: bad}, image: 'i/{dis:0>3}.png'}"
    card = write(tmp_path / "card.yaml", f"name: X\nsource: made up\nkind: nr\nlayouts: [{layout}]")
    content = "made by hand\nbad,score,note,file\n0,3.5,a,7\n1,9,b,8\n0,4,c,9\n"
    records = load_labels(write(tmp_path / "labels.csv", content), card=load_card(card))
    assert records == [rec("i/007.png", 3.5), rec("i/009.png", 4.0)]


def test_rows_of_another_length_than_the_header_are_refused(tmp_path):
    path = write(tmp_path / "dmos.csv", f"{KADID_HEADER}\nI01_01_01.png,I01.png,4.57\n")
    with pytest.raises(BadDataError, match=r"dmos.csv:2: 3 columns where 'dist_img ref_img dmos var' has 4"):
        load_labels(path)


@pytest.mark.parametrize(
    ("columns", "cells", "reason"),
    [("dis mos set", "a.png 3 public", "the set is 'public'"), ("dis mos type", "1 3 blur", "the image name is '1'")],
)
def test_cells_without_a_known_meaning_are_refused(tmp_path, columns, cells, reason):
    with pytest.raises(BadDataError, match=reason):
        load_labels(write(tmp_path / "labels.txt", cells), columns=columns)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("colour: red", "unknown key 'colour'"),
        ("kind: video", "fr or nr"),
        ("layouts: [{columns: dis score}]", "unknown column 'score'"),
        ("layouts: [{columns: dis mos, mos_range: [5, 1]}]", "rising"),
        ("layouts: [{columns: dis mos, direction: up}]", "direction"),
        ("layouts: [{columns: dis mos, header: 'a,b'}]", "header's names into columns"),
        ("layouts: [{columns: {dis: a, score: b}}]", "unknown column 'score'"),
        ("layouts: [{columns: dis mos, image: {blur: a}}]", "need a column type"),
        ("reference_pattern: I01", "one group"),
        ("notes: [", "card.yaml"),
    ],
)
def test_a_card_with_a_wrong_entry_is_refused_by_name(tmp_path, change, reason):
    entries = {"name": "name: X", "source": "source: made up", "kind": "kind: nr"}
    path = write(tmp_path / "card.yaml", "\n".join((entries | {change.split(":")[0]: change}).values()))
    with pytest.raises(ValueError, match=rf"(?s)card.yaml.*{reason}"):
        load_card(path)


def test_an_unknown_card_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no card of 'LIVE2'.*known: .*KADID-10K"):
        load_card("LIVE2")
