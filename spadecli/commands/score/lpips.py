"""LPIPS between the samples of a mask: which weights, and the plan that sample_diversity.py measures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...core.errors import BackendUnavailable
from ...core.report import Report
from .options import ScoreOptions
from .sample_diversity import INPUT, DiversityPlan, Groups, diversity_protocol, without_samples

FETCH = Path("fetch")  # in place of a file


def plan_lpips(options: ScoreOptions, groups: Groups, fetch: bool, report: Report) -> DiversityPlan | str:
    """Open LPIPS; or the reason why there is no plan. ``fetch``: its AlexNet may be fetched if that was asked for.

    Raises UserError if a given file is not LPIPS with AlexNet, BackendUnavailable if its parts are not available.
    """
    from ...model.lpips import NAME, SCALE, SHIFT, open_lpips

    if not groups:
        return without_samples(options, asked=options.lpips is not None)
    files = _files(options.lpips, fetch, report)
    if isinstance(files, str):
        return files
    network = open_lpips(files)
    protocol = diversity_protocol(
        "AlexNet, ReLU 1 to 5, unit-normalised, linear heads v0.1 (Zhang et al., CVPR 2018)",
        " + ".join(map(str, files)),
        files,
        f"{INPUT}, then (x - {list(SHIFT)}) / {list(SCALE)}",
        groups,
    )
    return DiversityPlan(NAME, network, network.heads, groups, protocol)


def _files(given: Path | None, fetch: bool, report: Report) -> Sequence[Path] | str:
    """The file that was given, else the parts that are on this machine; or the reason why there are none."""
    from ...model.lpips import ALEXNET_URL, INSTALL, fetch_alexnet, installed_files

    if given is not None and given != FETCH:
        return [given]
    alexnet, heads = installed_files()
    if heads is None:
        if given == FETCH:
            raise BackendUnavailable(
                "the linear heads of LPIPS are not installed", hint=f"{INSTALL}, or give weights with --lpips FILE"
            )
        return f"give its weights with --lpips FILE, or {INSTALL} and use --lpips {FETCH}"
    if not alexnet.is_file():
        if given is None:
            return f"its AlexNet is not on this machine; --lpips {FETCH} fetches it once, or use --lpips FILE"
        if not fetch:
            return "its AlexNet is not on this machine and would be fetched"
        report.note(f"fetching the AlexNet of LPIPS once: {ALEXNET_URL}")
        fetch_alexnet()
    return [alexnet, heads]
