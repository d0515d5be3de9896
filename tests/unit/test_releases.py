"""Official releases, imitated in miniature: their own label files and folders, read by name of the data set alone.

Each builder writes a release as it is unpacked and returns what its labels mean, by hand: image as named from the
root, label of the file, reference, and deviation in the units of the label.
"""

import csv
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from scipy.io import savemat

from open_r1.data.cards import load_card
from open_r1.data.mos import load_labels
from open_r1.data.splits import SPLITS, read_manifest
from open_r1.utils.evaluation import load_test_labels


REPO = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("make_data", REPO / "datasets" / "make_data.py")
make_data = importlib.util.module_from_spec(spec)
sys.modules["make_data"] = make_data  # its data classes look themselves up there
spec.loader.exec_module(make_data)


def write_csv(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header.split(","), *rows])


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write_cells(path, name, values, is_column):
    cells = np.empty((len(values), 1) if is_column else (1, len(values)), dtype=object)
    cells.flat[:] = values
    savemat(path, {name: cells})


def build_kadid(root):
    """The fourth column is the variance, and dmos is higher-is-better in spite of its name."""
    rows = [("I01_01_01.png", "I01.png", 4.57, 0.496), ("I01_01_05.png", "I01.png", 1.1, 0.09)]
    rows += [("I02_01_01.png", "I02.png", 3.0, 0.25)]
    write_csv(root / "kadid10k" / "dmos.csv", "dist_img,ref_img,dmos,var", rows)
    images = [f"kadid10k/images/{row[0]}" for row in rows]
    touch(root, *images, "kadid10k/images/I01.png")
    return {
        images[0]: (4.57, "I01.png", 0.7042726744663603),
        images[1]: (1.1, "I01.png", 0.3),
        images[2]: (3.0, "I02.png", 0.5),
    }


def build_tid(root):
    """MOS first, no header; the labels' names and those of the files differ in case."""
    lines = ["5.51429 I01_01_1.bmp", "2.5 i01_01_2.bmp", "0.5 I25_24_5.bmp", "6.25 i25_24_4.bmp"]
    root.mkdir(exist_ok=True)
    (root / "mos_with_names.txt").write_text("\r\n".join(lines) + "\r\n")
    (root / "mos_std.txt").write_text("0.1\n" * 4)
    touch(root, *(f"distorted_images/i{name}.bmp" for name in ("01_01_1", "01_01_2", "25_24_5", "25_24_4")))
    touch(root, "reference_images/I01.BMP", "reference_images/i25.bmp")
    return {
        "distorted_images/i01_01_1.bmp": (5.51429, "I01", None),
        "distorted_images/i01_01_2.bmp": (2.5, "i01", None),
        "distorted_images/i25_24_5.bmp": (0.5, "I25", None),
        "distorted_images/i25_24_4.bmp": (6.25, "i25", None),
    }


KONIQ = [("1.jpg", 3.8, 0.5, 77.4), ("2.jpg", 1.25, 0.4, 8.0), ("3.jpg", 4.25, 0.75, 84.1), ("4.jpg", 3.0, 0.6, 62.5)]


def build_koniq(root):
    """The website's file: counts, MOS and SD on 1 to 5; a z-score that is not the label."""
    header = "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,MOS_zscore"
    rows = [(name, 0, 0, 25, 73, 7, 105, mos, std, score) for name, mos, std, score in KONIQ]
    write_csv(root / "koniq10k_scores_and_distributions" / "koniq10k_scores_and_distributions.csv", header, rows)
    touch(root, *(f"{folder}/{row[0]}" for row in KONIQ for folder in ("512x384", "1024x768")))
    return {f"1024x768/{name}": (mos, None, std) for name, mos, std, _ in KONIQ}


