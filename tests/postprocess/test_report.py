from __future__ import annotations

import base64
import html.parser
import io
import math
import re
import shutil
import subprocess

import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.windows import Window

from tuban.errors import OutputError, UsageError
from tuban.postprocess.chips import ChipSettings, make_chip, read_colours, svg_path
from tuban.postprocess.layers import write_layers
from tuban.postprocess.overview import Overview, apart
from tuban.postprocess.report import ReportSettings, write_report
from tuban.postprocess.sources import ground_size, north_angle, round_length
from tuban.postprocess.tally import Tally

RUN = {
    "versions": {"tuban": "0.1.0"},
    "inputs": [{"role": "before", "name": "前.tif", "sha256": "ab" * 32}],
    "notes": [
        {"stage": "plan", "text": "CRS of STBHHX was guessed <script>"},
        {"stage": "elsewhere", "text": "unforeseen"},
    ],
    "rule_pack": {"id": "cn", "version": "2025.10", "titles": {"P1": {"zh": "占用永久基本农田", "en": "built on P"}}},
    "pair": {
        "registration": {"dx_px": 0.42, "dy_px": -0.1, "residual_px": None, "windows_used": 9, "action": "corrected"},
        "radiometry": {"bands": ["B04"], "gain": [1.02], "offset": [0.001], "correlation": [None], "action": "none"},
        "notes": ["same season"],
    },
}


class Reader(html.parser.HTMLParser):
    """Collects what a browser would load, the tags left open, and the text."""

    VOID = frozenset({"meta", "br", "image", "circle", "path"})

    def __init__(self):
        super().__init__()
        self.loads, self.stack, self.text, self.tags = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for key, value in attrs if key in {"src", "href", "data"} and value]
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for key, value in attrs if key in {"src", "href"} and value]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def written(path, **kwargs):
    summary = write_report(path, run=RUN, **kwargs)
    reader = Reader()
    text = path.read_text(encoding="utf-8")
    reader.feed(text)
    assert reader.stack == []
    return summary, reader, text


@pytest.fixture
def zone(factory):
    return factory.Zone("permanent_basic_farmland", shapely.box(499900, 2999000, 500200, 3000400))


def test_report_is_self_contained_and_complete(tmp_path, factory, zone):
    summary, reader, text = written(
        tmp_path / "report.html",
        findings=[factory.findings_frame(6)],
        changes=[factory.changes_frame(6)],
        pair=factory.Pixels(),
        zones=[zone],
    )
    assert (summary.cards, summary.total) == (6, 6)
    assert all(load.startswith(("data:image/jpeg;base64,", "#c")) for load in reader.loads)
    assert len([load for load in reader.loads if load.startswith("data:")]) == 6 * 2 + 1
    assert not re.search(r"https?://(?!www\.w3\.org)|@import|url\(", text)
    assert "<script>" not in text
    said = "".join(reader.text)
    for words in ("疑似", "不作合法性判定", "CRS of STBHHX was guessed <script>", "same season", "占用永久基本农田"):
        assert words in said
    for n in range(6):
        assert f"f{n:04d}" in said
    assert 'lang="zh-CN"' in text


def test_same_inputs_give_the_same_bytes(tmp_path, factory, zone):
    for name in ("a", "b"):
        written(tmp_path / name, findings=[factory.findings_frame(3)], pair=factory.Pixels(), zones=[zone])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_gpkg_and_frames_give_the_same_report(tmp_path, factory):
    write_layers(
        tmp_path / "f.gpkg",
        crs="EPSG:4547",
        changes=[factory.changes_frame(4)],
        findings=[factory.findings_frame(4)],
    )
    written(tmp_path / "a", findings=tmp_path / "f.gpkg", changes=str(tmp_path / "f.gpkg"), pair=factory.Pixels())
    written(
        tmp_path / "b", findings=[factory.findings_frame(4)], changes=[factory.changes_frame(4)], pair=factory.Pixels()
    )
    assert (tmp_path / "a").read_text(encoding="utf-8") == (tmp_path / "b").read_text(encoding="utf-8")


