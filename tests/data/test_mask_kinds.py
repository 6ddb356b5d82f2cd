"""What mask values mean, against the products' own tables written out here once more."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuban.data.mask_kinds import decode, kind_named, mask_table

ALL = tuple(mask_table().causes)
NAMES = {0: "seen", **{code: name for name, code in mask_table().causes.items()}}
SCL = {
    0: "unknown", 1: "defective", 2: "seen", 3: "shadow", 4: "seen", 5: "seen", 6: "seen", 7: "seen", 8: "cloud",
    9: "cloud", 10: "cirrus", 11: "snow",
}  # fmt: skip
# Values as USGS lists them for Collection 2 (LSDS-1619, table of QA_PIXEL value interpretations); those of cloud with
# shadow count as cloud, and medium confidence without the cloud bit is seen.
QA_PIXEL = {
    1: "unknown", 21824: "seen", 21826: "cloud", 21888: "seen", 21890: "cloud", 22080: "seen", 22144: "seen",
    22280: "cloud", 23888: "shadow", 23952: "shadow", 24088: "cloud", 24216: "cloud", 24344: "cloud", 24472: "cloud",
    30048: "snow", 54596: "cirrus", 54852: "cirrus", 55052: "cloud",
}  # fmt: skip


def named(codes):
    return [NAMES[code] for code in codes.ravel().tolist()]


@pytest.mark.parametrize(("kind", "table", "dtype"), [("scl", SCL, "uint8"), ("qa_pixel", QA_PIXEL, "uint16")])
def test_published_values(kind, table, dtype):
    stored = np.array([[list(table)]], dtype=dtype)
    assert named(decode(mask_table().kinds[kind], stored, ALL)) == list(table.values())


@given(st.integers(0, 65535), st.sets(st.sampled_from(ALL)))
def test_qa_pixel_bit_by_bit(value, causes):
    bits = {"cloud": (1, 3), "cirrus": (2,), "shadow": (4,), "snow": (5,), "unknown": (0,)}
    hit = [name for name in ALL if name in causes and any(value >> bit & 1 for bit in bits.get(name, ()))]
    found = decode(mask_table().kinds["qa_pixel"], np.array([[[value]]], dtype=np.uint16), causes)
    assert named(found) == (hit[:1] or ["seen"])


@pytest.mark.parametrize(
    ("band", "value", "cause"),
    [(1, 1, "seen"), (2, 1, "snow"), (3, 1, "shadow"), (4, 1, "haze"), (5, 1, "haze"), (6, 1, "cloud"), (7, 90, "seen"),
     (8, 1, "unknown"), (8, 2, "seen"), (8, 4, "defective")],
)  # fmt: skip
def test_udm2_bands(band, value, cause):
    layers = np.zeros((8, 1, 1), dtype=np.uint8)
    layers[band - 1] = value
    kind = mask_table().kinds["udm2"]
    assert named(decode(kind, layers[[n - 1 for n in kind.needed]], ALL)) == [cause]


def test_causes_not_asked_for_read_as_seen():
    stored = np.array([[[11, 9, 0]]], dtype=np.uint8)
    assert named(decode(mask_table().kinds["scl"], stored, ("cloud",))) == ["seen", "cloud", "seen"]


def test_csmask_nodata_is_unknown():
    stored = np.array([[[0, 1, 2, 255]]], dtype=np.uint8)
    assert named(decode(mask_table().kinds["csmask"], stored, ALL)) == ["seen", "cloud", "shadow", "unknown"]


def test_a_code_names_one_cause_and_every_kind_has_its_source():
    table = mask_table()
    assert sorted(table.causes.values()) == list(range(1, len(table.causes) + 1))
    assert all(kind.source for kind in table.kinds.values())
    assert kind_named("B02") is None
    assert kind_named("Scene Classification Map") == "scl"
