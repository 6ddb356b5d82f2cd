from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import ndimage

from tuban.errors import ModelError, OutputError, PairError, ReadError, SceneError, UsageError
from tuban.inference.change import predict_change
from tuban.inference.settings import InferenceSettings
from tuban.inference.windows import WindowPlan

NAMES = ("change", "probability", "landcover_before", "landcover_after")


def run(pair, bundle, out, **options):
    result = predict_change(pair, bundle, out, settings=InferenceSettings(threads=1, **options))
    rasters = {}
    for name in NAMES:
        with rasterio.open(getattr(result, name)) as dataset:
            rasters[name] = dataset.read(1)
    return result, rasters


def count(values):
    return {str(value): int((values == value).sum()) for value in np.unique(values)}


def assert_equal_to_oracle(rasters, expected, threshold=0.3):
    valid = expected["landcover_before"] != 0
    # A probability within rounding of the threshold may fall either way.
    unsure = np.abs(expected["probability"] / 254 - threshold) < 1e-5
    np.testing.assert_array_equal(rasters["change"][~unsure], expected["change"][~unsure])
    np.testing.assert_array_equal(rasters["probability"] == 255, ~valid)
    assert np.abs(rasters["probability"][valid] - expected["probability"][valid]).max() <= 0.5 + 1e-3
    np.testing.assert_array_equal(rasters["landcover_before"], expected["landcover_before"])
    np.testing.assert_array_equal(rasters["landcover_after"], expected["landcover_after"])


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 75),
    width=st.integers(1, 75),
    tile=st.sampled_from([24, 32, 44, 64, 128]),
    batch=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_the_tiled_answer_is_the_whole_array_answer(stub, bundle, height, width, tile, batch, seed):
    pair = stub.random_pair(height, width, seed)
    pair.valid[height // 2, width // 2] = True
    with tempfile.TemporaryDirectory() as folder:
        result, rasters = run(pair, bundle, folder, tile=tile, batch=batch)
        assert sorted(path.name for path in Path(folder).iterdir()) == sorted(f"{n}.tif" for n in NAMES)
    assert_equal_to_oracle(rasters, stub.oracle(pair))
    assert result.valid_px == int(pair.valid.sum())
    assert result.valid_px + result.nodata_px == height * width
    assert result.details["statistics"]["change"] == count(rasters["change"])


def test_the_fixture_holds_both_changed_and_unchanged_pixels(stub, bundle, tmp_path):
    _, rasters = run(stub.random_pair(60, 60), bundle, tmp_path)
    assert set(np.unique(rasters["change"])) == {0, 1, 255}
    assert set(np.unique(rasters["landcover_after"])) == {0, 1, 7, 18}


def test_tile_origin_does_not_matter(stub, bundle, tmp_path):
    """A crop gives the same pixels as the whole wherever its border is out of reach."""
    whole = stub.random_pair(90, 90)
    crop = stub.random_pair(1, 1)
    crop.before, crop.after, crop.valid = whole.before[:, 6:, 14:], whole.after[:, 6:, 14:], whole.valid[6:, 14:]
    _, a = run(whole, bundle, tmp_path / "a")
    _, b = run(crop, bundle, tmp_path / "b", tile=44)
    for name in NAMES:
        np.testing.assert_array_equal(a[name][8:, 16:], b[name][2:, 2:])


def test_windows_without_a_valid_pixel_are_never_run(stub, bundle, tmp_path):
    pair = stub.random_pair(96, 96, invalid=0.0)
    pair.valid[:, 40:] = False
    result, rasters = run(pair, bundle, tmp_path)
    plan = WindowPlan(**result.details["plan"])
    seen = sum(window.col < 40 for window in plan)
    assert 0 < seen < len(plan)
    assert (result.details["windows_run"], result.details["windows_skipped"]) == (seen, len(plan) - seen)
    assert_equal_to_oracle(rasters, stub.oracle(pair))


def test_outputs_are_cogs_as_the_contract_says(stub, bundle, tmp_path):
    pair = stub.random_pair(1100, 600)
    result, _ = run(pair, bundle, tmp_path, tile=512)
    for name, nodata in (("change", 255), ("probability", 255), ("landcover_before", 0), ("landcover_after", 0)):
        with rasterio.open(getattr(result, name)) as dataset:
            assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert dataset.dtypes == ("uint8",)
            assert dataset.nodata == nodata
            assert dataset.block_shapes == [(512, 512)]
            assert dataset.overviews(1)
            assert dataset.crs == pair.crs
            assert dataset.transform == pair.transform
            assert dataset.tags()["TUBAN_MODEL"] == bundle.model_id
            if name.startswith("landcover"):
                assert dataset.colormap(1)[7][:3] == (0x3A, 0x86, 0xC8)
    with rasterio.open(result.change, OVERVIEW_LEVEL=0) as dataset:
        assert set(np.unique(dataset.read(1))) <= {0, 1, 255}


def test_a_second_run_gives_the_same_bytes_and_replaces_the_first(stub, bundle, tmp_path):
    pair = stub.random_pair(700, 700)
    digests = []
    for threads in (1, 3):
        result = predict_change(pair, bundle, tmp_path, settings=InferenceSettings(threads=threads, tile=256))
        digests.append([hashlib.sha256(getattr(result, name).read_bytes()).hexdigest() for name in NAMES])
    assert digests[0] == digests[1]


def test_an_optional_band_may_be_missing_and_becomes_the_mean(stub, bundle, tmp_path):
    pair = stub.random_pair(50, 50)
    pair.before[1] = pair.after[1] = np.nan
    _, rasters = run(pair, bundle, tmp_path)
    assert_equal_to_oracle(rasters, stub.oracle(pair))


def test_a_required_band_may_not_be_missing(stub, bundle, tmp_path):
    pair = stub.random_pair(50, 50)
    pair.after[0] = np.nan
    with pytest.raises(ModelError, match="needs B03, which the scene after lacks"):
        run(pair, bundle, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_pair_without_a_valid_pixel_fails_and_leaves_nothing(stub, bundle, tmp_path):
    with pytest.raises(PairError, match="no pixel is valid"):
        run(stub.random_pair(40, 40, invalid=1.1), bundle, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("at", [0, 5])
def test_an_error_of_the_reader_surfaces_and_leaves_earlier_results_alone(stub, bundle, tmp_path, at):
    (tmp_path / "change.tif").write_text("of an earlier run")
    pair = stub.random_pair(96, 96)

    def fail(_):
        if len(pair.reads) == at:
            raise SceneError("after.tif: block at row 3 is corrupt")

    pair.on_read = fail
    with pytest.raises(SceneError, match="corrupt"):
        run(pair, bundle, tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    # What was done before the error is kept for the next run; nothing done leaves no trace.
    assert left == ({"change.tif", ".tuban-resume"} if at else {"change.tif"})
    assert (tmp_path / "change.tif").read_text() == "of an earlier run"


def test_a_model_that_yields_nan_is_refused(stub, tmp_path):
    broken = stub.make_bundle(tmp_path / "model", stub.graph(nan_out=True))
    with pytest.raises(ModelError, match="not probabilities"):
        run(stub.random_pair(20, 20), broken, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_output_error(stub, bundle, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        run(stub.random_pair(20, 20), bundle, tmp_path / "file" / "out")


def test_progress_only_grows_and_ends_at_the_total(stub, bundle, tmp_path):
    seen = []
    predict_change(stub.random_pair(60, 60), bundle, tmp_path, progress=lambda *call: seen.append(call))
    assert seen == sorted(seen)
    assert seen[-1] == (3600, 3600)
    assert all(done < 3600 for done, _ in seen[:-1])


def test_chinese_and_spaced_folders_work(stub, bundle, tmp_path):
    result, _ = run(stub.random_pair(20, 20), bundle, tmp_path / "耕地 图斑 out")
    assert result.change.is_file()


def test_settings_refuse_what_they_do_not_know(stub, bundle, tmp_path):
    with pytest.raises(ValidationError, match="tiles"):
        InferenceSettings.model_validate({"tiles": 3})
    with pytest.raises(UsageError, match="no core"):
        run(stub.random_pair(20, 20), bundle, tmp_path, tile=16)


def test_the_shipped_settings_are_the_defaults():
    import yaml

    text = (Path(__file__).parents[2] / "configs" / "inference.yaml").read_text(encoding="utf-8")
    assert InferenceSettings.model_validate(yaml.safe_load(text)) == InferenceSettings()


class Killed(BaseException):
    """Stands for the end of the process; nothing of ours catches it."""


def test_a_run_that_was_stopped_goes_on_and_gives_the_same_bytes(stub, bundle, tmp_path):
    """Stopped after every possible part: the rest is done, no part twice, and the files are equal to the byte."""

    def digests(folder):
        return [hashlib.sha256((folder / f"{name}.tif").read_bytes()).hexdigest() for name in NAMES]

    pair = stub.random_pair(150, 150)
    run(pair, bundle, tmp_path / "whole", tile=64, batch=2)
    reads = len(pair.reads)
    for stop in range(3, reads, 2):
        killed, out = stub.random_pair(150, 150), tmp_path / str(stop)

        def kill(_, pair=killed, at=stop):
            if len(pair.reads) == at:
                raise Killed

        killed.on_read = kill
        with pytest.raises(Killed):
            run(killed, bundle, out, tile=64, batch=2)
        done = len(list((out / ".tuban-resume").glob("0*.tif")))
        again = stub.random_pair(150, 150)
        result, _ = run(again, bundle, out, tile=64, batch=2)
        assert digests(out) == digests(tmp_path / "whole")
        plan = WindowPlan(**result.details["plan"])
        assert len(again.reads) == reads - sum(len(plan.group(index, 2)) for index in range(done))
        assert result.details["windows_run"] == reads
        assert bool(result.history) == (done > 0)
        assert sorted(path.name for path in out.iterdir()) == sorted(f"{n}.tif" for n in NAMES)


def test_other_pixels_or_settings_are_never_gone_on_with(stub, bundle, tmp_path):
    pair = stub.random_pair(96, 96)

    def kill(_):
        if len(pair.reads) == 5:
            raise Killed

    pair.on_read = kill
    for options in ({}, {"identity": {"size": 1}}):
        with pytest.raises(Killed):
            predict_change(pair, bundle, tmp_path, **options)
        pair.reads.clear()
    pair.on_read = lambda _: None
    result = predict_change(pair, bundle, tmp_path, identity={"size": 2})
    assert result.details["windows_run"] == len(pair.reads)
    assert "source: the run began anew" in result.history[0]


def test_what_cannot_be_read_is_left_out_when_asked(stub, bundle, tmp_path):
    """Only the block that is damaged holds no result; around it the answer is that of pixels without evidence."""
    pair = stub.random_pair(700, 700, invalid=0.0)

    def fail(window):
        if window.row_off < 300 and window.row_off + window.height > 260 and window.col_off + window.width > 600:
            raise ReadError(f"after.tif: block at row {window.row_off} is corrupt")

    pair.on_read = fail
    with pytest.raises(ReadError, match="corrupt"):
        run(pair, bundle, tmp_path / "a", tile=256)
    result, rasters = run(pair, bundle, tmp_path / "a", tile=256, keep_going=True)
    lost = rasters["change"] == 255
    assert lost[260:300, 600:].all()
    assert not np.delete(lost, np.s_[256:512], axis=0).any()
    assert not lost[:, :512].any()
    np.testing.assert_array_equal(rasters["landcover_after"] == 0, lost)
    # A neighbour's halo may hold what this window could not read, so the rim of the loss is left out.
    whole, rim = stub.oracle(pair), ndimage.binary_dilation(lost, iterations=4)
    np.testing.assert_array_equal(rasters["landcover_after"][~rim], whole["landcover_after"][~rim])
    np.testing.assert_allclose(rasters["probability"][~rim], whole["probability"][~rim], atol=0.501)
    pair.on_read = lambda _: None
    # Whole blocks, each told once whatever windows met it.
    assert [d[:4] for d in result.damage] == [(256, 512, 256, 188)]
    assert all("corrupt" in d.reason for d in result.damage)
    assert result.details["damaged_blocks"] == len(result.damage)
    # The cause may be gone: the same command tries these parts again, and only these.
    reads = len(pair.reads)
    result, rasters = run(pair, bundle, tmp_path / "a", tile=256, keep_going=True)
    assert 0 < len(pair.reads) - reads < 9
    assert_equal_to_oracle(rasters, stub.oracle(pair))
    assert not result.damage


def test_a_file_that_vanishes_is_given_up_after_a_few_blocks(stub, bundle, tmp_path):
    pair = stub.random_pair(1100, 1100, invalid=0.0)
    tries = 0

    def fail(_):
        nonlocal tries
        tries += 1
        raise ReadError("before.tif is gone")

    pair.on_read = fail
    with pytest.raises(PairError, match="no pixel is valid"):
        run(pair, bundle, tmp_path, tile=1200, keep_going=True)
    assert tries == 5
    assert not (tmp_path / ".tuban-resume").exists()


@pytest.mark.data
def test_a_real_pair_has_no_seams(bundle, data_root, tmp_path):
    """Registration and warping included: what a window reads must not depend on how the windows are cut."""
    pytest.importorskip("tuban.data.pair")
    from tuban.data.pair import open_pair

    city = data_root / "oscd" / "saclay_e"
    rasters = []
    for tile in (136, 520):
        with open_pair(city / "before.tif", city / "after.tif") as pair:
            result, made = run(pair, bundle, tmp_path / str(tile), tile=tile)
        assert result.valid_px > 0.5 * pair.height * pair.width
        rasters.append(made)
    for name in NAMES:
        differing = rasters[0][name] != rasters[1][name]
        steps = np.abs(rasters[0][name].astype(int) - rasters[1][name])
        if name == "probability":
            # Rounding to 254 steps may tip by one where the float results differ in the last digit.
            assert steps.max() <= 1
        assert differing.mean() <= 1e-3, name
