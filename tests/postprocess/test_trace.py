from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio import Affine, features
from scipy import ndimage

from tuban.errors import SceneError
from tuban.postprocess import lattice
from tuban.postprocess.trace import Tracer


def trace(values, keep, rows, *, noded, tally=None):
    """All polygons of an array in lattice coordinates, their classes and sums."""
    tracer = Tracer(values.shape[1], noded=noded)
    done = []
    for row in range(0, len(values), rows):
        part = slice(row, row + rows)
        done.append(tracer.push(values[part], keep[part], tally(part) if tally else None))
    done.append(tracer.finish())
    assert tracer.open_vertices == 0
    shapes = [
        shapely.from_ragged_array(shapely.GeometryType.POLYGON, r.xy, (r.ring_starts, r.polygon_starts)) for r in done
    ]
    sums = [r.sums for r in done if len(r.values)]
    return np.concatenate(shapes), np.concatenate([r.values for r in done]), np.concatenate(sums) if sums else None


def expected(values, keep):
    """What GDAL makes of the whole array: normalised polygons, ordered, with their classes."""
    found = list(features.shapes(values, mask=keep, connectivity=4))
    return ordered([shapely.geometry.shape(shape) for shape, _ in found], [int(value) for _, value in found])


def ordered(shapes, classes):
    return sorted(zip(shapely.to_wkb(shapely.normalize(np.asarray(shapes, object))), classes, strict=True))