def test_cards_are_capped_and_the_report_says_so(tmp_path, factory):
    summary, reader, text = written(
        tmp_path / "r", findings=[factory.findings_frame(20)], settings=ReportSettings(max_cards=4)
    )
    assert (summary.cards, summary.total) == (4, 20)
    assert "此处列出 4 条，另有 16 条未列出；全部记录见 findings.gpkg" in "".join(reader.text)
    assert text.count("<article") == 4


def test_without_imagery_there_are_no_chips_and_it_says_so(tmp_path, factory):
    _, reader, _ = written(tmp_path / "r", findings=[factory.findings_frame(2)])
    assert "image" not in reader.tags
    assert "没有前后对比图" in "".join(reader.text) or RUN["pair"]
    bare = {key: value for key, value in RUN.items() if key != "pair"}
    write_report(tmp_path / "s", run=bare, findings=[factory.findings_frame(2)], lang="en")
    assert "no before/after pictures" in (tmp_path / "s").read_text(encoding="utf-8")


def test_without_a_plan_changes_get_the_cards(tmp_path, factory):
    summary, reader, text = written(
        tmp_path / "r", findings=None, changes=[factory.changes_frame(5)], pair=factory.Pixels()
    )
    assert summary.cards == 5
    said = "".join(reader.text)
    assert "未提供规划图层" in said
    assert "地表变化图斑报告" in said
    assert "c0004" in said
    assert text.index("c0004") < text.index("c0000")  # by area


def test_english(tmp_path, factory):
    write_report(tmp_path / "r", run=RUN, findings=[factory.findings_frame(1)], lang="en")
    text = (tmp_path / "r").read_text(encoding="utf-8")
    assert 'lang="en"' in text
    assert "not a judgement" in text
    assert "built on P" not in text or "P1" in text
    with pytest.raises(UsageError, match="use one of: zh, en"):
        write_report(tmp_path / "r", run=RUN, findings=[], lang="fr")


def test_every_text_is_escaped(tmp_path, factory):
    hostile = '"><script>alert(1)</script>'
    frame = factory.findings_frame(1, reason=hostile, basis=hostile, finding_id=hostile, to_class=hostile)
    _, reader, text = written(tmp_path / "r", findings=[frame], pair=factory.Pixels())
    assert "script" not in reader.tags
    assert "<script>alert" not in text


def test_no_findings_and_unwritable(tmp_path, factory):
    summary, reader, _ = written(tmp_path / "r", findings=[])
    assert summary.total == 0
    assert "没有规则命中的图斑" in "".join(reader.text)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_report(tmp_path / "file" / "r.html", run=RUN, findings=[])


def test_polygon_off_the_pixels_has_no_picture(tmp_path, factory):
    _, reader, _ = written(tmp_path / "r", findings=[factory.findings_frame(1, start=400)], pair=factory.Pixels())
    assert "此处没有有效像元" in "".join(reader.text)


def decoded(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))).astype(int)


def test_chip_shows_the_change_under_its_outline(factory):
    pixels = factory.Pixels()
    shape = factory.changes_frame(1).geometry[0]
    chip = make_chip(pixels, shape, settings=ChipSettings())
    before, after = decoded(chip.before), decoded(chip.after)
    assert min(before.shape[:2]) >= 256
    assert pixels.reads == [(64, 64)]
    gap = np.abs(after - before).sum(axis=2)
    rows, columns = np.nonzero(gap > 200)
    scale = 1000 / before.shape[1]
    numbers = [float(n) for n in re.findall(r"[\d.]+", chip.outline)]
    xs, ys = numbers[0::2], numbers[1::2]
    assert np.mean(columns) * scale == pytest.approx((min(xs) + max(xs)) / 2, abs=6)
    assert np.mean(rows) * scale == pytest.approx((min(ys) + max(ys)) / 2, abs=6)
    # 30 m of 640 m
    assert max(xs) - min(xs) == pytest.approx(1000 * 30 / 640, abs=0.5)


def test_both_dates_share_the_stretch(factory):
    chip = make_chip(factory.Pixels(), factory.changes_frame(1).geometry[0], settings=ChipSettings())
    before, after = decoded(chip.before), decoded(chip.after)
    assert np.abs(before[:100] - after[:100]).max() <= 3  # unchanged ground looks the same


