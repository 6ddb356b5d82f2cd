from __future__ import annotations

import pytest
from check_factory import ALL, PATCH, B, U, box, changes, layer, rows

from tuban.errors import OutputError
from tuban.postprocess.check import CheckSettings
from tuban.postprocess.neighbours import with_neighbours

PLAN = (layer(U, box(9000, 9000, 9001, 9001)), layer(B, ALL))
SMALL = [box(0, 0, 30, 30), box(60, 0, 90, 60), box(400, 0, 430, 30), box(0, 120, 30, 150)]


def severities(found):
    return {r["change_id"]: r["severity"] for r in found if r["rule_id"] == "U1"}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_cluster_is_seen_across_frames_and_batches(size):
    """Within 100 m of c0 lie c1 (1800 m2) and c3 (900 m2): 3600 m2 together; c2 stands alone."""
    frame = changes(*SMALL)
    frames = [frame.iloc[i : i + 1].reset_index(drop=True) for i in range(4)]
    whole = rows([frame], *PLAN, settings=CheckSettings(batch_size=size))
    assert severities(whole) == {"c0": "S2", "c1": "S2", "c2": "S1", "c3": "S2"}
    assert severities(rows(frames, *PLAN)) == severities(whole)


def test_other_classes_are_no_neighbours():
    frame = changes(*SMALL[:2]).assign(to_class=["building", "tree"])
    assert severities(rows([frame], *PLAN))["c0"] == "S1"


def test_frames_come_back_as_they_were(tmp_path):
    frames = [changes(PATCH, box(0, 0, 1, 1)), changes(box(5, 5, 6, 7), to="tree").assign(actor="甲")]
    with with_neighbours(iter(frames), frozenset({"building"})) as (again, layer_read):
        got = list(again)
        assert len(layer_read.read()) == 2
    for one, other in zip(frames, got, strict=True):
        assert one.equals(other)
        assert one.crs == other.crs


def test_nothing_is_laid_down_where_no_rule_asks(monkeypatch):
    monkeypatch.setattr("tempfile.TemporaryDirectory", None)
    frames = iter([changes(PATCH)])
    with with_neighbours(frames, frozenset()) as (again, layer_read):
        assert again is frames
        assert layer_read is None
    with with_neighbours([], frozenset({"building"})) as (again, layer_read):
        assert list(again) == []


def test_a_full_disk_is_said(monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("geopandas.GeoDataFrame.to_feather", full)
    frames = [changes(PATCH), changes(PATCH)]
    with pytest.raises(OutputError, match="TMPDIR"), with_neighbours(frames, frozenset({"building"})):
        pass