def coarse(rng, shape, classes):
    step = rng.integers(2, 6)
    small = rng.integers(0, classes, (shape[0] // step + 1, shape[1] // step + 1))
    return np.kron(small, np.ones((step, step), int))[: shape[0], : shape[1]]


def random_raster(rng):
    """Return classes and what is kept: speckle, patches, nested rings, lines, chequers and holes of nodata."""
    shape = tuple(rng.integers(1, 22, 2))
    rows, cols = np.indices(shape)
    classes = int(rng.integers(1, 6))
    values = [
        lambda: rng.integers(0, classes, shape),
        lambda: coarse(rng, shape, classes),
        lambda: np.maximum(abs(rows - shape[0] // 2), abs(cols - shape[1] // 2)) // rng.integers(1, 4) % (classes + 1),
        lambda: ((rows + cols * rng.integers(1, 3)) // rng.integers(1, 4)) % (classes + 1),
        lambda: (rng.random(shape) < 0.1).astype(int),
        lambda: (rows + cols) % 2 * rng.integers(1, 3, shape),
        lambda: ndimage.binary_dilation(rng.random(shape) < 0.05, iterations=2).astype(int),
    ][rng.integers(7)]()
    speckle = rng.random(shape) < rng.choice([0, 0.03, 0.2])
    values = np.where(speckle, rng.integers(0, classes + 1, shape), values).astype(np.uint8)
    keep = np.ones(shape, bool)
    if rng.random() < 0.5:
        keep &= values != 0
    if rng.random() < 0.3:
        keep &= coarse(rng, shape, 3) != 0
    return values, keep


@pytest.mark.parametrize("seed", range(10))
def test_a_thousand_rasters_equal_gdal_on_the_whole_array(seed):
    rng = np.random.default_rng(seed)
    for _ in range(100):
        values, keep = random_raster(rng)
        rows = int(rng.integers(1, len(values) + 1))
        plain, classes, _ = trace(values, keep, rows, noded=False)
        assert ordered(plain, classes.tolist()) == expected(values, keep)
        assert shapely.is_valid(plain).all()
        noded, same, _ = trace(values, keep, rows, noded=True)
        assert shapely.equals(plain, noded).all()
        assert np.array_equal(classes, same)
        assert shapely.is_valid(noded).all()
        if len(noded):
            assert shapely.coverage_is_valid(noded)
            pairs = zip(noded, classes, strict=True)
            burnt = features.rasterize(pairs, values.shape, fill=255, transform=Affine.identity(), dtype="uint8")
            assert np.array_equal(burnt, np.where(keep, values, 255))


RASTERS = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 3))


@settings(max_examples=60, deadline=None)
@given(RASTERS, st.integers(1, 12))
def test_the_same_bytes_for_any_strip(values, rows):
    keep = values != 0
    shapes, classes, _ = trace(values, keep, rows, noded=True)
    whole, ids, _ = trace(values, keep, len(values), noded=True)
    found, wanted = (sorted(zip(shapely.to_wkb(a), b, strict=True)) for a, b in ((shapes, classes), (whole, ids)))
    assert found == wanted
    assert shapely.is_ccw(shapely.get_exterior_ring(shapely.transform(shapes, lambda xy: xy * [1, -1]))).all()


@settings(max_examples=60, deadline=None)
@given(RASTERS, st.integers(1, 12))
def test_order_of_a_batch_is_that_of_first_vertices(values, rows):
    tracer = Tracer(values.shape[1])
    for row in range(0, len(values), rows):
        rings = tracer.push(values[row : row + rows], np.ones(values[row : row + rows].shape, bool))
        first = rings.xy[rings.ring_starts[:-1], ::-1].tolist()
        shells = [first[start] for start in rings.polygon_starts[:-1]]
        assert shells == sorted(shells)
        for a, b in zip(rings.ring_starts[:-1], rings.ring_starts[1:], strict=True):
            assert rings.xy[a, ::-1].tolist() == min(rings.xy[a:b, ::-1].tolist())
            assert np.array_equal(rings.xy[a], rings.xy[b - 1])


@settings(max_examples=60, deadline=None)
@given(RASTERS, st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_tallies_against_labels_of_the_whole_array(values, rows, seed):
    weight = np.random.default_rng(seed).integers(0, 100, values.shape)
    keep = values != 0

    def tally(part):
        def count(labels, size):
            inside = labels >= 0
            assert np.array_equal(inside, keep[part])
            return np.stack(
                [
                    np.bincount(labels[inside], minlength=size),
                    np.bincount(labels[inside], weight[part][inside], minlength=size).astype(int),
                ],
                axis=1,
            )

        return count

    _, classes, sums = trace(values, keep, rows, noded=True, tally=tally)
    wanted = []
    for value in range(1, 4):
        labels, size = ndimage.label(values == value)
        parts = [labels == number for number in range(1, size + 1)]
        wanted += [(value, int(part.sum()), int(weight[part].sum())) for part in parts]
    found = [] if sums is None else [(int(c), *map(int, s)) for c, s in zip(classes, sums, strict=True)]
    assert sorted(found) == sorted(wanted)


def test_ring_in_ring_and_diagonal_touch():
    values = np.ones((7, 7), np.uint8)
    values[1:6, 1:6] = 2
    values[2:5, 2:5] = 1
    values[0, 0] = 3  # touches class 2 diagonally at (1, 1)
    shapes, classes, _ = trace(values, np.ones((7, 7), bool), 2, noded=False)
    found = {(int(v), s.area, len(s.interiors)) for s, v in zip(shapes, classes, strict=True)}
    assert found == {(1, 23, 1), (2, 16, 1), (1, 9, 0), (3, 1, 0)}


@pytest.mark.parametrize("rows", [1, 2, 8])
def test_holes_that_touch_each_other_are_rings_of_their_own(rows):
    values = np.ones((8, 8), np.uint8)
    values[[1, 2, 3, 4, 5], [1, 2, 3, 4, 5]] = 0  # a diagonal chain of one-pixel holes
    values[6, 4] = 0
    shapes, _, _ = trace(values, values != 0, rows, noded=True)
    assert [len(shape.interiors) for shape in shapes] == [6]
    assert [shapely.Polygon(ring).area for ring in shapes[0].interiors] == [1] * 6


@pytest.mark.parametrize("rows", [1, 7, 61])
def test_a_spiral_that_spans_every_strip_is_one_polygon(rows):
    values = np.zeros((61, 61), np.uint8)
    row, col, step = 0, -1, (0, 1)
    for length in [61, *np.repeat(np.arange(60, 0, -2), 2).tolist()]:
        for _ in range(length):
            row, col = row + step[0], col + step[1]
            values[row, col] = 1
        step = (step[1], -step[0])
    keep = np.ones(values.shape, bool)
    shapes, classes, _ = trace(values, keep, rows, noded=False)
    assert ordered(shapes, classes.tolist()) == expected(values, keep)
    assert len(shapes) == 2
    assert shapely.get_num_coordinates(shapes).min() > 120


@pytest.mark.parametrize(
    ("dtype", "pair"),
    [("uint8", (0, 255)), ("int8", (-128, 127)), ("uint16", (7, 65535)), ("int32", (-(2**31), 2**31 - 1)),
     ("uint32", (1, 2**32 - 1)), ("int64", (-(2**62), 2**62)), ("bool", (0, 1))],
)  # fmt: skip
def test_any_integer_type(dtype, pair):
    values = np.array([[pair[0], pair[1]], [pair[1], pair[1]]]).astype(dtype)
    shapes, classes, _ = trace(values, np.ones((2, 2), bool), 1, noded=True)
    assert sorted(zip(classes.tolist(), shapely.area(shapes).tolist(), strict=True)) == sorted(
        zip([int(pair[0]), int(pair[1])], [1, 3], strict=True)
    )


def test_memory_is_bounded_by_the_open_components():
    rng = np.random.default_rng(0)
    # Patches that end with each strip: what is held never grows with the height.
    tracer = Tracer(300)
    for _ in range(30):
        values = coarse(rng, (16, 300), 5).astype(np.uint8)
        values[-1] = 0
        tracer.push(values, values != 0)
        assert tracer.open_vertices == 0
        assert len(tracer._pool) <= 17 * 301
    # Speckle never ends with the strip: what is held reaches a level.
    held, sizes = [], []
    for _ in range(80):
        values = rng.integers(1, 7, (8, 300)).astype(np.uint8)
        tracer.push(values, values != 0)
        held.append(tracer.open_vertices)
        sizes.append(len(tracer._pool))
    assert max(held[40:]) < 1.5 * max(held[:40])
    assert sizes[-1] == sizes[20]


def test_more_vertices_than_can_be_numbered_are_refused():
    values = np.ones((2, 5), np.uint8)
    tracer = Tracer(5)
    tracer.push(values, values > 0)
    tracer._state[lattice.LIVE] = 2**31 - 5  # as if they were held: 64 GB
    with pytest.raises(SceneError, match=r"have 2147483643 vertices.*mask_values"):
        tracer.push(values, values > 0)
