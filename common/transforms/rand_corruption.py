"""Draw the four corruptions of the thesis for every sample of a training batch; MONAI's random transforms draw for single cases."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.transforms import Randomizable

from common import flag
from common.errors import UserError
from common.transforms.corruptions import ENDINGS, KINDS, SIDE, Draw, chosen_kinds, corrupt, per_sample, square_box

CENTRES = ("independent", "diagonal")


class RandCorruption(Randomizable):
    """Draw corruptions for every sample of a batch on its device, and apply them.

    A corruption that is switched off is drawn nevertheless: the others are the same with and without it.

    Args:
        kinds: ``all``, ``none``, one of ``dropout``, ``noise``, ``square`` and ``blur``, or a list of them.
        dropout_max: greatest share of dropped pixels, in [0, 1); each sample's is uniform below it.
        noise_max: greatest standard deviation, in units of the image, >= 0; uniform below it.
        square_probability: share of samples with a blanked square, in [0, 1]. The thesis' code has 0.2; a slide may be read as 0.1.
        square_sides: the square's side, integers from the first to below the second, pixels of a 128 grid (scaled on others).
        square_range: its centre on each axis, likewise.
        square_centres: ``independent`` on each axis, or ``diagonal``, one number for all, as in the released code.
        blur_probability: share of blurred samples, in [0, 1].
        blur_sigma: pixels.
        rescale: divide the pixels that dropout keeps by the share it keeps, as the released code does.
        ending: ``clip``, or ``minmax`` as in the released code.

    Raises:
        UserError: numbers outside their range, or unknown words.

    Source: methods/brain_autoencoder.md, section 4. Deviation: defaults have independent centres, no rescaling and clipping; squares of odd
        sides keep them (TensorFlow Addons' cutout works on even ones).
    """

    def __init__(
        self,
        kinds: str | Sequence[str] = "all",
        dropout_max: float = 0.04,
        noise_max: float = 0.04,
        square_probability: float = 0.2,
        square_sides: Sequence[int] = (10, 40),
        square_range: Sequence[int] = (10, 100),
        square_centres: str = "independent",
        blur_probability: float = 0.1,
        blur_sigma: float = 0.6,
        rescale: bool = False,
        ending: str = "clip",
    ) -> None:
        self.kinds, self.rescale = chosen_kinds(kinds), flag(rescale, "rescale")
        self.dropout_max, self.noise_max, self.square_probability = dropout_max, noise_max, square_probability
        self.square_sides, self.square_range, self.square_centres = tuple(square_sides), tuple(square_range), square_centres
        self.blur_probability, self.blur_sigma, self.ending = blur_probability, blur_sigma, ending
        self._check()

    def _check(self) -> None:
        shares = {"square_probability": self.square_probability, "blur_probability": self.blur_probability}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise UserError(f"{name}: got {share}, expected a share in [0, 1].")
        if not 0 <= self.dropout_max < 1:
            raise UserError(f"dropout_max: got {self.dropout_max}, expected a share in [0, 1).")
        if not (self.noise_max >= 0 and self.blur_sigma > 0):
            raise UserError(f"corruption: got noise_max={self.noise_max}, blur_sigma={self.blur_sigma}; expected >= 0 and > 0.")
        for name, (low, high) in {"square_sides": self.square_sides, "square_range": self.square_range}.items():
            if not 0 <= low < high:
                raise UserError(f"{name}: got [{low}, {high}), expected pixels of a {SIDE} grid, 0 <= first < second.")
        if self.ending not in ENDINGS or self.square_centres not in CENTRES:
            found = f"ending '{self.ending}' and square_centres '{self.square_centres}'"
            raise UserError(f"corruption: got {found}, expected one of {ENDINGS} and one of {CENTRES}.")

    def randomize(self, image: torch.Tensor) -> Draw:  # type: ignore[override]
        """Draw for a batch ``(B, C, *spatial)``."""
        count, shape = len(image), image.shape[2:]
        # two numbers from self.R seed generators on the image's device: replayable, and no copy from the CPU
        keep_seed, noise_seed = (int(self.R.randint(2**31)) for _ in range(2))
        rate, sd = (torch.from_numpy(self.R.uniform(0, most, count)) for most in (self.dropout_max, self.noise_max))
        squared = self.R.uniform(size=count) < self.square_probability
        sides = self.R.randint(self.square_sides[0], self.square_sides[1], size=count) * squared
        centres = self.R.randint(self.square_range[0], self.square_range[1], size=(count, len(shape)))
        blurred = torch.from_numpy(self.R.uniform(size=count) < self.blur_probability)
        if self.square_centres == "diagonal":
            centres[:] = centres[:, :1]
        dropout, noise, square, blur = (name in self.kinds for name in KINDS)
        keep = noises = None
        if dropout:
            keep = torch.rand(image.shape, generator=_generator(image, keep_seed), device=image.device) >= per_sample(rate, image)
        if noise:
            noises = torch.empty_like(image).normal_(generator=_generator(image, noise_seed))
        box = square_box(centres, sides, shape) if square else None
        return Draw(keep, rate if dropout and self.rescale else None, noises, sd if noise else None, box, blurred if blur else None)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """The corrupted batch, shape and dtype of ``image`` ``(B, C, *spatial)``, in [0, 1]; itself where no kind is chosen."""
        return corrupt(image, self.randomize(image), self.blur_sigma, self.ending) if self.kinds else image


def _generator(image: torch.Tensor, seed: int) -> torch.Generator:
    return torch.Generator(image.device).manual_seed(seed)
