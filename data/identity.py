"""What tells one version of an input from another, so that a run that goes on notices a change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuban.data.address import SIBLINGS, address, redacted
from tuban.data.fetch import requested
from tuban.data.remote import RemoteSettings
from tuban.data.stores import SCHEMES, store_facts
from tuban.errors import ReadError, RefusedError

_WORLD = (".tfw", ".jgw", ".pgw", ".wld", ".j2w")  # world files, by the suffix that takes the place of the image's


def identity(uri: str, settings: RemoteSettings | None = None) -> dict[str, Any]:
    """Say what tells this version of an input from another, without reading it.

    Args:
        uri: a path, a URL, `/vsi…`; for a member of an archive it is the archive that counts.
        settings: time-outs and the allow-list.

    Returns:
        JSON-ready: `uri` without secrets, `kind`, and what is known: `size` in bytes, `mtime_ns` of a local file,
        `etag` and `last_modified` of a remote one; for a local folder the sum of its files; `parts` for what stands
        beside a local file and changes its meaning. `unknown` says why nothing is known.

    Raises:
        ReadError: the file or the server does not answer.
        ForbiddenAddressError: the address is not allowed.
    """
    settings = settings or RemoteSettings()
    allow = settings.allowed()
    if allow is not None:
        allow.check(uri)
    place = address(uri)
    facts: dict[str, Any] = {"uri": redacted(uri), "kind": place.kind}
    if place.kind == "local":
        return facts | _local_facts(Path(place.where))
    if place.kind == "http":
        return facts | _http_facts(place.where, settings)
    if place.kind == "store" and place.where.startswith(SCHEMES):
        return facts | store_facts(place.where, settings)
    return facts | {"unknown": "this kind of address cannot be asked for its size and date"}


# What stands beside an image and changes what is read from it.


def _local_facts(path: Path) -> dict[str, Any]:
    try:
        stat = path.stat()
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            stats = [file.stat() for file in files]
            newest = max((s.st_mtime_ns for s in stats), default=0)
            return {"size": sum(s.st_size for s in stats), "mtime_ns": newest, "files": len(files)}
        beside = [path.with_name(path.name + suffix) for suffix in SIBLINGS]
        beside += [path.with_suffix(suffix) for suffix in _WORLD] + [path.with_name("scene.json")]
        parts = {
            file.name: [file.stat().st_size, file.stat().st_mtime_ns]
            for file in beside
            if file != path and file.is_file()
        }
    except OSError as error:
        raise ReadError(f"{path}: cannot be looked at ({error.strerror or error}); check the path") from error
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, **({"parts": parts} if parts else {})}


def _http_facts(url: str, settings: RemoteSettings) -> dict[str, Any]:
    try:
        headers = requested(url, settings, method="HEAD")[0]
    except RefusedError:
        # Addresses that are signed for GET only refuse HEAD; one byte tells the same.
        headers = requested(url, settings, method="GET", limit=1)[0]
    size = headers.get("content-range", "").rpartition("/")[2] or headers.get("content-length", "")
    facts = {
        "size": int(size) if size.isdigit() else None,
        "etag": headers.get("etag"),
        "last_modified": headers.get("last-modified"),
    }
    if not (facts["etag"] or facts["last_modified"]):
        facts["unknown"] = "the server gives neither ETag nor Last-Modified: only a change of size would be noticed"
    return facts
