import csv
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from experiments.benchmarks.labels import BRODEN_ROWS, draw_broden
from tests.data.broden_tree import LABELS, write_image, write_mask, write_tables
from vitprobe_jax.data.broden import open_broden
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Concept


@pytest.fixture
def folder(tmp_path):
    """Two images: one with every oddity of the layout, one with nothing but a scene of 0."""
    for name in ("ade/a.jpg", "ade/b.jpg"):
        write_image(tmp_path / "images" / name)
    write_mask(tmp_path / "images/ade/a_object.png", np.full((4, 4), 7))
    write_mask(tmp_path / "images/ade/a_part_1.png", [[300, 300, 0, 0]] * 4)
    write_mask(tmp_path / "images/ade/a_part_2.png", [[7, 0, 0, 0]] * 4)
    write_tables(
        tmp_path,
        [
            "ade/a.jpg,train,8,8,4,4,,ade/a_object.png,ade/a_part_1.png;ade/a_part_2.png,,83,290;372",
            "ade/b.jpg,val,8,8,4,4,,,,,0,",
        ],
    )
    return tmp_path


def test_concepts_are_one_a_category_in_the_order_of_the_columns(folder):
    dataset = open_broden(folder, "broden:tiny")
    assert dataset.name == "broden:tiny"
    assert dataset.concepts == (
        Concept(1, "black-c", "color"),
        Concept(7, "door, wooden", "object"),
        Concept(12, "wood", "object"),
        Concept(7, "door, wooden", "part"),
        Concept(300, "window", "part"),
        Concept(12, "wood", "material"),
        Concept(83, "street", "scene"),
        Concept(290, "dotted", "texture"),
        Concept(372, "woven", "texture"),
    )
    assert "color" not in dataset.select(()).categories
    assert dataset.select(("color",)).categories == ("color",)
    assert not dataset.skip_corrupt


def primary(dataset, *categories):
    """The categories of labels 7 and 12 that are primary."""
    chosen = dataset.select(categories)
    concepts = [concept for concept, one in zip(chosen.concepts, chosen.primary_concepts(), strict=True) if one]
    assert len({concept.number for concept in concepts}) == len(concepts)
    return {concept.number: concept.category for concept in concepts if concept.number in (7, 12)}


def test_the_primary_category_of_a_label_covers_most(folder):
    """By image counts unless c_CATEGORY.csv says how much; `door` is in 2 images as an object, in 9 as a part."""
    dataset = open_broden(folder, "x")
    assert dataset.primary_concepts().sum() == len(dataset.concepts) - 2
    assert primary(dataset) == {7: "part", 12: "material"}
    assert primary(dataset, "object", "material") == {7: "object", 12: "material"}
    assert primary(dataset, "object") == {7: "object", 12: "object"}
    fingerprint = dataset.fingerprint
    # Few images, but large: what counts is the coverage.
    (folder / "c_object.csv").write_text("code,number,name,frequency,coverage\n1,7,door,2,3.5\n2,12,wood,3,0.25\n")
    (folder / "c_part.csv").write_text("code,number,name,frequency,coverage\n1,7,door,9,1.25\n")
    dataset = open_broden(folder, "x")
    # The table of materials is missing: wood is still measured by images in both of its categories.
    assert primary(dataset) == {7: "object", 12: "material"}
    (folder / "c_material.csv").write_text("code,number,name,frequency,coverage\n1,12,wood,36,0.125\n")
    dataset = open_broden(folder, "x")
    assert primary(dataset) == {7: "object", 12: "object"}
    # Features in a cache stay good.
    assert dataset.fingerprint == fingerprint


def test_of_equal_coverage_the_last_category_is_primary_as_in_netdissect(folder):
    """NetDissect takes the maximum of (coverage, place of the category)."""
    table = "code,number,name,frequency,coverage\n1,7,door,2,1.5\n"
    for category in ("object", "part"):
        (folder / f"c_{category}.csv").write_text(table)
    assert primary(open_broden(folder, "x"))[7] == "part"


