"""An image file being read: opened when needed, strict about damage, tried again where a network was at fault."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.io import DatasetReader

from tuban.data.address import address, gdal_path, is_remote, redacted
from tuban.data.fetch import head_of, remedy, siblings
from tuban.data.remote import RemoteSettings, access
from tuban.data.vetting import IMAGE_HEADS, vetted
from tuban.errors import ReadError, SceneError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rasterio.windows import Window

_log = logging.getLogger(__name__)
Result = TypeVar("Result")

# What a service opens: none of these follows addresses inside a file. VRT is let in after a check of its own.
_SERVICE_DRIVERS = ("GTiff", "JP2OpenJPEG", "PNG", "JPEG")
# What is read over a network: formats that are read by windows. Other drivers fetch a whole file to recognise it.
_REMOTE_DRIVERS = (*_SERVICE_DRIVERS, "VRT", "WEBP", "HFA", "ENVI", "EHdr", "NITF", "MRF", "SENTINEL2", "SAFE")
# Where rasterio logs what GDAL says; a warning there may be all that tells of lost pixels.
_GDAL_LOGS = ("rasterio._err", "rasterio._env")
# Decoders that go on after a fault and fill in what they have say one of these.
_DAMAGE = re.compile(
    r"corrupt|premature|truncat|discarding|lack of data|not enough|too short|unexpected end|read error|"
    r"bad (?:huffman|code|data)|invalid (?:code|data|jpeg|marker|tile)",
    re.IGNORECASE,
)
# How GDAL reports what a server answered; 0 is no answer.
_CODE = re.compile(r"(?:response_code=|HTTP response code(?: on \S+)?: |HTTP error code ?: )(\d+)")
_BROKE_OFF = "the transfer broke off or stalled"
_NETWORK = re.compile(
    r"^HTTP \d|no answer|forbidden|connect|timed out|transfer|resolve|network|curl|cannot be fetched", re.IGNORECASE
)
# Trying again does not change it: what servers and stores say of wrong addresses and wrong credentials.
_PERMANENT = re.compile(
    r"^HTTP 4(?!08|25|29)\d\d|does not exist|no such (?:key|bucket)|access denied|signature|credentials|"
    r"the file is gone",
    re.IGNORECASE,
)


class Source:
    """One image file, local or remote, opened lazily and again in every process; not for several threads at once.

    Args:
        uri: as given: a path, a URL, `/vsi…`.
        settings: time-outs, retries, the allow-list.
        target: what GDAL opens where that is not `uri`: the virtual raster of a STAC item, whose parts were checked.

    Attributes:
        name: the address without secrets, for messages.
        settings: as given.
        target: what GDAL opens, secrets included.
    """

    def __init__(self, uri: str, settings: RemoteSettings | None = None, *, target: str | None = None) -> None:
        self.name = redacted(uri)
        self._uri = uri
        self.target = target if target is not None else gdal_path(uri)
        self._stacked = target is not None
        self.settings = settings or RemoteSettings()
        self._remote = is_remote(uri) or "/vsi" in self.target
        self._open: tuple[int, Any] | None = None
        self._shape: tuple[Any, ...] | None = None
        self._siblings: tuple[str, ...] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    def __repr__(self) -> str:
        return f"Source({self.name!r})"

    def read(self, work: Callable[[Any], Result], *, bands: Sequence[int] = (), window: Window | None = None) -> Result:
        """Return `work(dataset)`; after a fault the file is opened anew, so that later reads do not inherit it.

        Args:
            work: reads from the open rasterio dataset; called again where a network was at fault.
            bands: what it reads, for the error.
            window: where it reads, for the error.

        Raises:
            ReadError: it cannot be read there: damaged, cut short, gone, or the server fails after all retries.
            SceneError: it is no raster.
            ForbiddenAddressError: a service may not read it.
        """
        give_up = time.monotonic() + self.settings.give_up_s
        for attempt in range(self.settings.retries + 1):
            if attempt:
                time.sleep(self.settings.retry_delay_s * 2 ** (attempt - 1))
            with access(self.settings, siblings=self._with_siblings()), _watched() as said:
                try:
                    dataset = self._dataset()
                    said.clear()
                    result = work(dataset)
                except (RasterioError, CPLE_BaseError) as error:
                    problem = _problem(error, said)
                else:
                    problem = next((text for text in said if _DAMAGE.search(text)), "")
                    if not problem:
                        return result
                self.close()
            if not self._remote or _PERMANENT.search(problem) or time.monotonic() > give_up:
                break
            _log.info("%s: %s; attempt %d", self.name, problem, attempt + 1)
        if problem == "HTTP 403":
            self._drivers()  # in a service the guard may have said no: this says to what
        raise _read_error(self.name, problem, self._remedy(problem), bands, window)

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """Yield another open dataset of the same file under the same rules, for overviews and the like.

        Raises:
            SceneError: as `read`.
        """
        with access(self.settings, siblings=self._with_siblings()):
            try:
                dataset = self._opened()
            except RasterioIOError as error:
                problem = _problem(error, ())
                raise _read_error(self.name, problem, self._remedy(problem)) from error
            with dataset:
                yield dataset

    def close(self) -> None:
        """Close the file; reading opens it again."""
        if self._open is not None and self._open[0] == os.getpid():
            self._open[1].close()
        self._open = None

    def _dataset(self) -> Any:
        """The open file of this process; a handle inherited by a fork belongs to the parent and is left to it."""
        if self._open is None or self._open[0] != os.getpid():
            dataset = self._opened()
            if ".msk" in (self._siblings or ()) and not any(name.endswith(".msk") for name in dataset.files):
                dataset.close()
                raise RasterioIOError("the mask beside it, .msk, does not come: the transfer broke off")
            shape = (dataset.height, dataset.width, dataset.dtypes, tuple(dataset.transform)[:6])
            if self._shape not in {None, shape}:
                dataset.close()
                raise _read_error(self.name, "it is another image than when it was first opened", "run again")
            self._open, self._shape = (os.getpid(), dataset), shape
        return self._open[1]

    def _opened(self) -> Any:
        """Open with rasterio; where that fails on the way, RasterioIOError says why, as for reading."""
        drivers = self._drivers()
        if not self._remote and address(self.target).kind == "local" and not Path(self.target).exists():
            if self._shape is None:
                raise SceneError(f"{self.name}: no such file; check the path")
            raise RasterioIOError("the file is gone")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # `Scene` reports it as an error
            try:
                return rasterio.open(self.target) if drivers is None else DatasetReader(self.target, driver=drivers)
            except (RasterioError, CPLE_BaseError, OSError) as error:
                problem = _problem(error, _watch.said or ())
        if self._remote and "not recognized" in problem:
            problem = self._network_problem()
        if problem and (self._remote or self._shape is not None):
            raise RasterioIOError(problem)
        raise SceneError(
            f"{self.name}: is not a raster that GDAL can open, or is damaged ({problem or 'its kind is unknown'})"
        )

    def _drivers(self) -> list[str] | None:
        """The formats that may be opened; a service looks into the file first."""
        allow = self.settings.allowed()
        if allow is None:
            return [name for name in _REMOTE_DRIVERS if name in _known_drivers()] if self._remote else None
        virtual = self._stacked or vetted(self._uri, self.settings, allow)
        return [*_SERVICE_DRIVERS, *(["VRT"] if virtual else [])]

    def _network_problem(self) -> str:
        """Why nothing that GDAL recognises came over the network; "" where a file did come, and is no image."""
        try:
            head = head_of(self._uri, self.settings.model_copy(update={"retries": 0}))
        except ReadError as error:
            return error.detail or str(error)
        return _BROKE_OFF if head is not None and head.startswith(IMAGE_HEADS) else ""

    def _with_siblings(self) -> bool:
        """Whether GDAL is to look for files beside the image; of a remote one that is found out once."""
        if not self._remote:
            return True
        if self._siblings is None:
            allow = self.settings.allowed()
            if allow is not None and not self._stacked:
                allow.check(self._uri)
            self._siblings = () if self._stacked else siblings(self._uri, self.settings)
        return bool(self._siblings)

    def _remedy(self, problem: str) -> str:
        if _NETWORK.search(problem) or _PERMANENT.search(problem):
            return remedy(problem)
        if self._remote:
            return "the file is damaged or cut short where it is published, publish it again"
        return "the file is damaged or cut short, copy it again"


def _known_drivers() -> frozenset[str]:
    with rasterio.Env() as env:
        return frozenset(env.drivers())


def _read_error(
    name: str, problem: str, todo: str, bands: Sequence[int] = (), window: Window | None = None
) -> ReadError:
    place = ""
    where: tuple[int, int, int, int] | None = None
    if window is not None:
        row, col, height, width = int(window.row_off), int(window.col_off), int(window.height), int(window.width)
        where = row, col, height, width
        which = f"band{'s' * (len(bands) > 1)} {', '.join(map(str, bands))}, " if bands else ""
        place = f" at {which}columns {col}-{col + width}, rows {row}-{row + height}"
    error = ReadError(f"{name}: cannot be read{place} ({problem}); {todo}")
    error.path, error.bands, error.window, error.detail = name, tuple(bands), where, problem
    return error


def _problem(error: BaseException, said: Sequence[str]) -> str:
    """What was wrong, in one line and without secrets: what the network did, or the decoder's complaint."""
    causes: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(causes) < 10:
        causes.append(" ".join(str(cause).split()))
        cause = cause.__cause__ or cause.__context__
    codes = [int(code) for text in (*said, *causes) for code in _CODE.findall(text)]
    if codes:
        code = max(codes)
        return {0: "no answer, or the connection broke", 200: _BROKE_OFF, 206: _BROKE_OFF}.get(code, f"HTTP {code}")
    # rasterio says the general first and what caused it last; GDAL repeats itself from layer to layer.
    words = [text for text in reversed(causes) if text and "See previous exception" not in text]
    told = redacted("; ".join(dict.fromkeys([*words[:1], *words[-1:]])))[:400]
    return told.replace(" at row 4294967295, col 4294967295", "").rstrip(".")


class _Watch(threading.local):
    """What GDAL says in this thread while something is read."""

    def __init__(self) -> None:
        self.said: list[str] | None = None


_watch = _Watch()


class _Listener(logging.Filter):
    """Hears GDAL's warnings on behalf of the reading thread, and hides secrets in what is logged."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = redacted(record.getMessage())
        record.msg, record.args = text, ()
        if _watch.said is None or record.levelno < logging.WARNING:
            return True
        _watch.said.append(text)
        # What is lost ends in an error that says it, or is fetched again: neither is news twice.
        return not (_DAMAGE.search(text) or _CODE.search(text))


for _name in _GDAL_LOGS:
    logging.getLogger(_name).addFilter(_Listener())


@contextmanager
def _watched() -> Iterator[list[str]]:
    """Collect the warnings that GDAL gives in this thread."""
    outer, _watch.said = _watch.said, []
    try:
        yield _watch.said
    finally:
        _watch.said = outer
