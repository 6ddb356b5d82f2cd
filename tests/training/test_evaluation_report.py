import io
import re

import numpy as np
import pytest
from PIL import Image

from tuban.training.curve import Series, plot
from tuban.training.error_map import COLOURS, FALSE, HIT, MISS, ErrorMap, data_uri, step_for


def test_errors_survive_the_reduction():
    """A single wrong pixel of a block of nine colours it, whatever the hits around."""
    label, called = np.zeros((9, 9), np.uint8), np.zeros((9, 9), bool)
    label[:3, :3] = called[:3, :3] = True
    called[4, 4] = True  # one false alarm
    label[:3, 3:6] = 1
    called[:3, 3:6] = True
    called[0, 3] = False  # one miss among hits
    label[6:, 6:] = 255
    called[6:, 6:] = True  # unknown: no error
    errors = ErrorMap(3)
    for row in (0, 3, 6):
        errors.add(called[row : row + 3], label[row : row + 3])
    image = np.asarray(Image.open(io.BytesIO(errors.png(np.zeros((3, 3, 3), np.uint8)))).convert("RGB"))
    expected = {(0, 0): HIT, (0, 1): MISS, (1, 1): FALSE}
    for place, code in expected.items():
        assert tuple(image[place]) == COLOURS[code]
    assert tuple(image[2, 2]) not in COLOURS.values()


def test_a_map_stays_small():
    assert step_for(100, 640) == 1
    assert step_for(10980, 10980) * 640 >= 10980
    assert data_uri(b"x").startswith("data:image/png;base64,")


def test_a_plot_puts_points_where_they_belong():
    svg = plot([Series("<a>", [(0, 0), (1, 1)])], title="t", x="x", y="y", x_range=(0, 1), y_range=(0, 1), marks=[0.5])
    points = re.search(r'points="([^"]+)"', svg).group(1).split()
    (left, low), (right, high) = (map(float, p.split(",")) for p in points)
    assert left < right
    assert low > high  # up is smaller in SVG
    assert "&lt;a&gt;" in svg
    assert svg.count("<circle") == 2
    assert f'x1="{(left + right) / 2}"' in svg


@pytest.mark.parametrize("points", [[(0, 0)], [(1, 5), (1, 5)], [(0, -0.2), (3, 1e6)]])
def test_a_plot_of_anything(points):
    assert plot([Series("a", points)], title="t", x="x", y="y").count("<circle") == len(points)