def test_without_counts_the_first_category_of_label_csv_is_primary(folder):
    labels = LABELS.replace("object(2);part(9)", "part;object").replace("material(36);object(3)", "object;material(36)")
    (folder / "label.csv").write_text(labels)
    assert primary(open_broden(folder, "x")) == {7: "part", 12: "object"}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("code,number,name,frequency\n1,7,door,2\n", r"c_part.csv: has no column coverage"),
        ("number,coverage\n7,much\n", r"c_part.csv: line 2: number and coverage are numbers"),
    ],
)
def test_malformed_coverage_is_one_line(folder, table, message):
    (folder / "c_part.csv").write_text(table)
    with pytest.raises(InputError, match=message):
        open_broden(folder, "x")
    # Where no label has two categories, nothing asks for it.
    labels = LABELS.replace("object(2);part(9)", "object(2)").replace("material(36);object(3)", "material(36)")
    write_tables(folder, ["ade/b.jpg,val,8,8,4,4,,,,,0,"], labels=labels)
    dataset = open_broden(folder, "x")
    assert dataset.coverage == ()
    assert dataset.primary_concepts().all()


def test_annotation_reads_parts_two_textures_and_the_second_byte(folder):
    split = open_broden(folder, "broden:tiny").splits["train"]
    annotation = split.annotation(0)
    assert [category for category, _ in annotation.masks] == ["object", "part", "part"]
    np.testing.assert_array_equal(annotation.masks[1][1], [[300, 300, 0, 0]] * 4)
    np.testing.assert_array_equal(annotation.masks[2][1], [[7, 0, 0, 0]] * 4)
    assert annotation.labels == (("scene", 83), ("texture", 290), ("texture", 372))
    assert annotation.image_size == (8, 8)
    assert split.name(0) == "ade/a.jpg"
    assert split.image(0).mode == "RGB"


def test_zero_and_empty_cells_are_no_annotation(folder):
    annotation = open_broden(folder, "broden:tiny").splits["val"].annotation(0)
    assert annotation.masks == ()
    assert annotation.labels == ()


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_masks_may_carry_alpha_or_a_palette(folder, mode):
    split = open_broden(folder, "broden:tiny").splits["train"]
    path = folder / "images/ade/a_part_1.png"
    if mode == "RGBA":
        image = Image.open(path).convert("RGBA")
        image.putalpha(0)  # a transparent pixel keeps its label
    else:
        image = Image.open(path).quantize(colors=4)
    image.save(path)
    assert Image.open(path).mode == mode
    np.testing.assert_array_equal(split.annotation(0).masks[1][1], [[300, 300, 0, 0]] * 4)


def test_grey_mask_is_refused(folder):
    split = open_broden(folder, "broden:tiny").splits["train"]
    Image.fromarray(np.full((4, 4), 7, np.uint8)).save(folder / "images/ade/a_object.png")
    with pytest.raises(InputError, match=r"a_object.png: a mask is an RGB PNG .* this one is L"):
        split.annotation(0)


def test_mask_of_another_size_is_refused(folder):
    split = open_broden(folder, "broden:tiny").splits["train"]
    write_mask(folder / "images/ade/a_object.png", np.full((4, 5), 7))
    with pytest.raises(InputError, match=r"a_object.png: is 4 x 5, index.csv says sh x sw = 4 x 4"):
        split.annotation(0)


def test_label_unknown_in_the_category_of_the_mask_is_refused(folder):
    # 300 is a part, so label.csv knows it, but no object.
    split = open_broden(folder, "broden:tiny").splits["train"]
    write_mask(folder / "images/ade/a_object.png", [[300, 7, 0, 0]] * 4)
    with pytest.raises(InputError, match=r"a_object.png: holds label 300, which label.csv does not list for object"):
        split.annotation(0)


@pytest.mark.parametrize("name", ["a.jpg", "a_object.png"])
def test_truncated_file_is_named(folder, name):
    split = open_broden(folder, "broden:tiny").splits["train"]
    path = folder / "images/ade" / name
    write_image(path, 64, 64)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=rf"{name}: cannot be decoded"):
        split.image(0) if name == "a.jpg" else split.annotation(0)


def test_image_of_another_aspect_than_the_index_is_refused(folder):
    split = open_broden(folder, "broden:tiny").splits["train"]
    write_image(folder / "images/ade/a.jpg", 16, 16)
    assert split.image(0).size == (16, 16)
    write_image(folder / "images/ade/a.jpg", 16, 12)
    with pytest.raises(InputError, match=r"a.jpg: is 16 x 12, index.csv says ih x iw = 8 x 8"):
        split.image(0)