def build_koniq_sets(root):
    """The repository's file: shares, MOS on 0 to 100 but SD on 1 to 5, and the official split."""
    header = "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,set"
    sets = ["training", "validation", "test", "training"]
    rows = [(name, 0, 0, 0.25, 0.7, 0.05, 105, score, std, part) for (name, _, std, score), part in zip(KONIQ, sets)]
    write_csv(root / "koniq10k_distributions_sets.csv", header, rows)
    touch(root, *(f"512x384/{row[0]}" for row in KONIQ))
    return {f"512x384/{name}": (score, None, None) for name, _, _, score in KONIQ}


def build_spaq(root):
    book = openpyxl.Workbook()
    book.active.append(["Image name", "MOS", "Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness"])
    book.active.append(["00001.jpg", 36.25, 50.0, 50.0, 50.0, 50.0, 50.0])
    book.active.append(["00002.jpg", 71, 50.0, 50.0, 50.0, 50.0, 50.0])
    (root / "Annotations").mkdir(parents=True)
    book.save(root / "Annotations" / "MOS and Image attribute scores.xlsx")
    touch(root, "Annotations/EXIF_tags.xlsx", "TestImage/00001.jpg", "TestImage/00002.jpg")
    return {"TestImage/00001.jpg": (36.25, None, None), "TestImage/00002.jpg": (71.0, None, None)}


def build_challenge(root):
    """A cell array in a column, numbers in rows; the first seven images trained the raters."""
    names = [f"t{number}.bmp" for number in range(1, 8)] + ["3.bmp", "4.bmp", "1024.JPG"]
    mos, std = [90.0] * 7 + [63.5, 31.25, 80.0], [1.0] * 7 + [18.5, 20.0, 10.0]
    data = root / "ChallengeDB_release" / "Data"
    data.mkdir(parents=True)
    write_cells(data / "AllImages_release.mat", "AllImages_release", names, is_column=True)
    savemat(data / "AllMOS_release.mat", {"AllMOS_release": np.array([mos])})
    savemat(data / "AllStdDev_release.mat", {"AllStdDev_release": np.array([std])})
    images = "ChallengeDB_release/Images"
    touch(
        root, *(f"{images}/trainingImages/{name}" for name in names[:7]), *(f"{images}/{name}" for name in names[7:])
    )
    return {
        f"{images}/3.bmp": (63.5, None, 18.5),
        f"{images}/4.bmp": (31.25, None, 20.0),
        f"{images}/1024.JPG": (80.0, None, 10.0),
    }


def build_bid(root):
    """A true .xls, with numbers where others have names; 23 columns, most of them grades of single raters."""
    mos = {1: 2.5, 2: 0.0, 37: 4.0, 586: 1.25, 580: 5.0}
    images = {f"ImageDatabase/DatabaseImage{number:04d}.JPG": (value, None, None) for number, value in mos.items()}
    touch(root, *images)
    shutil.copy(REPO / "tests" / "files" / "DatabaseGrades.xls", root)
    return images


CSIQ = [
    ("noise", 1, 0.0625, "awgn/1600.AWGN.1.png"),
    ("blur", 2, 0.25, "blur/1600.BLUR.2.png"),
    ("contrast", 3, 0.375, "contrast/1600.contrast.3.png"),
    ("fnoise", 4, 0.5, "fnoise/1600.fnoise.4.png"),
    ("jpeg", 5, 0.75, "jpeg/1600.JPEG.5.png"),
    ("jpeg 2000", 1, 1.0, "jpeg2000/1600.jpeg2000.1.png"),
]


def build_csiq(root):
    """DMOS. Several sheets; the table begins in the fourth row of a sheet that is not the first, right of notes."""
    header = ["image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos"]
    book = openpyxl.Workbook()
    book.active.title = "all_by_distortion"
    book.active.append(header)
    book.active.append([1600, 1, "noise", 1, 0.1, 0.99])
    sheet = book.create_sheet("all_by_image")
    sheet["A1"] = "CSIQ, by image"
    entries = [(1600, *entry) for entry in CSIQ] + [("family", "noise", 1, 0.125, "awgn/family.AWGN.1.png")]
    for row, cells in enumerate([header] + [[e[0], 1, e[1], e[2], 0.05, e[3]] for e in entries], start=4):
        for column, value in enumerate(cells, start=4):
            sheet.cell(row, column, value)
    root.mkdir(exist_ok=True)
    book.save(root / "csiq.DMOS.xlsx")
    images = {f"dst_imgs/{entry[-1]}": (entry[-2], str(entry[0]), 0.05) for entry in entries}
    touch(root, *images, "src_imgs/1600.png")
    return images


