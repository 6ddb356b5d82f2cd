from __future__ import annotations

import shutil
import subprocess

import pytest
import shapely

from tuban.errors import UsageError
from tuban.postprocess import pdf_fonts
from tuban.postprocess.legend import fonts
from tuban.postprocess.report import ReportSettings, write_report

RUN = {
    "versions": {"tuban": "0.2.0"},
    "inputs": [{"role": "before", "name": "前.tif", "sha256": "ab" * 32}],
    "notes": [{"stage": "plan", "text": "guessed & <said>"}],
    "rule_pack": {"id": "cn", "version": "2026.1", "titles": {"P1": {"zh": "占用永久基本农田", "en": "built on P"}}},
    "content_sha256": "cd" * 32,
}
HAS_FONT = next(pdf_fonts._installed(fonts()), None) is not None
needs_font = pytest.mark.skipif(
    not HAS_FONT, reason="no font with Chinese is installed; apt-get install fonts-noto-cjk"
)


def text_of(path, *options):
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext is not installed; apt-get install poppler-utils")
    return subprocess.run(["pdftotext", *options, str(path), "-"], check=True, capture_output=True, text=True).stdout


@needs_font
def test_dossier_has_a_page_for_each_finding_and_says_all(tmp_path, factory):
    zone = factory.Zone("permanent_basic_farmland", shapely.box(499900, 2999000, 500200, 3000400))
    frame = factory.findings_frame(5, reason="㙍 𬭎 图斑 <b>&</b> | plot").assign(trace='{"areas_m2": {"net": 12.5}}')
    summary = write_report(
        tmp_path / "d.pdf", run=RUN, findings=[frame], changes=[factory.changes_frame(5)], pair=factory.Pixels(),
        zones=[zone], settings=ReportSettings(max_cards=3, max_listed=4), fmt="pdf")  # fmt: skip
    assert (summary.cards, summary.total, summary.notes) == (3, 5, ())
    said = text_of(tmp_path / "d.pdf")
    pages = said.split("\f")
    own = [page for page in pages if "套合示意图" in page]
    assert len(own) == 3
    for page in own:
        for words in ("前时相", "后时相", "㙍 𬭎 图斑 <b>&</b>", "ab" * 32, "扣除批准后 12.5", "永久基本农田"):
            assert words in page
    assert "plot" not in said
    assert "清单列出最重要的 4 条，共 5 条" in said
    assert "其中最重要的 3 条各有单独一页" in said
    assert "guessed & <said>" in said
    assert f"第 1 页，共 {len(pages) - 1} 页" in said


@needs_font
def test_fonts_are_embedded(tmp_path, factory):
    write_report(tmp_path / "d.pdf", run=RUN, findings=[factory.findings_frame(1)], fmt="pdf")
    raw = (tmp_path / "d.pdf").read_bytes()
    assert b"/FontFile2" in raw
    assert b"STSong" not in raw


@needs_font
def test_english_and_changes_only(tmp_path, factory):
    write_report(tmp_path / "d.pdf", run=RUN, findings=None, changes=[factory.changes_frame(2)], lang="en", fmt="pdf")
    said = text_of(tmp_path / "d.pdf")
    assert "No plan was given" in said
    assert "Page 1 of" in said


def test_without_a_font_the_viewer_must_bring_one_and_it_is_said(tmp_path, factory, monkeypatch):
    monkeypatch.setattr(pdf_fonts, "_installed", lambda _: iter(()))
    summary = write_report(tmp_path / "d.pdf", run=RUN, findings=[factory.findings_frame(1)], fmt="pdf")
    assert "no Chinese font was found to embed" in summary.notes[0]
    assert b"STSong-Light" in (tmp_path / "d.pdf").read_bytes()


@needs_font
def test_characters_that_the_font_lacks_are_named(tmp_path, factory):
    summary = write_report(
        tmp_path / "d.pdf", run=RUN, findings=[factory.findings_frame(1, basis="\U0001f33e")], fmt="pdf"
    )
    assert "lacks the characters U+1F33E" in summary.notes[0]


def test_font_that_cannot_be_used_is_refused(tmp_path, factory):
    (tmp_path / "no.ttf").write_bytes(b"nothing")
    for font in (tmp_path / "no.ttf", tmp_path / "absent.ttf"):
        with pytest.raises(UsageError, match="cannot be used"):
            write_report(
                tmp_path / "d.pdf",
                run=RUN,
                findings=[factory.findings_frame(1)],
                settings=ReportSettings(font=str(font)),
                fmt="pdf",
            )


@needs_font
def test_a_second_pdf_of_the_process_has_its_own_characters(tmp_path, factory):
    for number, word in enumerate(("垄", "埂")):
        path = tmp_path / f"{number}.pdf"
        write_report(path, run=RUN, findings=[factory.findings_frame(1, reason=word)], fmt="pdf")
        assert f"判读依据：{word}" in text_of(path)
