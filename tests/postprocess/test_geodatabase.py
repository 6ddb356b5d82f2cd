from __future__ import annotations

from xml.etree import ElementTree as ET

import pyogrio
import pytest

from tuban.postprocess import geodatabase
from tuban.postprocess.export import export
from tuban.postprocess.fields import words_of
from tuban.postprocess.gdal_domains import create_domains
from tuban.postprocess.layers import write_layers


@pytest.fixture(scope="module")
def source(tmp_path_factory, factory):
    path = tmp_path_factory.mktemp("gdb") / "findings.gpkg"
    write_layers(path, crs="EPSG:4547", findings=[factory.findings_frame(5)])
    return path


def domains_in(gdb):
    """Coded domains as the GDB's own catalogue holds them (Esri's XML), read without going through our code."""
    items = pyogrio.read_dataframe(gdb, layer="GDB_Items", LIST_ALL_TABLES="YES")
    found = {}
    for text in items["Definition"].dropna():
        if "GPCodedValueDomain2" in text[:200]:
            root = ET.fromstring(text)  # noqa: S314 - a file this test wrote
            found[root.findtext("DomainName")] = {
                value.findtext("Code"): value.findtext("Name") for value in root.iter("CodedValue")
            }
    fields = {}
    for text in items["Definition"].dropna():
        if "DEFeatureClassInfo" in text[:400]:
            for field in ET.fromstring(text).iter("GPFieldInfoEx"):  # noqa: S314
                if field.findtext("DomainName"):
                    fields[field.findtext("Name")] = field.findtext("DomainName")
    return found, fields


def test_status_severity_and_classes_are_coded_domains(source, tmp_path):
    result = export(source, "gdb", tmp_path / "out")
    assert result.notes == ()
    domains, fields = domains_in(result.path)
    assert domains["tuban_status"]["suspected"] == "疑似"
    assert domains["tuban_severity"]["S4"] == "S4 特别严重"
    assert domains["tuban_class"] == words_of("class", "zh")
    assert domains["tuban_role"]["not:ecological_red_line"] == "生态保护红线以外"
    assert fields == {
        "status": "tuban_status",
        "severity": "tuban_severity",
        "from_class": "tuban_class",
        "to_class": "tuban_class",
        "zone_role": "tuban_role",
    }


def test_a_profile_in_words_holds_codes_and_offers_judgements(source, tmp_path):
    path = export(source, "gdb", tmp_path / "out", profile="cn-weipian", lang="en").path
    domains, fields = domains_in(path)
    frame = pyogrio.read_dataframe(path, layer="findings")
    assert frame["ZT"].tolist()[:2] == ["suspected", "inconclusive"]
    assert domains[fields["ZT"]]["inconclusive"] == "in doubt"
    assert list(domains[fields["HFXPD"]]) == ["合法", "其他", "非农违法", "农村道路", "设施农用地", "伪变化"]


def test_without_gdals_interface_the_dictionary_stands_in(source, tmp_path, monkeypatch):
    monkeypatch.setattr(geodatabase, "create_domains", lambda *_: "not within reach")
    result = export(source, "gdb", tmp_path / "out")
    assert "no coded domains: not within reach" in result.notes[0]
    assert len(pyogrio.read_dataframe(result.path, layer="findings")) == 5
    table = pyogrio.read_dataframe(result.path, layer="dictionary")
    row = table[(table["field"] == "status") & (table["code"] == "suspected")].iloc[0]
    assert (row["zh"], row["en"]) == ("疑似", "suspected")
    assert set(table["field"]) >= set(pyogrio.read_info(result.path, layer="findings")["fields"])


def test_interface_that_lacks_a_function_is_said(tmp_path, monkeypatch):
    def broken():
        raise AttributeError("no GDALCreate")

    monkeypatch.setattr("tuban.postprocess.gdal_domains._interface", broken)
    assert "no GDALCreate" in create_domains(tmp_path / "x.gdb", {})
    assert not (tmp_path / "x.gdb").exists()


def test_unwritable_place_is_an_oserror(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="GDAL could not make it"):
        create_domains(tmp_path / "file" / "x.gdb", {"a": {"b": "c"}})