def test_absent_files_are_found_at_opening(folder):
    (folder / "images/ade/a_part_2.png").unlink()
    with pytest.raises(InputError, match=r"index.csv: 1 of its 5 files .* the first is ade/a_part_2.png"):
        open_broden(folder, "broden:tiny")
    for path in (folder / "images/ade").iterdir():
        path.unlink()
    (folder / "images/ade").rmdir()
    with pytest.raises(InputError, match=r"5 of its 5 files .* the first is ade/a.jpg"):
        open_broden(folder, "broden:tiny")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ade/a.jpg,test,8,8,4,4,,,,,83,", r"line 2 has the split 'test'; it is train or val"),
        ("ade/a.jpg,train,8,eight,4,4,,,,,83,", r"line 2: ih, iw, sh, sw are sizes in pixels"),
        ("ade/a.jpg,train,8,8,4,4,,,,,7,", r"line 2 has scene 7, which label.csv does not list"),
        ("ade/a.jpg,train,8,8", r"line 2 has 4 cells for 12 columns"),
        ("", r"lists no images"),
    ],
)
def test_malformed_index_is_one_line(folder, line, message):
    write_tables(folder, [line])
    with pytest.raises(InputError, match=message) as caught:
        open_broden(folder, "broden:tiny")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("number,name\n1,a\n", r"label.csv: has no column category"),
        ("number,name,category\nx,a,object\n", r"line 2 has the number 'x'"),
        ("number,name,category\n1,a,object\n1,b,object(2);part\n", r"line 3 lists 1 for object again"),
        ("number,name,category\n", r"lists no labels"),
    ],
)
def test_malformed_labels_are_one_line(folder, labels, message):
    write_tables(folder, [], labels=labels)
    with pytest.raises(InputError, match=message):
        open_broden(folder, "broden:tiny")


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(InputError, match=r"nowhere is not a folder"):
        open_broden(tmp_path / "nowhere", "x")
    with pytest.raises(InputError, match=r"is empty"):
        open_broden(tmp_path, "x")
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match=r"index.csv cannot be read"):
        open_broden(tmp_path, "x")


def test_fingerprint_follows_the_tables(folder):
    before = open_broden(folder, "x").fingerprint
    assert open_broden(folder, "another name").fingerprint == before
    (folder / "label.csv").write_text(LABELS.replace("woven", "knitted"))
    assert open_broden(folder, "x").fingerprint != before


@pytest.mark.parametrize("name", ["ade/a.jpg", "ade/b.jpg", "ade/a_object.png", "ade/a_part_2.png"])
def test_fingerprint_follows_every_named_file(folder, name):
    before = open_broden(folder, "x").fingerprint
    with open(folder / "images" / name, "ab") as file:
        file.write(b"\0")
    assert open_broden(folder, "x").fingerprint != before


def test_fingerprint_follows_neither_the_place_nor_other_files(folder, tmp_path_factory):
    before = open_broden(folder, "x").fingerprint
    moved = tmp_path_factory.mktemp("elsewhere") / "broden"
    shutil.copytree(folder, moved)
    (moved / "images/ade/unnamed.png").touch()
    (moved / "README.txt").write_text("mine")
    assert open_broden(moved, "x").fingerprint == before


def test_fingerprint_tells_apart_sizes_that_changed_places(folder):
    """The sizes go with the names: two files that swap theirs are another data set."""
    one, other = folder / "images/ade/a.jpg", folder / "images/ade/b.jpg"
    one.write_bytes(b"1")
    other.write_bytes(b"22")
    before = open_broden(folder, "x").fingerprint
    one.write_bytes(b"22")
    other.write_bytes(b"1")
    assert open_broden(folder, "x").fingerprint != before


def test_a_folder_in_a_file_s_place_is_absent(folder):
    (folder / "images/ade/a_part_2.png").unlink()
    (folder / "images/ade/a_part_2.png").mkdir()
    with pytest.raises(InputError, match=r"1 of its 5 files .* the first is ade/a_part_2.png"):
        open_broden(folder, "x")


def test_what_is_not_selected_is_not_read(folder):
    """An unreadable part ends a run that probes parts, and no other."""
    dataset = open_broden(folder, "x")
    (folder / "images/ade/a_part_1.png").write_bytes(b"no mask")
    with pytest.raises(InputError, match=r"a_part_1.png: cannot be decoded"):
        dataset.select(("object", "part")).splits["train"].annotation(0)
    annotation = dataset.select(("object", "texture")).splits["train"].annotation(0)
    assert [category for category, _ in annotation.masks] == ["object"]
    assert annotation.labels == (("texture", 290), ("texture", 372))
    assert annotation.image_size == (8, 8)
    # Selecting leaves the data set as it was.
    with pytest.raises(InputError, match=r"a_part_1.png: cannot be decoded"):
        dataset.splits["train"].annotation(0)


def test_splits_survive_pickling(folder):
    split = open_broden(folder, "x").splits["train"]
    copy = pickle.loads(pickle.dumps(split))
    assert copy.annotation(0).labels == split.annotation(0).labels


