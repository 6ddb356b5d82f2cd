"""The allow-list of a service: what it refuses, however an address is written, and that nothing was fetched."""

from __future__ import annotations

import json
import socket

import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from rasterio.errors import RasterioError
from rasterio.windows import Window

from tuban.data.address import address, gdal_path, redacted
from tuban.data.allow import AllowList, canonical_host
from tuban.data.fetch import fetch_text
from tuban.data.identity import identity
from tuban.data.remote import RemoteSettings, access
from tuban.data.scene import Scene, SceneSettings
from tuban.errors import ForbiddenAddressError, UsageError

ALLOW = ("example.org", "*.sat.net", "127.0.0.1:8080", "https://h.io/img/", "s3://bkt/pre/", "10.0.0.1")
VRT = (
    '<VRTDataset rasterXSize="512" rasterYSize="512"><SRS>EPSG:32650</SRS>'
    "<GeoTransform>500000,10,0,4000000,0,-10</GeoTransform>"
    '<VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename relativeToVRT="{relative}">{source}'
    "</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
)


@pytest.mark.parametrize(
    "uri",
    [
        "http://example.org/x", "https://EXAMPLE.org./x", "/vsicurl/http://example.org/x", "https://a.b.sat.net/x",
        "/vsicurl?max_retry=2&url=http%3A%2F%2Fexample.org%2Fx", "http://127.0.0.1:8080/x", "http://0x7f.1:8080/x",
        "https://h.io/img/a.tif?sig=1", "s3://bkt/pre/a", "/vsis3/bkt/pre/a", "/vsizip//vsicurl/http://example.org/a.zip/b",
    ],
)  # fmt: skip
def test_allowed(uri):
    AllowList([ALLOW]).check(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "http://evil.net/x", "https://sat.net/x", "https://evilsat.net/x", "http://127.0.0.1/x", "https://127.0.0.1:8081/x",
        "http://example.org:8080/x", "http://h.io/img/a", "https://h.io/imgs/a", "https://h.io/img/../a",
        "https://h.io/img/%2e%2e/a", "https://h.io/img/..%2fa", "s3://bkt/other", "s3://bkt/pre/../x", "s3://bktpre/x",
        "/vsis3/other/pre/x", "gs://bkt/pre/x", "/etc/passwd", "relative.tif", "file:///etc/passwd", "ftp://example.org/x",
        "http://example.org@evil.net/", "http://evil.net\\@example.org/", "http://example.org\t@evil.net/",
        "http://user:pw@example.org/x", "http:example.org/x", "http:///example.org", "http://169.254.169.254/latest",
        "http://[::ffff:169.254.169.254]/", "http://2852039166/", "http://0xa9fea9fe/", "http://[fe80::1%25eth0]/",
        "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://localhost:8080/", "http://example.org.evil.net/",
        "/vsicurl/http://evil.net/x", "/vsicurl?url=http://evil.net/x",
        "/vsicurl?url=http://example.org&url=http://evil.net",
        "/vsicurl_streaming/http://evil.net/x", "/vsicurl/file:///etc/passwd",
        "/vsizip//vsicurl/http://evil.net/a.zip/b",
        "/vsizip/vsicurl/http://evil.net/a.zip", "/vsizip/{/vsicurl/http://evil.net/a.zip}/b", "/vsigzip//etc/x.gz",
        "/vsitar//vsizip//vsicurl/http://evil.net/a.zip", "/vsisubfile/0_9,/vsicurl/http://evil.net/x",
        "/vsisubfile/0_9",
        "/vsicached?file=/vsicurl/http://evil.net/x",
        "/vsicrypt/key=a,file=/etc/passwd", "/vsisparse//etc/x", "/vsistdin/",
        "/vsimem/x", "/vsihdfs/hdfs://evil.net/x", "/vsiwebhdfs/http://evil.net/x", "vrt:///etc/passwd", "zip:///a.zip!b",
        "zip+https://evil.net/a.zip!b", "WMS:http://evil.net", "GTIFF_DIR:1:/vsicurl/http://evil.net/x", 'STACIT:"x"',
        "NETCDF:/vsicurl/http://evil.net/x", 'HDF5:"http://evil.net"://x', "PG:host=evil.net", "<VRTDataset/>",
        "<GDAL_WMS/>", "", " http://example.org/x", "http://example.org/\r\nHost: evil.net",
    ],
)  # fmt: skip
def test_refused(uri):
    with pytest.raises(ForbiddenAddressError, match="nothing was fetched"):
        AllowList([ALLOW]).check(uri)