LIVE = {  # position among the 982 -> image, reference, DMOS
    0: ("jp2k/img1.bmp", "studentsculpture.bmp", 28.0),
    226: ("jp2k/img227.bmp", "rapids.bmp", -2.5),
    227: ("jpeg/img1.bmp", "rapids.bmp", 60.0),
    459: ("jpeg/img233.bmp", "bikes.bmp", 111.75),
    460: ("wn/img1.bmp", "bikes.bmp", 40.0),
    634: ("gblur/img1.bmp", "caps.bmp", 41.0),
    808: ("fastfading/img1.bmp", "caps.bmp", 42.0),
    981: ("fastfading/img174.bmp", "caps.bmp", 43.0),
}


def build_live(root):
    """DMOS in the order of the folders; most entries here are references (orgs 1)."""
    folder = root / "databaserelease2"
    folder.mkdir(parents=True)
    orgs, dmos, names = np.ones((1, 982)), np.zeros((1, 982)), ["bikes.bmp"] * 982
    for position, (image, reference, value) in LIVE.items():
        orgs[0, position], dmos[0, position], names[position] = 0, value, reference
        touch(folder, image)
    savemat(folder / "dmos.mat", {"dmos": dmos + 1, "orgs": orgs.astype("uint8")})
    savemat(folder / "dmos_realigned.mat", {"dmos_new": dmos, "dmos_std": dmos * 0 + 5, "orgs": orgs.astype("uint8")})
    write_cells(folder / "refnames_all.mat", "refnames_all", names, is_column=False)
    return {f"databaserelease2/{image}": (dmos, reference, 5.0) for image, reference, dmos in LIVE.values()}


def build_agiqa(root):
    """Prompts with commas and quotes; empty cells; the label is quality, not alignment."""
    header = "name,prompt,adj1,adj2,style,mos_quality,std_quality,mos_align,std_align"
    rows = [
        ("AttnGAN_normal_000.jpg", "statue of a man", "", "", "", 0.96, 0.22, 4.0, 0.6),
        ("sd1.5_normal_000.jpg", "statue of a man", "", "", "", 3.5, 0.5, 0.5, 0.6),
        ("AttnGAN_normal_060.jpg", 'a "big" cat, anime style', "", "", "anime style", 1.5, 0.75, 2.0, 0.8),
    ]
    write_csv(root / "data.csv", header, rows)
    touch(root, *(f"images/{row[0]}" for row in rows))
    return {f"images/{row[0]}": (row[5], row[1], row[6]) for row in rows}


def build_pipal(root):
    """One file for each reference, Elo ratings, images in several folders."""
    labels = root / "Train_Label"
    labels.mkdir(parents=True)
    (labels / "A0001.txt").write_text("A0001_00_00.bmp,1520.0648\nA0001_00_01.bmp,1400.5\n")
    (labels / "A0002.txt").write_text("A0002_00_00.bmp,1600.25\n")
    images = {
        "Distortion_1/A0001_00_00.bmp": (1520.0648, "A0001", None),
        "Distortion_2/A0001_00_01.bmp": (1400.5, "A0001", None),
        "Distortion_1/A0002_00_00.bmp": (1600.25, "A0002", None),
    }
    touch(root, *images, "Train_Ref/A0001.bmp")
    return images


FLIVE = [
    ("blur_dataset/motion0091.jpg", 0.0, "train"),
    ("voc_emotic_ava/AVA__129332.jpg", 58.5, "train"),
    ("voc_emotic_ava/JPEGImages__2007_001630.jpg", 69.5, "val"),
    ("voc_emotic_ava/EMOTIC__gys98nlu9hsyek632k.jpg", 67.75, "test"),
]


