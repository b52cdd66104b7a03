"""The cohort that stands in when no data are given: made once, found again, announced every time."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import logging
import os
from pathlib import Path
from typing import Any

from common.errors import UserError

GENERATORS = {
    "bonbid": "common.data.simulate.bonbid:simulate_bonbid",
    "brats": "common.data.simulate.brats:simulate_brats",
    "btcv": "common.data.simulate.btcv:simulate_btcv",
    "contrasts": "common.data.simulate.contrasts:simulate_contrasts",
    "cq500": "common.data.simulate.cq500:simulate_cq500",
    "dhcp": "common.data.simulate.dhcp:simulate_dhcp",
    "feta": "common.data.simulate.feta:simulate_feta",
    "ixi": "common.data.simulate.ixi:simulate_ixi",
}
"""Layout -> ``module:function``. The function takes ``out_dir`` first; its module holds ``GENERATOR_VERSION``."""

_logger = logging.getLogger("brain_bundles")


def ensure_cohort(layout: str, root: str | Path | None = None, **parameters: Any) -> Path:
    """Return the simulated cohort of a layout, making it if it is not there yet, and say loudly that these are not patients.

    Args:
        layout: key of ``GENERATORS``.
        root: folder that takes cohorts; ``$BRAIN_BUNDLES_DATA`` wins when it is set.
        **parameters: of the layout's generator (``subjects``, ``seed``, ``size``, ...).

    Returns:
        What the generator returns: the dataset's root folder, inside ``<root>/<layout>_<hash of the parameters>``.

    Raises:
        UserError: unknown layout or parameter, no root at all, or nilearn missing.
    """
    if layout not in GENERATORS:
        raise UserError(f"No simulated cohort has the layout {layout!r}. Known layouts: {', '.join(sorted(GENERATORS))}.")
    folder = os.environ.get("BRAIN_BUNDLES_DATA") or root
    if folder is None:
        raise UserError("No folder for simulated cohorts: give root, or set the environment variable BRAIN_BUNDLES_DATA.")
    module_name, function_name = GENERATORS[layout].split(":")
    module = importlib.import_module(module_name)
    generator = getattr(module, function_name)
    known = {name: p.default for name, p in inspect.signature(generator).parameters.items() if name != "out_dir"}
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise UserError(f"Simulated cohort {layout!r}: unknown parameter {', '.join(unknown)}. Known: {', '.join(known)}.")
    complete = {**known, **parameters, "generator": module.GENERATOR_VERSION}
    short = hashlib.sha256(json.dumps(complete, sort_keys=True).encode()).hexdigest()[:8]
    if not (Path(folder) / f"{layout}_{short}").exists():
        _logger.info("Making a simulated cohort, once: %s", ", ".join(f"{key} {value}" for key, value in complete.items()))
    path: Path = generator(Path(folder) / f"{layout}_{short}", **parameters)
    _logger.warning("SIMULATED DATA: these are not patients. No result on them supports a clinical claim. Cohort: %s", path)
    return path