def test_folders_are_followed_to_where_they_really_are(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "in-not"
    inside.mkdir()
    outside.mkdir()
    (outside / "x.tif").write_bytes(b"")
    (inside / "link.tif").symlink_to(outside / "x.tif")
    allow = AllowList([(str(inside),)])
    allow.check(str(inside / "a.tif"))
    allow.check(f"file://{inside}/a.tif")
    for path in (outside / "x.tif", inside / "link.tif", inside / ".." / "in-not" / "x.tif", tmp_path):
        with pytest.raises(ForbiddenAddressError, match="no folder"):
            allow.check(str(path))


@pytest.mark.parametrize(
    "entry", ["", "a b", "http://", "ftp://example.org", "relative/folder", "http://u@h/", "*", "h:99999"]
)
def test_an_entry_that_means_nothing_is_wrong_usage(entry):
    with pytest.raises(UsageError, match=r"write example\.org"):
        AllowList([(entry,)])


@given(st.ip_addresses(v=4))
def test_every_notation_of_an_ip_address_is_one_host(ip):
    number, (a, b, c, d) = int(ip), ip.packed
    for text in (str(number), hex(number), f"0x{a:x}.0x{b:x}.0x{c:x}.0x{d:x}", f"[::ffff:{ip}]", f"{ip}."):
        assert canonical_host(text) == str(ip)


@given(st.text(max_size=40))
def test_no_address_is_both_refused_and_opened_elsewhere(text):
    """What is allowed leads to an allowed host, as Python's and GDAL's way of splitting see it."""
    uri = f"http://{text}"
    try:
        place = AllowList([("example.org",)]).check(uri)
    except ForbiddenAddressError:
        return
    assert place.where.split("/")[2].split(":")[0].rstrip(".").casefold() == "example.org"
    assert gdal_path(uri) == f"/vsicurl/{uri}"


def test_the_operators_list_cannot_be_widened(monkeypatch):
    monkeypatch.setenv("TUBAN_ALLOW", "a.org, b.org")
    RemoteSettings().allowed().check("http://a.org/x")
    narrowed = RemoteSettings(service=True, allow=("b.org", "evil.net")).allowed()
    narrowed.check("http://b.org/x")
    for host in ("a.org", "evil.net"):
        with pytest.raises(ForbiddenAddressError):
            narrowed.check(f"http://{host}/x")
    with pytest.raises(ForbiddenAddressError):
        RemoteSettings(allow=("evil.net",)).allowed().check("http://evil.net/x")
    monkeypatch.setenv("TUBAN_ALLOW", "")
    with pytest.raises(ForbiddenAddressError):
        RemoteSettings().allowed().check("http://a.org/x")


def test_names_that_lead_inside(monkeypatch):
    """DNS rebinding: a name of an outsider that resolves to this machine."""
    places = {
        "a.sat.net": "127.0.0.1",
        "example.org": "10.1.2.3",
        "b.sat.net": "169.254.169.254",
        "c.sat.net": "8.8.8.8",
    }
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, port, **_: [(socket.AF_INET, 1, 6, "", (places[host], port))]
    )
    allow = AllowList([ALLOW])
    assert allow.addresses("c.sat.net", 443)
    assert allow.addresses("example.org", 443)  # listed by its full name: an inside server the operator means
    for host in ("a.sat.net", "b.sat.net"):
        with pytest.raises(ForbiddenAddressError, match="private network"):
            allow.addresses(host, 443)
    places["example.org"] = "169.254.169.254"
    with pytest.raises(ForbiddenAddressError):
        allow.addresses("example.org", 443)


# With real servers: one that is allowed, one that must never hear of it


@pytest.fixture
def guarded(server, mortal, write_image):
    """Settings that allow `server`, with an image on each server."""
    write_image(server.root / "a.tif")
    write_image(mortal.root / "a.tif")
    quick = {"retries": 1, "retry_delay_s": 0.01, "connect_timeout_s": 1, "timeout_s": 2, "stall_s": 1, "give_up_s": 3}
    port = server.url.split(":")[2].split("/")[0]
    return RemoteSettings(service=True, allow=(f"127.0.0.1:{port}", str(server.root)), **quick)


def scene_of(uri, remote):
    with Scene.open(uri, settings=SceneSettings(remote=remote)) as scene:
        return scene.read(Window(0, 0, 64, 64), scene.names)[1].all()


def test_service_reads_what_is_allowed(server, guarded):
    assert scene_of(f"{server.url}/a.tif", guarded)
    assert scene_of(str(server.root / "a.tif"), guarded)
    assert identity(f"{server.url}/a.tif", guarded)["etag"]


def test_service_refuses_what_is_not(server, mortal, guarded):
    with pytest.raises(ForbiddenAddressError):
        scene_of(f"{mortal.url}/a.tif", guarded)
    with pytest.raises(ForbiddenAddressError):
        identity(f"{mortal.url}/a.tif", guarded)
    with pytest.raises(ForbiddenAddressError):
        fetch_text(f"{mortal.url}/a.tif", guarded)
    assert not mortal.seen


