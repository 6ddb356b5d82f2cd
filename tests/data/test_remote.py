"""Images over HTTP and S3, from servers that work and servers that fail: what is fetched, retried, said, and hidden."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time

import numpy as np
import pytest
from rasterio.windows import Window

from tuban.data.fetch import fetch_text
from tuban.data.identity import identity
from tuban.data.remote import RemoteSettings
from tuban.data.scene import Scene, SceneSettings
from tuban.errors import ReadError, SceneError

QUICK = RemoteSettings(
    retries=1, retry_delay_s=0.01, connect_timeout_s=1, timeout_s=2, stall_s=1, give_up_s=3, cache_mb=16
)
SETTINGS = SceneSettings(remote=QUICK, probe_window=128)
PLACE = Window(200, 150, 256, 256)
SECRET = "c2VjcmV0c2VjcmV0"  # noqa: S105 - it is what must not leak


def opened(uri):
    return Scene.open(uri, settings=SETTINGS)


def pixels(uri, window=PLACE):
    with opened(uri) as scene:
        return scene.read(window, scene.names)[0]


def cut(values, window=PLACE):
    rows, cols = (
        slice(window.row_off, window.row_off + window.height),
        slice(window.col_off, window.col_off + window.width),
    )
    return values[:, rows, cols]


@pytest.fixture
def image(server, write_image):
    """Pixels of `/a.tif` on the server."""
    return write_image(server.root / "a.tif", driver="COG", blocksize=128, tiled=None, blockxsize=None, blockysize=None)


# What is fetched


def test_reads_what_the_file_holds_by_every_form_of_address(server, image):
    for uri in (
        f"{server.url}/a.tif",
        f"/vsicurl/{server.url}/a.tif",
        f"/vsicurl?max_retry=1&url={server.url}/a.tif",
        f"{server.url}/a.tif?sig={SECRET}",
    ):
        assert np.array_equal(pixels(uri), cut(image)), uri


def test_one_window_of_a_large_cog_fetches_a_small_share(server, write_image):
    values = write_image(
        server.root / "big.tif", size=1536, driver="COG", blocksize=128, tiled=None, blockxsize=None, blockysize=None
    )
    size = (server.root / "big.tif").stat().st_size
    window = Window(700, 900, 128, 128)
    with opened(f"{server.url}/big.tif") as scene:
        opening = server.sent
        assert np.array_equal(scene.read(window, scene.names)[0], cut(values, window))
    assert all(request.range for request in server.seen if request.method == "GET" and request.path == "/big.tif")
    assert opening < 0.12 * size  # header, four corners and the probe
    assert server.sent - opening < 0.06 * size  # an unaligned window is in 4 of 144 blocks


def test_what_was_fetched_is_not_fetched_again_while_open(server, image):
    with opened(f"{server.url}/a.tif") as scene:
        scene.read(PLACE, scene.names)
        server.forget()
        scene.read(PLACE, scene.names)
        assert server.sent == 0


def test_siblings_are_asked_for_only_where_there_are_any(server, image):
    pixels(f"{server.url}/a.tif")
    assert len(server.seen) < 20
    assert not [request for request in server.seen if request.path.endswith((".IMD", ".rpb"))]


def test_mask_beside_a_remote_image_counts(server, write_image):
    import rasterio

    path = server.root / "masked.tif"
    write_image(path, photometric="minisblack")
    mask = np.full((512, 512), 255, np.uint8)
    mask[160:170, 210:220] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as target:
        target.write_mask(mask)
    assert path.with_name("masked.tif.msk").exists()
    with opened(f"{server.url}/masked.tif") as scene:
        _, valid = scene.read(PLACE, scene.names)
    assert np.array_equal(valid, cut(mask[None])[0] > 0)


def test_scene_json_beside_a_remote_image(server, write_image):
    write_image(server.root / "before.tif")
    facts = {"before": "2020-05-01", "after": "2021-05-01", "scale": 0.0001, "sensor": "Sentinel-2"}
    (server.root / "scene.json").write_text(json.dumps(facts))
    with opened(f"{server.url}/before.tif?x=1") as scene:
        assert str(scene.date) == "2020-05-01"
        assert scene.bands[0].scale == 0.0001
        assert scene.radiometry == "reflectance"


# Servers that fail


@pytest.mark.parametrize(
    ("fault", "value", "more"),
    [
        ("status", 500, {"times": 2}),
        ("status", 503, {"times": 1, "after": 3}),
        ("status", 429, {"times": 1}),
        ("truncate", None, {"times": 1, "after": 1, "methods": ("GET",)}),
        ("reset", None, {"times": 1, "after": 1, "methods": ("GET",)}),
        ("reset", None, {"times": 1, "methods": ("GET",)}),
        ("stall", None, {"times": 1, "after": 2, "methods": ("GET",)}),
        ("stall", None, {"times": 1, "methods": ("GET",)}),
    ],
)
def test_a_passing_fault_is_recovered_from(server, image, fault, value, more, caplog):
    server.trouble("/a.tif", fault, value, **more)
    assert np.array_equal(pixels(f"{server.url}/a.tif"), cut(image))
    assert server.left("/a.tif") <= 0  # the fault did happen
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("fault", "value", "said"),
    [
        ("status", 404, "HTTP 404.*check the address"),
        ("status", 403, "HTTP 403.*credentials"),
        ("status", 500, "HTTP 500.*check the server"),
        ("stall", None, "timed out|stalled"),
        ("truncate", None, "got [0-9]+ bytes|broke off|ended after"),
        ("reset", None, "broke off|bytes|[Cc]onnection"),
        ("drip", None, "stalled|timed out|took more"),
    ],
)
def test_a_lasting_fault_is_one_clear_error(server, image, fault, value, said):
    server.trouble("/a.tif", fault, value)
    started = time.monotonic()
    with pytest.raises(ReadError, match=said) as caught:
        pixels(f"{server.url}/a.tif?token={SECRET}")
    assert time.monotonic() - started < 30
    assert str(caught.value).startswith(f"{server.url}/a.tif?token=***: ")
    assert "\n" not in str(caught.value)


def test_a_wrong_address_is_not_tried_again(server):
    with pytest.raises(ReadError, match="HTTP 404"):
        opened(f"{server.url}/nothing.tif?signed=1")
    assert len(server.seen) == 1 + 1  # GDAL confirms a refused HEAD by a GET


def test_a_page_instead_of_an_image(server):
    (server.root / "page.tif").write_text("<html>please log in</html>")
    with pytest.raises(SceneError, match="is not a raster that GDAL can open") as caught:
        opened(f"{server.url}/page.tif")
    assert not isinstance(caught.value, ReadError)


def test_no_server(mortal):
    mortal.kill()
    with pytest.raises(ReadError, match=r"no answer|[Cc]onnect|refused"):
        opened(f"{mortal.url}/a.tif")


def test_server_dies_in_the_middle_and_comes_back(range_server, mortal, write_image):
    image = write_image(mortal.root / "a.tif")
    with opened(f"{mortal.url}/a.tif") as scene:
        scene.read(Window(0, 0, 64, 64), scene.names)
        mortal.kill()
        with pytest.raises(ReadError, match=r"bands 1, 2, 3, columns 200-456, rows 150-406") as caught:
            scene.read(PLACE, scene.names)
        assert caught.value.window == (150, 200, 256, 256)
        assert caught.value.bands == (1, 2, 3)
        with range_server(mortal.root, port=mortal.port):
            assert np.array_equal(scene.read(PLACE, scene.names)[0], cut(image))


def test_a_file_that_was_missing_is_seen_once_it_is_there(server, image):
    with pytest.raises(ReadError):
        opened(f"{server.url}/later.tif")
    shutil.copy(server.root / "a.tif", server.root / "later.tif")
    assert np.array_equal(pixels(f"{server.url}/later.tif"), cut(image))


def test_an_image_replaced_by_another_while_open(server, image, write_image):
    with opened(f"{server.url}/a.tif") as scene:
        write_image(server.root / "a.tif", size=256, seed=1)
        scene.close()
        with pytest.raises(ReadError, match="another image"):
            scene.read(PLACE, scene.names)


# Identity


def test_identity_of_a_local_file_changes_with_it(tmp_path, write_image):
    path = tmp_path / "a.tif"
    write_image(path)
    first = identity(str(path))
    assert first["size"] == path.stat().st_size
    assert first == identity(f"file://{path}") | {"uri": str(path)}
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    assert identity(str(path)) != first
    (tmp_path / "scene.json").write_text("{}")
    assert "scene.json" in identity(str(path))["parts"]
    with pytest.raises(ReadError, match="check the path"):
        identity(str(tmp_path / "none.tif"))


def test_identity_of_a_remote_file_changes_with_it(server, image, write_image):
    uri = f"{server.url}/a.tif?sig={SECRET}"
    first = identity(uri, QUICK)
    assert first["etag"]
    assert first["last_modified"]
    assert first["size"] == (server.root / "a.tif").stat().st_size
    assert SECRET not in json.dumps(first)
    assert len(server.seen) == 1  # one HEAD
    write_image(server.root / "a.tif", seed=2)
    assert identity(uri, QUICK) != first


def test_identity_where_head_is_refused(server, image):
    """Addresses signed for GET only answer HEAD with 403."""
    plain = identity(f"{server.url}/a.tif", QUICK)
    server.trouble("/a.tif", "status", 403, methods=("HEAD",))
    assert identity(f"{server.url}/a.tif", QUICK) == plain


def test_texts_are_bounded_and_whole(server):
    (server.root / "t.json").write_text("{}")
    assert fetch_text(f"{server.url}/t.json", QUICK) == "{}"
    server.trouble("/t.json", "truncate")
    with pytest.raises(ReadError, match="ended after 1 of 2 bytes"):
        fetch_text(f"{server.url}/t.json", QUICK)
    (server.root / "big.json").write_bytes(b" " * (17 << 20))
    with pytest.raises(SceneError, match="more than 16 MB"):
        fetch_text(f"{server.url}/big.json", QUICK)


# STAC items by URL


def item(**hrefs):
    assets = {name: {"href": href, "eo:bands": [{"name": name}]} for name, href in hrefs.items()}
    properties = {"datetime": "2022-03-04T10:00:00Z", "platform": "sentinel-2a"}
    return json.dumps(
        {"type": "Feature", "stac_version": "1.0.0", "id": "x", "properties": properties, "assets": assets}
    )


def test_stac_item_by_url_with_relative_and_absolute_assets(server, write_image):
    values = write_image(server.root / "data" / "b2.tif")
    other = write_image(server.root / "items" / "b3.tif", seed=5)
    text = item(B02="../data/b2.tif", B03="./b3.tif", B04=f"{server.url}/data/b2.tif?sig={SECRET}")
    (server.root / "items" / "s2.json").write_text(text)
    with opened(f"{server.url}/items/s2.json?token={SECRET}") as scene:
        assert scene.names == ("B02", "B03", "B04")
        assert str(scene.date) == "2022-03-04"
        got, valid = scene.read(PLACE, scene.names)
        assert valid.all()
        expected = np.stack([values[0], other[0], values[0]])
        assert np.allclose(got, cut(expected) * scene.bands[0].scale + scene.bands[0].offset)
        assert SECRET not in f"{scene!r} {scene.path} {scene.notes}"


def test_stac_item_whose_asset_fails_names_asset_and_hides_its_signature(server, write_image):
    write_image(server.root / "b2.tif")
    (server.root / "i.json").write_text(item(B02="b2.tif", B03=f"b3.tif?sig={SECRET}"))
    with pytest.raises(ReadError, match=r"i\.json: asset .*b3\.tif\?sig=\*\*\*: cannot be read \(HTTP 404\)"):
        opened(f"{server.url}/i.json")


# Secrets


def test_secrets_are_never_logged_or_said(server, image, caplog):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("rasterio").setLevel(logging.INFO)
    server.trouble("/a.tif", "status", 503)
    uri = f"{server.url.replace('//', f'//user:{SECRET}@')}/a.tif?X-Amz-Signature={SECRET}&sig={SECRET}&token={SECRET}"
    with pytest.raises(ReadError) as caught:
        opened(uri)
    logging.getLogger("rasterio").setLevel(logging.NOTSET)
    assert "503" in caplog.text + str(caught.value)
    assert SECRET not in caplog.text
    error = caught.value
    while error is not None:
        assert SECRET not in str(error)
        error = error.__cause__


def test_user_in_an_address_is_sent_and_hidden(server, image):
    uri = f"{server.url.replace('//', '//user:pa%3Ass@')}/a.tif"
    with opened(uri) as scene:
        assert "pa" not in scene.path
        assert np.array_equal(scene.read(PLACE, scene.names)[0], cut(image))
    sent = {request.headers.get("Authorization") for request in server.seen}
    assert "Basic dXNlcjpwYTpzcw==" in sent


# S3, against moto: a stand-in that speaks S3's protocol over real sockets but checks no signature


@pytest.fixture
def bucket(monkeypatch, server, image):
    """The name of a bucket that holds `d/a.tif`, and everything GDAL needs to find it."""
    pytest.importorskip("moto", reason="S3 is tested against moto: pip install 'moto[server]'")
    import pyarrow.fs
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    environment = {
        "AWS_S3_ENDPOINT": f"{host}:{port}", "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE",
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
    }  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    store = pyarrow.fs.S3FileSystem(
        endpoint_override=f"{host}:{port}", scheme="http", region="us-east-1", allow_bucket_creation=True
    )
    store.create_dir("images")
    with store.open_output_stream("images/d/a.tif") as stream:
        stream.write((server.root / "a.tif").read_bytes())
    yield "images"
    running.stop()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of moto's own dependencies
def test_s3(bucket, image):
    for uri in (f"s3://{bucket}/d/a.tif", f"/vsis3/{bucket}/d/a.tif"):
        assert np.array_equal(pixels(uri), cut(image))
    facts = identity(f"s3://{bucket}/d/a.tif", QUICK)
    assert facts["size"]
    assert facts["etag"]
    with pytest.raises(ReadError, match=r"does not exist.*check the address|HTTP 404"):
        opened(f"s3://{bucket}/none.tif")
    allowed = QUICK.model_copy(update={"service": True, "allow": (f"s3://{bucket}/d/",)})
    with Scene.open(f"s3://{bucket}/d/a.tif", settings=SceneSettings(remote=allowed)) as scene:
        assert np.array_equal(scene.read(PLACE, scene.names)[0], cut(image))
    with pytest.raises(SceneError, match="bucket is not allowed"):
        Scene.open(f"s3://{bucket}/e/a.tif", settings=SceneSettings(remote=allowed))