def build_flive(root):
    """Image labels in one file; the official split in two others, which hold patches too. A file may end in .JPG."""
    write_csv(root / "labels_image.csv", "name,mos", [entry[:2] for entry in FLIVE])
    wide = "mos_patch_1,name_patch,width_patch_1,mos_image,name_image,width_image,height_image"
    rows = [((90.0, "patches/x.jpg", 200, mos, name, 640, 640), part) for name, mos, part in FLIVE]
    write_csv(root / "labels640.csv", wide, [row for row, part in rows if part == "test"])
    valid = [(*row, part == "val") for row, part in rows if part != "test"]
    write_csv(root / "labels=640_padded.csv", f"{wide},is_valid", valid)
    names = [f"database/{name}" for name, _, _ in FLIVE]
    names[0] = names[0].replace(".jpg", ".JPG")
    touch(root, *names)
    return {name: (mos, None, None) for name, (_, mos, _) in zip(names, FLIVE, strict=True)}


UHD_HEADER = "image_name,quality_mos,set,subset,orig_width,orig_height,views,likes,favorites,downloads,comments"
UHD = [("11.jpg", 0.25, "training"), ("12.jpg", 0.75, "validation"), ("13.jpg", 0.5, "test")]


def build_uhd(root):
    header = f"{UHD_HEADER},image_bytes,user_name,page_url,image_name_orig"
    rest = ["", 5000, 4000, 1, 1, 1, 1, 1, 9, "somebody", "https://example.org", "a.jpg"]
    write_csv(root / "uhd-iqa-metadata.csv", header, [(*entry, *rest) for entry in UHD])
    images = {f"challenge/{part}/{name}": (mos, None, None) for name, mos, part in UHD}
    touch(root, *images)
    return images


BUILDERS = {
    "KADID-10K": build_kadid,
    "TID2013": build_tid,
    "KONIQ-10K": build_koniq,
    "SPAQ": build_spaq,
    "LIVEC": build_challenge,
    "BID": build_bid,
    "CSIQ": build_csiq,
    "LIVE": build_live,
    "AGIQA-3K": build_agiqa,
    "PIPAL": build_pipal,
    "FLIVE": build_flive,
    "UHD-IQA": build_uhd,
}
LOWER_IS_BETTER = ("CSIQ", "LIVE")
CASES = [*BUILDERS.items(), ("KONIQ-10K", build_koniq_sets)]


def run(tmp_path, *arguments):
    """Runs the command, and returns the folder that it writes into and the rows of one data set's parts."""
    out = tmp_path / "out"
    make_data.main([*map(str, arguments), "--output_dir", str(out)])
    return out


def read_rows(folder):
    rows = {}
    for split in SPLITS:
        path = folder / f"RL-{folder.name}_{split}_scoring.jsonl"
        rows[split] = list(map(json.loads, path.read_text(encoding="utf-8").splitlines())) if path.exists() else []
    return rows


ALL_IN_TRAIN = ("--ratios", 1, 0, 0)