def test_true_index_excerpt(tmp_path, shared_data):
    """Every row of the true index, read independently; its files are stood in for by made ones."""
    text = (shared_data / "broden_index_excerpt.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    pixel, whole = ("color", "object", "part", "material"), ("scene", "texture")
    numbers = {c: {int(n) for row in rows for n in row[c].split(";") if n} - {0} for c in whole}
    lines = [f"{n},label {n},{category}(1),1,1," for category in whole for n in sorted(numbers[category])]
    (tmp_path / "label.csv").write_text("number,name,category,frequency,coverage,syns\n" + "\n".join(lines))
    (tmp_path / "index.csv").write_text(text)
    for row in rows:
        write_image(tmp_path / "images" / row["image"], 224, 224)
        for name in filter(None, (name for c in pixel for name in row[c].split(";"))):
            write_mask(tmp_path / "images" / name, np.zeros((112, 112), int))
    split = open_broden(tmp_path, "broden:excerpt").splits["train"]
    assert len(split) == len(rows)
    for i, row in enumerate(rows):
        annotation = split.annotation(i)
        assert split.name(i) == row["image"]
        assert [c for c, _ in annotation.masks] == [c for c in pixel for name in row[c].split(";") if name]
        assert annotation.labels == tuple((c, int(n)) for c in whole for n in row[c].split(";") if n not in ("", "0"))


def test_camvid_agrees_with_its_own_statistics(shared_data):
    """label.csv states in how many images each label occurs; counting them over all masks gives the same."""
    dataset = open_broden(shared_data / "camvid_broden", "broden:camvid_broden")
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 367, "val": 101}
    counts = dict.fromkeys(dataset.concepts, 0)
    by_key = {(concept.category, concept.number): concept for concept in dataset.concepts}
    for split in dataset.splits.values():
        for i in range(len(split)):
            annotation = split.annotation(i)
            carried = {(category, label) for category, mask in annotation.masks for label in np.unique(mask) if label}
            for key in carried | set(annotation.labels):
                counts[by_key[key]] += 1
    with open(shared_data / "camvid_broden/label.csv") as table:
        stated = {int(row["number"]): int(row["frequency"]) for row in csv.DictReader(table)}
    assert {concept.number: count for concept, count in counts.items()} == stated


def test_the_folder_that_the_bench_draws_has_all_that_broden_has(tmp_path):
    draw_broden(tmp_path / "broden", 60, 700, seed=0)
    dataset = open_broden(tmp_path / "broden", "broden:drawn")
    annotations = [split.annotation(i) for split in dataset.splits.values() for i in range(len(split))]
    assert len(annotations) == 60
    assert {len(split) for split in dataset.splits.values()} == {50, 10}
    kinds = [[category for category, _ in annotation.masks] for annotation in annotations]
    assert max(kind.count("part") for kind in kinds) == 3
    assert {category for kind in kinds for category in kind} == {"color", "object", "part", "material"}
    assert {mask.shape for annotation in annotations for _, mask in annotation.masks} == {(112, 112)}
    assert max(mask.max() for annotation in annotations for _, mask in annotation.masks) > 255
    labels = [[category for category, _ in annotation.labels] for annotation in annotations]
    assert {tuple(kind) for kind in labels} == {(), ("scene",), ("texture", "texture")}
    assert {dataset.splits["val"].image(i).size for i in range(10)} == {(224, 224)}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_the_whole_of_broden_opens_quickly_in_little_memory(tmp_path):
    """63,305 rows and some 250,000 files: less than 3 s, and less than 300 MB beyond the imports, in a fresh process."""
    draw_broden(tmp_path / "broden", BRODEN_ROWS, 1200, seed=0, empty=True)
    # Not ru_maxrss: a process takes that over from the one that started it.
    script = (
        "import re, sys, time\n"
        "from vitprobe_jax.data.broden import open_broden\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])\n"
        "before, start = peak(), time.process_time()\n"
        "dataset = open_broden(sys.argv[1], 'broden:big')\n"
        "print(time.process_time() - start, peak() - before, sum(map(len, dataset.splits.values())))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "broden")]
    # Processor time, the best of three: other work on the machine says nothing of this code. The bench states the rest.
    runs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout.split() for _ in range(3)]
    seconds, added, count = zip(*runs, strict=True)
    assert set(count) == {str(BRODEN_ROWS)}
    assert max(map(int, added)) * 1024 < 300e6
    assert min(map(float, seconds)) < 3
