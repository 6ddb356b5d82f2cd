"""Bad images and options through the command line: one line, the right exit code, an earlier run untouched."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import rasterio

NAN, INF = float("nan"), float("inf")


# Each maker writes one bad AFTER image into a folder and returns its path.
def missing(small, folder):
    return folder / "gone.tif"


def not_a_raster(small, folder):
    path = folder / "after.tif"
    path.write_text("no image")
    return path


def truncated(small, folder):
    path = small.write_image(folder / "after.tif", small.pixels()[1])
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    return path


def damaged_inside(small, folder):
    """The corners are whole; a tile in the middle is rubbish."""
    values = np.tile(small.pixels()[1], (1, 2, 2))
    path = small.write_image(folder / "after.tif", values, compress="deflate")
    with rasterio.open(path) as source:
        at = int(source.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
    data = bytearray(path.read_bytes())
    data[at : at + 600] = bytes(600)
    path.write_bytes(data)
    return path


def without_crs(small, folder):
    return small.write_image(folder / "after.tif", small.pixels()[1], crs=None)


def elsewhere(small, folder):
    from affine import Affine

    far = small.TRANSFORM @ Affine.translation(5000, 0)
    return small.write_image(folder / "after.tif", small.pixels()[1], transform=far)


def all_nodata(small, folder):
    return small.write_image(folder / "after.tif", np.zeros((2, 128, 128), np.uint16))


def all_nan(small, folder):
    return small.write_image(folder / "after.tif", np.full((2, 128, 128), np.nan, np.float32), nodata=None)


def all_infinite(small, folder):
    return small.write_image(folder / "after.tif", np.full((2, 128, 128), np.inf, np.float32), nodata=None)


def another_place(small, folder):
    """Nothing in common with BEFORE: noise."""
    noise = np.random.default_rng(1).integers(1, 10_000, (2, 128, 128)).astype(np.uint16)
    return small.write_image(folder / "after.tif", noise)


def other_bands(small, folder):
    return small.write_image(folder / "after.tif", small.pixels()[1], bands=("B11", "B12"))


IMAGES = [
    (missing, 1, "gone.tif: no such file"),
    (not_a_raster, 1, "not a raster"),
    (truncated, 1, "damaged"),
    (damaged_inside, 1, "damaged or cut short"),
    (without_crs, 1, "has no CRS"),
    (elsewhere, 1, "do not overlap"),
    (all_nodata, 1, "no valid pixel"),
    (all_nan, 1, "no valid pixel"),
    (all_infinite, 1, "no valid pixel"),
    (another_place, 1, "check that both show the same place"),
    (other_bands, 1, "no common band"),
]


@pytest.mark.parametrize(("make", "code", "says"), IMAGES, ids=lambda value: getattr(value, "__name__", None))
def test_bad_image_is_refused_and_an_earlier_run_stays(pair, small, out, tmp_path, make, code, says):
    was = small.contents(out)
    result = pair.detect(out, after=make(small, tmp_path))
    assert result.code == code, result.err
    assert says in result.error
    assert result.out == ""
    assert small.contents(out) == was
    assert not [p for p in out.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize(("make", "says"), [(missing, "no such file"), (without_crs, "no CRS")])
def test_a_refused_run_leaves_no_folder_behind(pair, small, tmp_path, make, says):
    result = pair.detect(tmp_path / "a" / "b", before=make(small, tmp_path))
    assert (result.code, says in result.error) == (1, True)
    assert not (tmp_path / "a").exists()


OPTIONS = [
    (("--date-before", "2025-01-01", "--date-after", "2024-01-01"), 1, "dates are reversed"),
    (("--date-before", "yesterday"), 2, "YYYY-MM-DD"),
    (("--model", "no-such-model"), 2, "no-such-model"),
    (("--rules", "atlantis"), 2, "atlantis"),
    (("--lang", "xx"), 2, "xx"),
    (("--backend", "abacus"), 2, "abacus"),
    (("pair.registration.window=9",), 2, "window"),
    (("inference.batch=0",), 2, "inference.batch = 0"),
    (("inference.batch=many",), 2, "many"),
    (("no equals sign",), 2, "no equals sign"),
    (("inference.tile=16",), 2, "tile"),
    (("--aoi", "gone.gpkg"), 1, "gone.gpkg"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "says"), OPTIONS, ids=lambda value: " ".join(value) if isinstance(value, tuple) else None
)
def test_bad_option_is_refused(pair, small, out, arguments, code, says):
    was = small.contents(out)
    result = pair.detect(out, *arguments)
    assert result.code == code, result.err
    assert says in result.error
    assert small.contents(out) == was


def test_unknown_option_and_command_are_usage_errors(pair, out):
    assert pair.detect(out, "--colour", "red").code == 2
    assert pair.tuban("detekt").code == 2
    assert pair.tuban("detect").code == 2


def test_one_band_where_ten_are_needed_names_what_is_missing(pair, small, tmp_path, out):
    was = small.contents(out)
    images = [
        small.write_image(tmp_path / f"{n}.tif", v[:1], bands=("B04",))
        for n, v in zip("ab", small.pixels(), strict=True)
    ]
    result = pair.tuban("detect", *images, "--out", out)
    assert result.code == 2
    assert "s2-change" in result.error
    assert "lacks" in result.error
    assert small.contents(out) == was


def test_pixels_that_are_nan_or_infinite_take_no_part(pair, small, tmp_path):
    before, after = (values.astype(np.float32) / 10_000 for values in small.pixels())
    row, column, height, width = small.SITES["farmland"]
    after[0, row : row + height, column : column + width] = NAN
    row, column, height, width = small.SITES["red line"]
    after[1, row : row + height, column : column + width] = INF
    images = [small.write_image(tmp_path / f"{n}.tif", v, nodata=None) for n, v in (("b", before), ("a", after))]
    result = pair.detect(tmp_path / "out", before=images[0], after=images[1])
    assert result.code == 0, result.err
    lost = 12 * 10 + 10 * 12
    assert result.record["counts"]["nodata_px"] == lost
    changes = small.findings(tmp_path / "out", "changes")
    assert len(changes) == len(small.SITES) - 2
    for site in ("farmland", "red line"):
        assert not changes.intersects(small.box_of(site)).any()


@pytest.mark.parametrize("make", ["a file in its place", "a file on the way", "no permission"])
def test_output_folder_that_cannot_be_written(pair, small, tmp_path, make, monkeypatch):
    target = tmp_path / "out"
    if make == "a file in its place":
        target.write_text("mine")
    elif make == "a file on the way":
        target.write_text("mine")
        target = target / "sub" / "deeper"
    else:  # root may write anywhere, so the refusal is made here

        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("tempfile.mkdtemp", refuse)
    result = pair.detect(target)
    assert (result.code, result.out) == (1, "")
    assert "cannot write into" in result.error
    if make == "no permission":
        assert not target.exists()
    else:
        assert (tmp_path / "out").read_text() == "mine"


def test_full_disk_at_every_stage(pair, small, out):
    """A limit on file size stands in for the full disk; lower ones stop the rasters, higher ones layers and report."""
    was = small.contents(out)
    script = """
        import resource, signal, sys
        from pathlib import Path
        from tuban.cli import app
        from tuban.console import run
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for limit in (1_000, 40_000, 250_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            code = run(lambda: app(sys.argv[1:], standalone_mode=True))
            print(limit, code, flush=True)
    """
    command = ["detect", pair.folder / "before.tif", pair.folder / "after.tif", "--out", out, "--model", pair.model]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, command), "--plan", str(pair.folder / "plan.gpkg")],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.stdout.split() == ["1000", "1", "40000", "1", "250000", "1"], done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    assert "Traceback" not in done.stderr
    assert small.contents(out) == was


def test_earlier_findings_may_lie_in_any_folder(pair, small, earlier_run, tmp_path):
    earlier = shutil.copytree(earlier_run, tmp_path / "以往 结果=1")
    command = ("check", earlier_run / "findings.gpkg", "--layer", "changes", "--plan", pair.folder / "plan.gpkg")
    result = pair.tuban(*command, "--out", tmp_path / "out", "--history", earlier, *small.QUICK, "--json")
    assert result.code == 0, result.err
    assert "history" in {entry["role"] for entry in result.record["inputs"]}
    refused = pair.tuban(*command, "--out", tmp_path / "out", "--history", tmp_path / "nothing")
    assert (refused.code, "no such file" in refused.error) == (2, True), refused.err