def test_scale_bar_and_zones(factory, zone):
    other = factory.Zone("ecological_red_line", shapely.box(0, 0, 10, 10))
    chip = make_chip(factory.Pixels(), factory.changes_frame(1).geometry[0], [zone, other], settings=ChipSettings())
    assert chip.scale_m == 100.0
    # On the ellipsoid the grid's metres are a little long or short, never by a per mille here.
    assert chip.scale_units == pytest.approx(1000 * 100 / 640, rel=2e-3)
    assert [role for role, _ in chip.zones] == ["permanent_basic_farmland"]
    assert abs(chip.north_deg) < 0.5
    assert not chip.partial


def test_large_polygon_is_shown_in_part(factory):
    pixels = factory.Pixels()
    chip = make_chip(pixels, shapely.box(499500, 2998500, 501700, 3000500), settings=ChipSettings(max_read_px=64))
    assert chip.partial
    assert max(max(read) for read in pixels.reads) <= 65


def test_without_blue_false_colour_is_named(factory):
    shown = read_colours(factory.Pixels(blue=False), Window(0, 0, 10, 10))
    assert shown[3] == ("B08", "B04", "B03")
    assert read_colours(factory.Pixels(), Window(-50, -50, 10, 10)) is None


def test_ground_measures_agree_with_the_geodesic(factory):
    pixels = factory.Pixels()
    pixels.crs, pixels.transform = "EPSG:4326", Affine(1e-4, 0, 2.0, 0, -1e-4, 48.0)
    across, down = ground_size(pixels, 10, 10)
    geod = pyproj.Geod(ellps="WGS84")
    assert across == pytest.approx(geod.inv(2.001, 47.999, 2.0011, 47.999)[2], rel=1e-6)
    assert down == pytest.approx(geod.inv(2.001, 47.999, 2.001, 47.9991)[2], rel=1e-5)
    assert north_angle(pixels, 10, 10) == pytest.approx(0, abs=1e-6)


def test_north_on_a_rotated_grid(factory):
    pixels = factory.Pixels()
    cos, sin = 10 * math.cos(math.radians(30)), 10 * math.sin(math.radians(30))
    pixels.transform = Affine(cos, sin * -1, 500000, -sin, -cos, 3e6)
    # The grid is turned clockwise by 30°, so north stands 30° to the left of its top.
    assert north_angle(pixels, 0, 0) == pytest.approx(-30, abs=0.1)


def test_overview_marks_a_finding_where_it_lies(factory):
    pixels = factory.Pixels()
    plain, marked = (Overview(pixels, longest_px=220) for _ in range(2))
    big = shapely.box(500000, 2999000, 500500, 2999500)
    marked.add(np.array([big, shapely.Point(501000, 2999800).buffer(5)], dtype=object), ["#c81e1e", "#00ff00"])
    gap = np.abs(decoded(marked.uri()) - decoded(plain.uri())).sum(axis=2) > 150
    rows, columns = np.nonzero(gap)
    scale = marked.width / 220
    assert columns.min() == pytest.approx(50 * scale, abs=4)
    assert columns.max() == pytest.approx(150 * scale, abs=7)
    assert rows.max() == pytest.approx(150 * scale, abs=4)
    assert max(marked.width, marked.height) <= 440


@given(st.lists(st.tuples(st.floats(12, 388), st.floats(12, 388)), max_size=12))
def test_numbers_never_cover_one_another(places):
    moved = apart(places, 400)
    assert len(moved) == len(places)
    for at, (x, y) in enumerate(moved):
        assert x <= 400
        for left, top in moved[:at]:
            assert max(abs(x - left), abs(y - top)) >= 21.9  # 22 less the rounding


