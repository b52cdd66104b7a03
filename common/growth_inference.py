"""A scan predicted at other ages, as files and a row of a table; ``SaveLikeSourced`` writes one volume, growth has an axis of ages."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from common import flag
from common.atomic import write_atomic
from common.growth_measure import plain, spacing_of
from common.growth_output import save_growth, save_growth_gif
from common.growth_pictures import ages_figure
from common.inference import case_id
from common.inferers.brain_at_age import LatentFitInferer
from common.inferers.latent_fit import Fit
from common.networks.brain_inr import BrainINR
from common.weights import read_record

logger = logging.getLogger("brain_bundles")


class GrowthFiles:
    """For ``CaseRows``: writes what an evaluator predicted for a scan, and describes its fit.

    Args:
        inferer: the evaluator's; its last fit is that of the scan.
        network: the trained network.
        ages_weeks: the ages that were predicted, rising.
        output_dir: folder of results.
        ckpt_dir: folder of the weights, whose record tells whether they are a demonstration and which ages they have seen.
        estimate_age: also fit the age of each scan as if it were not known (method "lm" only).
        save_pictures: an animation and a picture beside each volume.
    """

    def __init__(
        self,
        inferer: LatentFitInferer,
        network: BrainINR,
        ages_weeks: Sequence[float],
        output_dir: str,
        ckpt_dir: str,
        estimate_age: bool = True,
        save_pictures: bool = True,
    ) -> None:
        self.inferer, self.network, self.output_dir = inferer, network, Path(output_dir)
        self.ages = [float(age) for age in ages_weeks]
        self.estimate_age = flag(estimate_age, "estimate_age") and inferer.method == "lm"
        self.save_pictures = flag(save_pictures, "save_pictures")
        record = read_record(ckpt_dir)
        self.title = "SIMULATED weights, a demonstration" if record.get("simulated") else ""
        low, high = record.get("trained_ages", (-math.inf, math.inf))
        beyond = [age for age in self.ages if not low <= age <= high]
        if beyond:
            logger.warning("ages: %s lie outside of those trained on, %.1f to %.1f weeks: these are guesses.", beyond, low, high)

    def __call__(self, item: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
        """Write ``<id>_growth.nii.gz`` (4D, with the ages in a JSON), ``.gif`` and ``.png``.

        Args:
            item: the prepared scan: ``image``, perhaps ``age``, ``spacing_mm``.
            result: ``pred`` ``(A, *source grid)``, and ``growth`` ``(A, *grid)`` as it left the network.

        Returns:
            ``age_weeks`` (as given, NaN where it was not), ``age_estimate_weeks`` where it was estimated, ``fit_psnr_db`` (on voxels that
            were not fitted to), ``fit_seconds``.
        """
        name, (fit,) = case_id(item), self.inferer.fits
        pred = result["pred"]
        affine = pred.affine if pred.ndim == 4 else item["image"].affine
        save_growth(pred, self.ages, affine, self.output_dir / f"{name}_growth.nii.gz", self.title)
        if self.save_pictures:
            self._draw(name, plain(result["growth"]) if len(self.ages) == 1 else result["growth"].cpu().numpy(), item)
        return self._row(item, fit)

    def _draw(self, name: str, volumes: Any, item: Mapping[str, Any]) -> None:
        stack = volumes.reshape(len(self.ages), *item["image"].shape[1:])
        spacing, title = spacing_of(item), f"{name} {self.title}".strip()
        png = ages_figure({name: stack}, self.ages, spacing, title)
        write_atomic(self.output_dir / f"{name}_growth.png", lambda temporary: temporary.write_bytes(png))
        save_growth_gif(stack, self.ages, spacing, self.output_dir / f"{name}_growth.gif", title)

    def _row(self, item: Mapping[str, Any], fit: Fit) -> dict[str, Any]:
        given = float(item.get("age", math.nan))
        row = {"age_weeks": given, "fit_psnr_db": fit.check_psnr, "fit_seconds": fit.seconds}
        if math.isnan(given):
            row["age_estimate_weeks"] = fit.age_weeks
        elif self.estimate_age:
            image = torch.as_tensor(item["image"]).as_subclass(torch.Tensor).to(fit.latent.device).float()
            row["age_estimate_weeks"] = self.inferer.fit(image, self.network, math.nan).age_weeks
        return row