@pytest.mark.parametrize(("name", "build"), CASES)
def test_a_release_is_found_read_and_its_images_are_named_from_the_root(tmp_path, name, build):
    expected = build(tmp_path / "root")
    out = run(tmp_path, "--dataset", name, "--root", tmp_path / "root", "--check_images", *ALL_IN_TRAIN)
    rows = {row["image"][0]: row for row in read_rows(out / name)["train"]}
    assert rows.keys() == expected.keys()
    raw = [mos for mos, _, _ in expected.values()]
    factor = 4 / (max(raw) - min(raw))
    for image, (mos, reference, std) in expected.items():
        row = rows[image]
        normalised = (max(raw) - mos if name in LOWER_IS_BETTER else mos - min(raw)) * factor + 1
        assert row["mos_raw"] == mos
        assert row["conversations"][1]["value"] == pytest.approx(normalised)
        assert row.get("reference") == reference
        assert row.get("mos_std") == (None if std is None else pytest.approx(std * factor))
        assert (tmp_path / "root" / image).is_file()
    manifest = read_manifest(out / name / "manifest.json")
    assert manifest.raw_range == [min(raw), max(raw)]
    assert manifest.direction == ("dmos" if name in LOWER_IS_BETTER else "mos")
    assert manifest.unit == ("reference" if reference is not None else "image")


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_evaluation_reads_the_same_label_file(tmp_path, name):
    expected = BUILDERS[name](tmp_path)
    card = load_card(name)
    (found, *_) = [path for pattern in card.labels for path in tmp_path.rglob(pattern)]
    labels = load_test_labels(found, dataset=name)
    if name == "PIPAL":  # a file for each reference
        expected = {image: label for image, label in expected.items() if label[1] == "A0001"}
    by_mos = sorted(expected.items(), key=lambda item: item[1][0], reverse=name in LOWER_IS_BETTER)
    ordered = sorted(labels, key=lambda label: label.mos)
    assert [Path(label.image).name.casefold() for label in ordered] == [Path(i).name.casefold() for i, _ in by_mos]
    assert [label.reference for label in ordered] == [label[1] for _, label in by_mos]


@pytest.mark.parametrize("name", ["CSIQ", "KADID-10K", "LIVE", "UHD-IQA"])
def test_official_headers_are_known_without_a_data_sets_name(tmp_path, name):
    BUILDERS[name](tmp_path)
    card = load_card(name)
    path = next(path for pattern in card.labels for path in tmp_path.rglob(pattern))
    inferred, by_card = load_labels(path), load_labels(path, card=card)
    assert [(label.image, label.mos) for label in inferred] == [(label.image, label.mos) for label in by_card]


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_no_card_reads_the_label_file_of_another(tmp_path, name):
    BUILDERS[name](tmp_path)
    path = next(path for pattern in load_card(name).labels for path in tmp_path.rglob(pattern))
    for other in BUILDERS.keys() - {name}:
        if {name, other} != {"LIVE", "LIVEC"}:
            with pytest.raises(ValueError, match="knows no layout of"):
                load_labels(path, card=load_card(other))


def test_tid_references_are_the_same_in_any_case(tmp_path):
    build_tid(tmp_path / "root")
    out = run(tmp_path, "--dataset", "TID2013", "--root", tmp_path / "root", "--ratios", 0.5, 0.5, 0)
    assert read_manifest(out / "TID2013" / "manifest.json").num_rows == {"train": 2, "val": 2, "test": 0}


def test_koniq_labels_of_the_website_are_split_by_the_sets_of_the_repository(tmp_path):
    root = tmp_path / "root"
    expected = build_koniq(root)
    build_koniq_sets(root)
    out = run(tmp_path, "--dataset", "KONIQ-10K", "--root", root, "--split", "official", "--check_images")
    rows = read_rows(out / "KONIQ-10K")
    names = {split: [row["image"][0] for row in rows[split]] for split in SPLITS}
    assert names == {
        "train": ["1024x768/1.jpg", "1024x768/4.jpg"],
        "val": ["1024x768/2.jpg"],
        "test": ["1024x768/3.jpg"],
    }
    assert [row["mos_raw"] for row in rows["train"]] == [expected[image][0] for image in names["train"]]
    manifest = read_manifest(out / "KONIQ-10K" / "manifest.json")
    assert (manifest.seed, manifest.ratios) == (None, None)


@pytest.mark.parametrize(("name", "entries"), [("FLIVE", FLIVE), ("UHD-IQA", UHD)])
def test_the_official_split_of_other_releases(tmp_path, name, entries):
    images = list(BUILDERS[name](tmp_path / "root"))
    out = run(tmp_path, "--dataset", name, "--root", tmp_path / "root", "--split", "official")
    rows = read_rows(out / name)
    for image, entry in zip(images, entries, strict=True):
        part = {"training": "train", "validation": "val"}.get(entry[2], entry[2])
        assert [row["image"][0] for row in rows[part]].count(image) == 1
    assert sum(map(len, rows.values())) == len(entries)