def test_summary_and_cards_speak_the_language_of_the_report(tmp_path, factory):
    frame = factory.findings_frame(4, reason="P1 占用：疑似 | P1 built on: suspected")
    frame = frame.assign(
        change_id="c0000",
        rule_id=["E1", "F11", "P1", "U1"],
        severity=["S3", "S1", "S4", "S2"],
        status=["suspected", "suspected", "suspected", "permitted"],
    )
    for lang, mine, other, stage in (
        ("zh", "P1 占用：疑似", "P1 built on", "规划"),
        ("en", "P1 built on", "占用：", "plan"),
    ):
        _, reader, text = written(tmp_path / lang, findings=[frame], pair=factory.Pixels(), lang=lang)
        said = "".join(reader.text)
        assert mine in said
        assert other not in said.replace("占用永久基本农田", "")
        assert f'<span class="stage">{stage}</span>' in text
        assert '<span class="stage">elsewhere</span>' in text
        summary = text[text.index('class="tiles"') : text.index('id="c1"')]
        rules = re.findall(r'<tr><th scope="row">(\w+)', summary)
        assert rules[:4] == ["P1", "E1", "F11", "U1"]  # by status, then severity
        tiles = summary[: summary.index("<table>")]
        assert "m²" not in tiles  # one change under three rules must not be added up
        marks = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', text)
        assert len(set(marks)) == 4


@given(st.floats(1e-3, 1e7))
def test_round_length_is_the_nearest_below(metres):
    length = round_length(metres)
    assert length <= metres * (1 + 1e-6)
    assert metres < length * 2.5 * (1 + 1e-6)
    assert float(f"{length:e}".partition("e")[0]) in {1.0, 2.0, 5.0}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4), st.floats(1, 1e6)), max_size=30), st.integers(0, 8))
def test_tally_equals_sorting_everything(factory, rows, keep):
    tally = Tally(("rule_id", "status"), keep)
    frame = factory.findings_frame(max(len(rows), 1)).iloc[: len(rows)]
    frame = frame.assign(
        status=[factory.STATUSES[status] for status, _, _ in rows],
        severity=[f"S{severity}" for _, severity, _ in rows],
        overlap_m2=[area for _, _, area in rows],
    )
    for start in range(0, len(rows), 7):
        tally.add(frame.iloc[start : start + 7])
    order = {"suspected": 0, "inconclusive": 1, "undetermined": 2, "permitted": 3, "compliant": 4}
    ranked = sorted(
        frame.to_dict("records"),
        key=lambda row: (order[row["status"]] > 2, -int(row["severity"][1]), order[row["status"]], -row["overlap_m2"]),
    )
    assert [row["finding_id"] for row, _ in tally.top()] == [row["finding_id"] for row in ranked[:keep]]
    assert math.isclose(
        sum(found.overlap_m2 for found in tally.groups.values()), float(frame["overlap_m2"].sum()), rel_tol=1e-9
    )


def test_svg_path_keeps_holes():
    ring = shapely.box(0, 0, 9, 9).difference(shapely.box(3, 3, 6, 6))
    assert svg_path(ring).count("M") == 2
    assert svg_path(shapely.Point(0, 0)) == ""


@pytest.mark.data
def test_real_scene_gives_a_decimated_overview(data_root, tmp_path):
    from types import SimpleNamespace

    from tuban.data.scene import Scene

    folder = data_root / "oscd" / "saclay_e"
    with Scene.open(folder / "before.tif") as before, Scene.open(folder / "after.tif") as after:

        def read(window, names):
            first, ok = before.read(window, names)
            second, fine = after.read(window, names)
            return SimpleNamespace(before=first, after=second, valid=ok & fine)

        pair = SimpleNamespace(
            before=before, after=after, crs=before.crs, transform=before.transform,
            height=before.height, width=before.width, read=read,
        )  # fmt: skip
        overview = Overview(pair, longest_px=300)
        assert overview.available
        assert decoded(overview.uri()).std() > 20
        # Degrees are narrower than tall at 48.7° north: the picture keeps the ground's proportions.
        across, down = ground_size(pair, before.width / 2, before.height / 2)
        assert overview.width / overview.height == pytest.approx(before.width * across / before.height / down, rel=0.02)


def test_browser_opens_it_without_complaint(tmp_path, factory):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no chromium on this machine")
    write_report(tmp_path / "r.html", run=RUN, findings=[factory.findings_frame(2)], pair=factory.Pixels())
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --enable-logging=stderr --v=0"
    shown = subprocess.run(
        [browser, *flags.split(), f"--user-data-dir={tmp_path / 'p'}", "--dump-dom", (tmp_path / "r.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in shown.stderr  # a resource that the page's policy forbids would be named here
    assert "疑似占用耕地变化图斑报告" in shown.stdout
