"""How images are read over a network: how long to wait, how often to try again, and from where."""

from __future__ import annotations

import contextlib
import functools
import os
from typing import TYPE_CHECKING, Any

import rasterio
from pydantic import BaseModel, ConfigDict, Field

from tuban.data.address import STORES
from tuban.data.allow import AllowList
from tuban.data.guard import guard_for

if TYPE_CHECKING:
    from collections.abc import Iterator

ALLOW_VARIABLE = "TUBAN_ALLOW"


class RemoteSettings(BaseModel):
    """How images are read over a network, and from where; `docs/remote.md` says how to choose.

    Attributes:
        retries: times a request, and a window whose request failed, is tried again.
        retry_delay_s: seconds before the first retry; doubles each time.
        connect_timeout_s: seconds to wait for a connection.
        timeout_s: seconds one request may take in all.
        stall_s: seconds after which a transfer below `stall_bytes` a second is given up.
        stall_bytes: bytes a second.
        give_up_s: seconds after which a window is not tried again.
        cache_mb: memory for what was fetched, in MB; shared by all images of a process.
        service: refuse every address that `allow` does not name. TUBAN_ALLOW switches it on, too.
        allow: hosts (`example.org`, `*.example.org`, `example.org:8080`), URL prefixes (`https://example.org/images/`,
            `s3://bucket/prefix/`) and folders (`/data/images`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    retries: int = Field(2, ge=0, le=20)
    retry_delay_s: float = Field(0.5, ge=0, le=60)
    connect_timeout_s: float = Field(10, gt=0, le=600)
    timeout_s: float = Field(120, gt=0, le=3600)
    stall_s: int = Field(15, ge=1, le=600)
    stall_bytes: int = Field(1000, ge=1)
    give_up_s: float = Field(180, gt=0)
    cache_mb: int = Field(64, ge=1, le=65536)
    service: bool = False
    allow: tuple[str, ...] = ()

    def allowed(self) -> AllowList | None:
        """What may be read, or None where anything may.

        TUBAN_ALLOW (entries separated by commas or spaces) is the operator's: settings can narrow it, never widen it.

        Raises:
            UsageError: an entry is neither a host, a URL prefix nor an absolute folder.
        """
        variable = os.environ.get(ALLOW_VARIABLE)
        lists = [tuple(variable.replace(",", " ").split())] if variable is not None else []
        if self.service and (self.allow or not lists):
            lists.append(self.allow)
        return _allow_list(tuple(lists)) if lists else None


@functools.lru_cache(maxsize=32)
def _allow_list(lists: tuple[tuple[str, ...], ...]) -> AllowList:
    return AllowList(lists)


@contextlib.contextmanager
def access(settings: RemoteSettings, *, siblings: bool = True) -> Iterator[None]:
    """Give GDAL, in this thread, the settings under which images are opened and read.

    Besides the network it makes decoders strict: a JPEG or PNG that is cut short fails instead of giving zeros.

    Args:
        settings: see there.
        siblings: whether files that belong to a remote image are looked for beside it: GDAL asks for about thirty.
    """
    options = _options(settings, settings.allowed())
    # Never lists a remote folder; TRUE asks for each of the siblings by its name.
    with rasterio.Env(**options, GDAL_DISABLE_READDIR_ON_OPEN="TRUE" if siblings else "EMPTY_DIR"):
        yield


def _options(settings: RemoteSettings, allow: AllowList | None) -> dict[str, Any]:
    """GDAL's configuration options."""
    options: dict[str, Any] = {
        "GDAL_HTTP_MAX_RETRY": settings.retries,
        "GDAL_HTTP_RETRY_DELAY": settings.retry_delay_s,
        "GDAL_HTTP_CONNECTTIMEOUT": settings.connect_timeout_s,
        "GDAL_HTTP_TIMEOUT": settings.timeout_s,
        "GDAL_HTTP_LOW_SPEED_TIME": settings.stall_s,
        "GDAL_HTTP_LOW_SPEED_LIMIT": settings.stall_bytes,
        "CPL_VSIL_CURL_CACHE_SIZE": settings.cache_mb * 2**20,
        # Without this GDAL remembers for the life of the process that a file was not there, or came incomplete.
        "CPL_VSIL_CURL_NON_CACHED": ":".join(f"/{prefix}/" for prefix in ("vsicurl", *dict.fromkeys(STORES.values()))),
        "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
        "GDAL_INGESTED_BYTES_AT_OPEN": 32768,
        # GDAL 3.10 takes these for granted otherwise: a damaged JPEG is a warning, a PNG cut short is zeros.
        "GDAL_ERROR_ON_LIBJPEG_WARNING": "YES",
        "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",
    }
    if allow is not None:
        guard = guard_for(allow)
        options |= {
            "GDAL_HTTP_PROXY": guard.address,
            "GDAL_HTTPS_PROXY": guard.address,
            "GDAL_HTTP_PROXYUSERPWD": guard.credentials,
            "GDAL_PROXY_AUTH": "BASIC",
            "GDAL_PAM_ENABLED": "NO",  # an .aux.xml may name any file as an overview
            "GDAL_VRT_ENABLE_PYTHON": "NO",
        }
    return options
