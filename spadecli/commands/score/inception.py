"""The FID Inception: in the cache, else fetched once from its publisher's address."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from pathlib import Path

from ...core.errors import BackendUnavailable, UserError
from ...core.report import Report
from ...store.atomic import part_file, write_text
from ...store.h5 import file_sha256

FILE = "inception-2015-12-05.pt"
URL = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{FILE}"
TIMEOUT = 30  # seconds without an answer


def find_inception(cache: Path, fetch: bool, report: Report) -> Path:
    """The file in ``cache``, fetched there if need be and allowed.

    Its publisher gives no SHA-256: the one of the first use is kept beside the file, and compared from then on.
    Raises BackendUnavailable if it is neither there nor fetched, UserError if the file has changed since its first use.
    """
    path = cache / FILE
    if not path.is_file():
        if not fetch:
            raise _unavailable(path, "would be fetched")
        _fetch(path, report)
    known = path.with_name(f"{FILE}.sha256")
    found = file_sha256(path)
    if not known.is_file():
        write_text(known, found + "\n")
    elif (before := known.read_text("utf-8").strip()) != found:
        raise UserError(
            f"{path}: changed since its first use (sha256 {found[:12]}..., was {before[:12]}...)",
            hint=f"delete it to fetch it again, or {known.name} if you changed it yourself",
        )
    return path


def _fetch(path: Path, report: Report) -> None:
    report.note(f"fetching the FID Inception once: {URL}")
    try:
        with urllib.request.urlopen(URL, timeout=TIMEOUT) as answer, part_file(path) as part, open(part, "wb") as f:
            shutil.copyfileobj(answer, f)
    except (OSError, urllib.error.URLError) as e:
        raise _unavailable(path, f"could not be fetched ({getattr(e, 'reason', None) or e})") from e


def _unavailable(path: Path, what: str) -> BackendUnavailable:
    return BackendUnavailable(
        f"no feature extractor: the FID Inception is not on this machine and {what}",
        hint=f"curl --create-dirs -o {path} {URL}   (or another TorchScript file: --extractor FILE)",
    )