@pytest.mark.parametrize(
    ("name", "reason"), [("KONIQ-10K", "koniq10k_distributions_sets.csv"), ("SPAQ", "names no file")]
)
def test_an_official_split_that_is_not_at_hand_is_not_made_up(tmp_path, name, reason):
    BUILDERS[name](tmp_path / "root")
    with pytest.raises(ValueError, match=rf"{name}: \d images, the first is .*official split.*{reason}"):
        run(tmp_path, "--dataset", name, "--root", tmp_path / "root", "--split", "official")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", ["labels640.csv", "labels=640_padded.csv"])
def test_flive_files_with_patches_give_the_labels_of_the_image(tmp_path, file):
    build_flive(tmp_path)
    labels = load_labels(tmp_path / file, card=load_card("FLIVE"))
    wanted = [(name, mos, part) for name, mos, part in FLIVE if (part == "test") == (file == "labels640.csv")]
    assert [(label.image, label.mos, label.part) for label in labels] == wanted


def test_the_challenge_file_of_uhd_iqa_lacks_columns_and_parts(tmp_path):
    root = tmp_path / "root"
    rows = [(f"{number}.jpg", number / 4, "training", 1, 1, 1, 1, 1, 1, 1) for number in range(4)]
    write_csv(root / "uhd-iqa-training-metadata.csv", UHD_HEADER.replace("subset,", ""), rows)
    out = run(tmp_path, "--dataset", "UHD-IQA", "--root", root, "--split", "official")
    assert {split: len(rows) for split, rows in read_rows(out / "UHD-IQA").items()} == {
        "train": 4,
        "val": 0,
        "test": 0,
    }


def test_live_falls_back_on_the_labels_that_were_not_realigned(tmp_path):
    build_live(tmp_path)
    folder = tmp_path / "databaserelease2"
    (folder / "dmos_realigned.mat").unlink()
    labels = load_labels(folder / "dmos.mat", card=load_card("LIVE"))
    assert [(label.image, label.reference, label.mos_raw) for label in labels] == [
        (image, reference, dmos + 1) for image, reference, dmos in LIVE.values()
    ]
    assert labels[0].mos > labels[2].mos  # a DMOS of 29 is better than one of 61


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / "refnames_all.mat").unlink(), r"refnames_all.mat is missing"),
        (lambda folder: savemat(folder / "dmos.mat", {"dmos": [1.0, 2.0], "orgs": [0, 0]}), "differ in length"),
        (lambda folder: savemat(folder / "dmos.mat", {"orgs": [0, 0]}), "there is no variable dmos"),
        (lambda folder: (folder / "dmos.mat").write_text("not MATLAB"), "not a MATLAB file"),
        (lambda folder: (folder / "dmos.mat").write_bytes(b"MATLAB 5.0" + bytes(200)), "not a MATLAB file"),
    ],
)
def test_matlab_files_that_do_not_fit_are_refused_by_name(tmp_path, change, reason):
    build_live(tmp_path)
    folder = tmp_path / "databaserelease2"
    change(folder)
    with pytest.raises(ValueError, match=reason):
        load_labels(folder / "dmos.mat", card=load_card("LIVE"))


def test_unknown_matlab_files_and_broken_spreadsheets_are_refused(tmp_path):
    savemat(tmp_path / "mos.mat", {"mos": [1.0]})
    (tmp_path / "mos.xlsx").write_text("not a spreadsheet")
    with pytest.raises(ValueError, match=r"mos.mat: known MATLAB files are .*dmos.mat"):
        load_labels(tmp_path / "mos.mat")
    with pytest.raises(ValueError, match=r"mos.xlsx: not a spreadsheet"):
        load_labels(tmp_path / "mos.xlsx", columns="dis mos")


