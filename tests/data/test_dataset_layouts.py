"""Every layout of every public data set, written small as its authors lay it out, and read back."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from affine import Affine
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning

from tuban.data.catalog import verify
from tuban.data.dataset import Dataset, datasets, open_folder
from tuban.data.layout import Layout, Role
from tuban.data.place import IGNORE
from tuban.data.places import load_places, place_names
from tuban.data.splits import PARTS, authors_split

SIZE = 48
CASES = [(known, layout) for known in datasets() for layout in known.layouts]
IDS = [f"{known.id}-{layout.id}".replace(" ", "_") for known, layout in CASES]
# A value for each expression that a field must match, where it is no plain list of alternatives.
EXAMPLES = {
    r"\d+": ("14", "35"),
    "[A-Za-z]+": ("Szada", "Tiszadob"),
    r".+_\d+": ("M-33-20-D_1", "N-34_2"),
    r"D\d+_\d+": ("D004_2021", "D014_2020"),
    r"Z[^/]+": ("Z1_AA", "Z2_UU"),
    r"1\. The two-period image data": ("1. The two-period image data",) * 2,
    "_|_1_|_2_": ("_", "_1_"),
    "[^/]+": ("here_1", "there_2"),
}


def values_of_field(name, layout):
    expression = layout.fields.get(name, "[^/]+")
    if expression in EXAMPLES:
        return EXAMPLES[expression]
    assert re.fullmatch(r"[\w|]+", expression), f"give an example of {expression}"
    options = expression.split("|")
    return options[0], options[1 % len(options)]


def path_of(folder, role, fields, band=""):
    return folder / role.path.format(**fields, band=band).replace(".*", ".png").replace("*", "x")


def write_raster(path, values, transform=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in {".tif", ".tiff"}:
        count, height, width = values.shape
        profile = {"driver": "GTiff", "dtype": values.dtype, "count": count, "height": height, "width": width}
        place = {"crs": "EPSG:2154", "transform": transform} if transform is not None else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path, "w", **profile, **place) as target:
                target.write(values)
    else:
        array = values[0] if len(values) == 1 else np.moveaxis(values, 0, -1)
        lossless = {"quality": 100, "subsampling": 0} if path.suffix == ".jpg" else {}
        Image.fromarray(array).save(path, **lossless)


def texture(rng, bands):
    """An image that registers with itself: blobs, the same in all bands up to a gain, 1 to 255."""
    coarse = np.kron(rng.uniform(30, 220, (SIZE // 4, SIZE // 4)), np.ones((4, 4)))
    return np.stack([(coarse * (0.7 + 0.3 * i / bands)).round() for i in range(bands)])


def colored(values, role):
    if role.colors is None:
        return values[None].astype(np.uint8)
    table = {value: bytes.fromhex(text[1:]) for text, value in role.colors.items()}
    return np.moveaxis(np.array([[list(table[v]) for v in row] for row in values], np.uint8), -1, 0)


def write_item(folder, known, layout, fields, number):
    """Write one item; returns its images and labels as values, by role."""
    rng = np.random.default_rng(number)
    bands = layout.bands or known.bands
    image = texture(rng, len(bands))
    written = {}
    georeferenced = known.georeferenced if layout.georeferenced is None else layout.georeferenced
    transform = Affine(0.5, 0, 650_000 + 1000 * number, 0, -0.5, 6_860_000) if georeferenced else None
    for role in layout.roles:
        if role.is_image:
            dtype = np.dtype(role.dtype)
            stored = (image * (10 if dtype.itemsize > 1 else 1)).astype(dtype)
            if "{band}" in role.path:
                for band, layer in zip(bands, stored, strict=True):
                    write_raster(path_of(folder, role, fields, band), layer[None], transform)
            else:
                write_raster(path_of(folder, role, fields), stored, transform)
            written[role.role] = stored
        else:
            path = path_of(folder, role, fields)
            same = [other for other in layout.roles if other.path == role.path and other.role in written]
            if same:
                written[role.role] = written[same[0].role]
                continue
            options = np.array(sorted(role.values))
            values = options[np.arange(SIZE * SIZE).reshape(SIZE, SIZE) // 5 % len(options)]
            label = colored(values, role)
            if role.confidence_band:
                label = np.concatenate([label, np.full_like(label, 77)])
            write_raster(path, label, transform)
            written[role.role] = values
    if layout.dates:
        path = folder / layout.dates.format(**fields)
        path.write_text('{"before": "2015-01-01", "after": "2018-01-01"}', encoding="utf-8")
    return written


@pytest.fixture
def written(request, tmp_path):
    """Two items of a layout in a folder that is called as it is known."""
    known, layout = request.param
    folder = tmp_path / known.folders[0]
    folder.mkdir()
    names = list(dict.fromkeys(name for role in layout.roles for name in role.fields))
    items = {}
    for number in range(2):
        fields = {name: values_of_field(name, layout)[number] for name in names}
        found = write_item(folder, known, layout, fields, number)
        name = layout.name.format(**fields) if layout.name else "_".join(fields[n] for n in layout.roles[0].fields)
        items[name] = found
    if layout.split and layout.split.by == "file":
        for part in PARTS:
            for entry in getattr(layout.split, part):
                suffix = ".tif" if known.id == "openearthmap" else ""
                lines = [f"{name}{suffix}\n" for name in (sorted(items) if part == "train" else [])]
                (folder / entry).write_text("".join(lines), encoding="utf-8")
    return known, layout, folder, items


@pytest.mark.parametrize("written", CASES, ids=IDS, indirect=True)
def test_a_layout_is_recognised_verified_and_read(written):
    known, layout, folder, items = written
    found = open_folder(folder)
    assert (found.dataset.id, found.layout.id) == (known.id, layout.id)
    checked = verify(found)
    assert checked.faults == ()
    assert checked.items == len(items)
    assert place_names(folder) == sorted(items)
    bands = found.bands
    wanted = tuple(range(1, 19))
    places = {place.name: place for place in load_places(folder, bands=(*bands, "B99"), classes=wanted)}
    assert set(places) == set(items)
    for name, place in places.items():
        assert_images(place, layout, items[name])
        assert_labels(place, layout, items[name], wanted)
        assert place.dataset == known.id
        assert (place.footprint is not None) == found.georeferenced


def assert_images(place, layout, stored):
    first = stored[layout.first.role]
    scale = layout.first.scale or (1 / 255 if first.dtype == np.uint8 else 1e-4)
    assert np.isnan(place.before[-1]).all()  # a band that no sensor has
    tolerance = 4 / 255 if layout.first.path.endswith("jpg") else 1e-6
    np.testing.assert_allclose(place.before[:-1], first * scale, atol=tolerance)
    assert place.before.dtype == np.float32
    if layout.has("after"):
        # The two dates are the same here, so matching must change nothing.
        np.testing.assert_allclose(place.after[:-1], first * scale, atol=1e-3)
    else:
        assert place.after is None


def assert_labels(place, layout, stored, wanted):
    if layout.has("change"):
        role = layout.role("change")
        expected = np.vectorize(lambda v: IGNORE if v in role.unknown else int(v not in role.unchanged))
        np.testing.assert_array_equal(place.change, expected(stored["change"]))
        assert 1 in place.change
    else:
        assert not place.labelled
    for role, cover in (
        ("landcover", place.landcover_before),
        ("landcover_before", place.landcover_before),
        ("landcover_after", place.landcover_after),
    ):
        if layout.has(role):
            names = np.vectorize(lambda index: 0 if index == IGNORE else wanted[index])(cover)
            expected = np.vectorize(UNIFIED[layout.role(role).classes].get)(
                np.vectorize(layout.role(role).values.get)(stored[role])
            )
            np.testing.assert_array_equal(names, expected)


# By hand from the domain notes: what each native class is to tuban, 0 where it is none.
UNIFIED = {
    "dynamicworld": {
        "nodata": 0, "unmarked": 0, "cloud": 0, "water": 7, "trees": 4, "grass": 5, "flooded_vegetation": 6, "crops": 1,
        "shrub_and_scrub": 5, "built": 18, "bare": 12, "snow_and_ice": 17,
    },
    "loveda": {
        "ignore": 0, "background": 0, "building": 9, "road": 10, "water": 7, "barren": 12, "forest": 4,
        "agriculture": 1,
    },
    "deepglobe": {
        "urban": 18, "agriculture": 1, "rangeland": 5, "forest": 4, "water": 7, "barren": 12, "unknown": 0,
    },
    "landcover_ai": {"background": 0, "building": 9, "woodland": 4, "water": 7, "road": 10},
    "gid5": {"unknown": 0, "built-up": 18, "farmland": 1, "forest": 4, "meadow": 5, "water": 7},
    "gid15": {
        "background": 0, "industrial land": 18, "urban residential": 18, "rural residential": 18, "traffic land": 10,
        "paddy field": 1, "irrigated land": 1, "dry cropland": 1, "garden plot": 3, "arbor woodland": 4,
        "shrub land": 4, "natural grassland": 5, "artificial grassland": 5, "river": 7, "lake": 7, "pond": 8,
    },
    "five_billion_pixels": {
        "unlabeled": 0, "industrial area": 18, "paddy field": 1, "irrigated field": 1, "dry cropland": 1,
        "garden land": 3, "arbor forest": 4, "shrub forest": 4, "park": 5, "natural meadow": 5, "artificial meadow": 5,
        "river": 7, "urban residential": 18, "lake": 7, "pond": 8, "fish pond": 8, "snow": 17, "bareland": 12,
        "rural residential": 18, "stadium": 16, "square": 11, "road": 10, "overpass": 10, "railway station": 10,
        "airport": 10,
    },
    "second": {
        "unchanged": 0, "water": 7, "ground": 12, "low vegetation": 5, "tree": 4, "building": 9, "playground": 16,
    },
    "hrscd": {
        "no information": 0, "artificial surfaces": 18, "agricultural areas": 1, "forests": 4, "wetlands": 6,
        "water": 7,
    },
    "openearthmap": {
        "unknown": 0, "bareland": 12, "rangeland": 5, "developed space": 11, "road": 10, "tree": 4, "water": 7,
        "agriculture land": 1, "building": 9,
    },
    "flair": {
        "building": 9, "pervious surface": 11, "impervious surface": 11, "bare soil": 12, "water": 7, "coniferous": 4,
        "deciduous": 4, "brushwood": 5, "vineyard": 3, "herbaceous vegetation": 5, "agricultural land": 1,
        "plowed land": 1, "swimming pool": 0, "snow": 17, "clear cut": 5, "mixed": 4, "ligneous": 4, "greenhouse": 2,
        "other": 0,
    },
    "dubai": {"water": 7, "land": 12, "road": 10, "building": 9, "vegetation": 0, "unlabeled": 0},
}  # fmt: skip


SPLIT = [case for case in CASES if case[1].split]


@pytest.mark.parametrize("written", SPLIT, ids=[f"{known.id}-{layout.id}" for known, layout in SPLIT], indirect=True)
def test_the_authors_split_puts_every_item_where_they_do(written):
    known, layout, folder, items = written
    parts = authors_split(folder)
    assert sorted(name for names in parts.values() for name in names) == sorted(items)
    if layout.split.by == "split":
        word = {"train": "train", "training_data": "train", "test": "test", "test_data": "test"}
        first, second = (word.get(value.lower(), "validation") for value in values_of_field("split", layout))
        expected = dict(zip(items, (first, second), strict=True))
        assert {name: part for part in PARTS for name in parts[part]} == expected
    elif known.id == "sztaki":
        assert set(parts["train"]) == set(items)  # Szada_14 and Tiszadob_35 are none of the test images


def test_all_data_sets_of_the_issue_are_there():
    named = {
        "oscd", "levir", "levir_plus", "whu", "sysu", "s2looking", "clcd", "hi_cna", "second", "hrscd", "sztaki",
        "loveda", "deepglobe", "landcover_ai", "gid5", "gid15", "five_billion_pixels", "openearthmap", "flair",
        "dynamicworld", "fotbcd", "dubai",
    }  # fmt: skip
    assert named <= {known.id for known in datasets()}
    for known, layout in CASES:
        assert known.licence
        assert known.citation
        assert known.notes
        assert layout.source or known.id in {"landsat_cn", "naip_nd", "s2_fields_belgium"}


PAGE = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")


def test_the_page_names_every_data_set_and_what_was_not_checked():
    rows = {row.split("`")[1]: row for row in PAGE.splitlines() if row.startswith("| `") and row.count("|") == 9}
    assert set(rows) == {known.id for known in datasets()}
    for known in datasets():
        checked = rows[known.id].rsplit("|", 2)[1].strip()
        unsure = [layout.id for layout in known.layouts[:1] if not layout.sure]
        assert ("no" in checked.split(": ")[-1]) == bool(unsure), known.id


def test_the_descriptions_on_the_page_are_valid_and_its_keys_complete():
    blocks = re.findall(r"^( *)```yaml\n(.*?)^ *```", PAGE, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    for indent, block in blocks:
        text = "".join(line.removeprefix(indent) for line in block.splitlines(keepends=True))
        assert Dataset.model_validate(yaml.safe_load(text)).layouts
    for field in ({*Dataset.model_fields, *Layout.model_fields} - {"folders", "layouts", "source", "sure"}) | {
        *Role.model_fields
    }:
        assert f"`{field}`" in PAGE, field