@pytest.mark.parametrize("after", [0, 2])
def test_redirects_to_a_forbidden_host(server, mortal, guarded, after):
    """From the start, and once the address has been checked."""
    server.trouble("/a.tif", "redirect", f"{mortal.url}/a.tif", after=after)
    with pytest.raises(ForbiddenAddressError, match=r"a\.tif leads to .*a\.tif: refused"):
        scene_of(f"{server.url}/a.tif", guarded)
    assert not mortal.seen


def test_gdal_itself_cannot_get_out(server, mortal, guarded):
    """Past every check of ours: the way out is closed."""
    server.trouble("/b.tif", "redirect", f"{mortal.url}/a.tif")
    with access(guarded):
        for target in (f"{mortal.url}/a.tif", f"{server.url}/b.tif", "https://169.254.169.254/x"):
            with pytest.raises(RasterioError):
                rasterio.open(f"/vsicurl/{target}")
        rasterio.open(f"/vsicurl/{server.url}/a.tif").close()
    assert not mortal.seen


def test_guard_is_private(guarded):
    import urllib.error
    import urllib.request

    from tuban.data.guard import guard_for

    guard = guard_for(guarded.allowed())
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": f"http://{guard.address}"}))
    with pytest.raises(urllib.error.HTTPError, match="407") as caught:
        opener.open("http://127.0.0.1:1/x", timeout=2)
    caught.value.close()


@pytest.mark.parametrize("how", ["absolute", "nested", "disguised", "file"])
def test_virtual_rasters_that_lead_out(server, mortal, guarded, how, tmp_path):
    evil = f"/vsicurl/{mortal.url}/a.tif"
    source = "/etc/hostname" if how == "file" else evil
    name = "a.tif.png" if how == "disguised" else "bad.vrt"
    (server.root / name).write_text(VRT.format(relative=0, source=source))
    if how == "nested":
        (server.root / "outer.vrt").write_text(VRT.format(relative=1, source=name))
        name = "outer.vrt"
    for uri in (f"{server.url}/{name}", str(server.root / name)):
        with pytest.raises(ForbiddenAddressError):
            scene_of(uri, guarded)
    assert not mortal.seen


@pytest.mark.parametrize(
    "change",
    [
        ("<SimpleSource>", '<SimpleSource SourceFilename="/etc/hostname">'),
        ('<VRTRasterBand dataType="Byte"', '<VRTRasterBand subClass="VRTRawRasterBand" dataType="Byte"'),
        ("<SimpleSource>", "<KernelFilteredSource/><SimpleSource>"),
        ("<VRTDataset ", "<!DOCTYPE x [<!ENTITY e 'x'>]><VRTDataset "),
        ("<SRS>", '<Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">/etc/hostname</MDI></Metadata><SRS>'),
    ],
)
def test_virtual_rasters_are_plain_stacks_or_nothing(server, guarded, change):
    (server.root / "x.vrt").write_text(VRT.format(relative=1, source="a.tif").replace(*change, 1))
    with pytest.raises(ForbiddenAddressError, match="refused"):
        scene_of(f"{server.url}/x.vrt", guarded)


def test_honest_virtual_raster(server, guarded):
    (server.root / "ok.vrt").write_text(VRT.format(relative=1, source="a.tif"))
    assert scene_of(f"{server.url}/ok.vrt", guarded)
    assert scene_of(str(server.root / "ok.vrt"), guarded)


def test_stac_assets_that_lead_out(server, mortal, guarded):
    assets = {"B02": {"href": f"{mortal.url}/a.tif", "eo:bands": [{"name": "B02"}]}}
    item = {"type": "Feature", "id": "x", "properties": {"datetime": "2022-03-04T10:00:00Z"}, "assets": assets}
    (server.root / "i.json").write_text(json.dumps(item))
    for uri in (f"{server.url}/i.json", str(server.root / "i.json"), f"{mortal.url}/i.json"):
        with pytest.raises(ForbiddenAddressError):
            scene_of(uri, guarded)
    assert not mortal.seen


# Addresses and secrets


@given(st.text(alphabet=st.characters(codec="ascii", categories=["L", "N"]), min_size=6, max_size=40))
def test_secrets_are_hidden_wherever_they_stand(secret):
    secret = f"Zq{secret}"
    texts = (
        f"https://user:{secret}@h.org/a.tif", f"/vsicurl/https://h.org/a.tif?X-Amz-Signature={secret}&x=1",
        f"cannot open https://h.org/a?sig={secret}: no",
        f"/vsicurl?url=https%3A%2F%2Fh.org%2Fa%3Ftoken%3D{secret}%26x%3D1",
        f"<SourceFilename>/vsicurl/https://h.org/a?x=1&amp;sig={secret}&amp;y=2</SourceFilename>",
        f"PG:host=h password={secret} user=u", f"Authorization: Bearer {secret}",
    )  # fmt: skip
    for text in texts:
        assert secret not in redacted(text)
        assert redacted(redacted(text)) == redacted(text)


@given(st.text())
def test_any_text_is_an_address_of_some_kind(text):
    assert address(text).kind in {"local", "http", "store", "unknown"}
    redacted(text)