def test_a_spreadsheet_of_ones_own_is_read_by_named_columns(tmp_path):
    book = openpyxl.Workbook()
    for row in (["picture", "score"], ["a.png", 3], [None, None], ["b.png", 4.5]):
        book.active.append(row)
    book.save(tmp_path / "mine.xlsx")
    labels = load_labels(tmp_path / "mine.xlsx", columns="dis mos")
    assert [(label.image, label.mos) for label in labels] == [("a.png", 3.0), ("b.png", 4.5)]


def test_a_missing_spreadsheet_library_is_named_with_its_extra(tmp_path, monkeypatch):
    build_spaq(tmp_path / "root")
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    with pytest.raises(ImportError, match=r'pip install -e "\.\[labels\]"'):
        run(tmp_path, "--dataset", "SPAQ", "--root", tmp_path / "root")


def test_a_wrong_number_of_labels_is_warned_about_with_both_numbers(tmp_path, caplog):
    build_kadid(tmp_path / "root")
    run(tmp_path, "--dataset", "KADID-10K", "--root", tmp_path / "root", *ALL_IN_TRAIN)
    assert "3 labels, the card of KADID-10K has 10125" in caplog.text


def test_missing_images_are_counted_and_stop_the_command_on_request(tmp_path, caplog):
    root = tmp_path / "root"
    build_kadid(root)
    (root / "kadid10k" / "images" / "I01_01_05.png").unlink()
    arguments = ["--dataset", "KADID-10K", "--root", root, *ALL_IN_TRAIN]
    found = "1 of 3 images are missing below .*, the first is kadid10k/images/I01_01_05.png"
    with pytest.raises(ValueError, match=found):
        run(tmp_path, *arguments, "--check_images")
    assert not (tmp_path / "out").exists()
    rows = read_rows(run(tmp_path, *arguments) / "KADID-10K")["train"]
    assert [row["image"][0] for row in rows][1] == "kadid10k/images/I01_01_05.png"
    assert "1 of 3 images are missing" in caplog.text


def test_an_image_name_that_two_folders_have_is_not_guessed(tmp_path, caplog):
    root = tmp_path / "root"
    build_pipal(root)
    touch(root, "Distortion_3/A0001_00_00.bmp")
    rows = read_rows(run(tmp_path, "--dataset", "PIPAL", "--root", root, *ALL_IN_TRAIN) / "PIPAL")["train"]
    assert rows[0]["image"] == ["A0001_00_00.bmp"]
    assert "1 of 3 images are missing" in caplog.text


@pytest.mark.parametrize("below", ["", "unpacked", "unpacked/again"])
def test_a_release_may_lie_up_to_two_folders_below_the_root(tmp_path, below):
    root = tmp_path / "root"
    (root / below).mkdir(parents=True)
    build_agiqa(root / below)
    rows = read_rows(run(tmp_path, "--dataset", "AGIQA-3K", "--root", root, *ALL_IN_TRAIN) / "AGIQA-3K")["train"]
    assert all((root / row["image"][0]).is_file() for row in rows)


def test_a_root_without_the_release_says_what_was_looked_for(tmp_path):
    (tmp_path / "root").mkdir()
    with pytest.raises(ValueError, match=r"no label file of CSIQ .*csiq.DMOS.xlsx or .*--labels"):
        run(tmp_path, "--dataset", "CSIQ", "--root", tmp_path / "root")
    with pytest.raises(ValueError, match="there is no .*elsewhere"):
        run(tmp_path, "--dataset", "CSIQ", "--root", tmp_path / "elsewhere")


def test_two_copies_of_a_release_below_one_root_are_not_chosen_from(tmp_path):
    for name in ("a", "b"):
        write_csv(
            tmp_path / "root" / name / "dmos.csv", "dist_img,ref_img,dmos,var", [("I01_01_01.png", "I01.png", 3, 1)]
        )
    with pytest.raises(ValueError, match=r"which dmos.csv\? There are .*a/dmos.csv and .*b/dmos.csv"):
        run(tmp_path, "--dataset", "KADID-10K", "--root", tmp_path / "root")


