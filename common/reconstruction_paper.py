"""The thesis' two tables as data: what its models scored on clean test slices of IXI. Other data and training: to look at, not to beat.

Source: methods/brain_autoencoder.md, section 8. SDs and validation losses stand in the thesis' files, not there.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Setting(NamedTuple):
    """What tells one trained model from another.

    Attributes:
        family: ``shallow``, ``residual_unet``, ``skip`` or ``myronenko``.
        block: ``preactivation`` or ``original``; ``-`` for ``skip``, which has none.
        loss: ``mse``, ``dssim`` or ``mixed``.
        l2: whether weights were regularised.
        augmentation: ``all`` (the four corruptions), ``none``, or the names of some.
    """

    family: str
    block: str
    loss: str
    l2: bool
    augmentation: str

    @property
    def name(self) -> str:
        """Words for tables and charts."""
        family = {"residual_unet": "residual U-Net", "skip": "skip CAE", "shallow": "shallow residual", "myronenko": "Myronenko"}
        block = ", original block" if self.block == "original" else ""
        augmented = {"all": ", augmented", "none": ""}.get(self.augmentation, f", {self.augmentation}")
        return f"{family.get(self.family, self.family)}{block}{' + L2' if self.l2 else ''}, {self.loss.upper()}{augmented}"


def _row(family: str, loss: str, augmentation: str, l2: bool, numbers: tuple[float, float, float], block: str = "preactivation") -> Any:
    setting = Setting(family, "-" if family == "skip" else block, loss, l2, augmentation)
    return setting, dict(zip(("mse", "dssim", "psnr_db"), numbers, strict=True))


PAPER: dict[Setting, dict[str, float]] = dict(
    [
        _row("residual_unet", "mse", "all", False, (3.44e-5, 2.95e-3, 44.9)),
        _row("shallow", "mse", "all", False, (1.51e-4, 6.75e-3, 38.6)),
        _row("shallow", "mse", "all", True, (3.24e-4, 1.14e-2, 35.2)),
        _row("skip", "mse", "all", False, (2.99e-4, 9.36e-3, 35.7)),
        _row("skip", "mse", "all", True, (2.25e-4, 1.65e-2, 36.8)),
        _row("myronenko", "mse", "all", False, (3.27e-4, 1.57e-2, 35.1)),
        _row("residual_unet", "dssim", "all", False, (7.49e-5, 1.44e-3, 41.8)),
        _row("shallow", "dssim", "all", False, (2.88e-4, 4.14e-3, 35.9)),
        _row("shallow", "dssim", "all", True, (2.34e-4, 3.70e-3, 36.7)),
        _row("skip", "dssim", "all", False, (4.57e-4, 4.71e-3, 33.7)),
        _row("skip", "dssim", "all", True, (4.08e-4, 4.38e-3, 34.2)),
        _row("myronenko", "dssim", "all", False, (6.69e-4, 4.31e-3, 32.1)),
        _row("skip", "mse", "none", False, (1.07e-5, 1.04e-3, 49.8)),
        _row("shallow", "mse", "none", False, (3.82e-5, 2.64e-3, 44.4)),
        _row("shallow", "mse", "none", True, (8.56e-5, 4.90e-3, 41.0)),
        _row("shallow", "mse", "none", False, (1.09e-4, 1.40e-2, 39.7), "original"),
        _row("myronenko", "mse", "none", False, (1.81e-4, 5.59e-3, 37.7)),
        _row("myronenko", "mse", "none", True, (1.27e-3, 4.40e-2, 29.3)),
    ]
)
"""Setting -> MSE, DSSIM, PSNR (dB): 12 rows with augmentation, then 6 without."""