def test_labels_of_elsewhere_go_with_the_images_of_a_root(tmp_path):
    build_csiq(tmp_path / "root")
    labels = tmp_path / "csiq_label.txt"
    labels.write_text("".join(f"{Path(image).name} {dmos}\n" for _, _, dmos, image in CSIQ))
    out = run(tmp_path, "--dataset", "CSIQ", "--labels", labels, "--root", tmp_path / "root", *ALL_IN_TRAIN)
    rows = read_rows(out / "CSIQ")["train"]
    assert [row["image"] for row in rows] == [[f"dst_imgs/{image}"] for _, _, _, image in CSIQ]


def test_the_split_does_not_depend_on_where_the_images_lie(tmp_path):
    parts = []
    for folder in ("plain", "elsewhere"):
        root = tmp_path / folder / "root"
        build_koniq(root)
        if folder == "elsewhere":
            shutil.rmtree(root / "1024x768")
        run(tmp_path / folder, "--dataset", "KONIQ-10K", "--root", root, "--ratios", 0.5, 0.25, 0.25)
        parts.append(read_manifest(tmp_path / folder / "out" / "KONIQ-10K" / "manifest.json").splits)
    assert parts[0] == parts[1]


@pytest.mark.parametrize("is_one_root", [True, False])
def test_several_data_sets_are_written_one_by_one_and_together(tmp_path, is_one_root):
    data = tmp_path / "data"
    build_kadid(data / "kadid")
    build_tid(data / "tid")
    roots = [data] if is_one_root else [data / "kadid", data / "tid"]
    out = run(
        tmp_path, "--dataset", "KADID-10K", "TID2013", "--root", *roots, "--ratios", 0.5, 0, 0.5, "--check_images"
    )
    assert sorted(path.name for path in out.iterdir()) == ["KADID-10K", "KADID-10K-TID2013", "TID2013"]
    combined, kadid, tid = (read_rows(out / name) for name in ("KADID-10K-TID2013", "KADID-10K", "TID2013"))
    for split in SPLITS:
        rows = combined[split]
        assert [row["id"] for row in rows] == list(range(1, len(rows) + 1))
        assert [row["dataset_name"] for row in rows] == ["KADID-10K"] * len(kadid[split]) + ["TID2013"] * len(
            tid[split]
        )
        assert all((data / row["image"][0]).is_file() for row in rows)
        values = [row["conversations"] for row in [*kadid[split], *tid[split]]]
        assert [row["conversations"] for row in rows] == values
    assert sum(map(len, combined.values())) == 7
    assert (out / "KADID-10K-TID2013" / "RL-KADID-10K-TID2013_train_scoring.jsonl").is_file()


@pytest.mark.parametrize("names", [("TID2013", "tid2013"), ("TID2013", "KADID-10K", "--combined_name", "TID2013")])
def test_data_sets_do_not_overwrite_each_other(tmp_path, names):
    with pytest.raises(ValueError, match="one folder only: TID2013"):
        run(tmp_path, "--root", tmp_path, "--dataset", *names)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--dataset", "KADID-10K", "TID2013", "--labels", "a.txt"],
        ["--dataset", "KADID-10K", "TID2013", "--root", "a", "b", "c"],
        ["--dataset", "KADID-10K", "TID2013", "--root", "a", "--manifest", "m.json"],
        ["--dataset", "KADID-10K", "TID2013", "--root", "a", "--combined_name", "../x"],
        ["--dataset", "KADID-10K", "--labels", "a.txt", "--check_images"],
        ["--dataset", "UHD-IQA", "--root", "a", "--split", "official", "--manifest", "m.json"],
        ["--columns", "dis mos", "--dataset_name", "X", "--labels", "a.txt", "--split", "official"],
        ["--columns", "dis mos", "--dataset_name", "X", "--root", "a"],
    ],
)
def test_arguments_that_do_not_go_together_are_refused(tmp_path, arguments):
    with pytest.raises(SystemExit) as caught:
        run(tmp_path, *arguments)
    assert caught.value.code == 2
