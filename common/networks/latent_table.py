"""One latent per identity, found by name. torch's ``Embedding`` knows rows only, and fixes their number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import embedding

from common.errors import UserError

GLOBAL = "#global"
"""Name of the global latent l_G, always row 0."""
FLIP = "#flip"
"""Ending of the name of a mirrored image."""
_SHOWN = 4  # names in an error


def regress_on_age(latents: torch.Tensor, ages: torch.Tensor) -> torch.Tensor:
    r"""Slope of the least-squares line of every latent number against age: :math:`\mathrm{cov}(l, t) / \mathrm{var}(t)`.

    Args:
        latents: one per scan, ``(K, size)``.
        ages: :math:`t` of the scans, ``(K,)``, in the unit of the network (weeks / 100).

    Returns:
        ``(size,)``, per unit of age; zero where fewer than two ages differ.
    """
    ages = ages.to(latents) - ages.to(latents).mean()
    spread = ages.square().sum()
    return ages @ latents / spread if len(ages) > 1 and spread > 0 else latents.new_zeros(latents.shape[1])


class LatentTable(nn.Module):
    """Latents by name: ``#global`` in row 0, then one row per identity (a subject, a scan, or either one mirrored).

    The names travel in the ``state_dict`` (a uint8 buffer), so that a file of weights needs no list beside it. Loading one moves its
    rows to the table's places by name: a table of more identities keeps zeros for the new ones, a table made without identities takes
    all that the file has. Statistics of the rows (mean, slope on age) are stored too by :func:`without_subjects`.

    Args:
        identities: names, each once, without ``#global``. Empty for inference.
        size: numbers in a latent.
        learned_global: let the global latent learn; otherwise it stays zero, as in the released code and in the paper's average brain.
        max_norm: bound on the largest magnitude in a row; rows above it are scaled down in place when they are looked up. None: no bound.
        ages: age of every identity in the network's unit (weeks / 100), for latents per scan that are to be regressed on age;
            None leaves latents as they are at all ages.

    Raises:
        UserError: names that repeat, are empty, contain a line break, or are ``#global``; ages of another number.

    Source: Neonatal INR, Sec. 2.1-2.2; bound and zero start as in the released code, whose table is fixed at 1000 rows.
    """

    identity_names: torch.Tensor
    identity_ages: torch.Tensor
    mean_latent: torch.Tensor
    age_slope: torch.Tensor

    def __init__(
        self,
        identities: Sequence[str] = (),
        size: int = 128,
        learned_global: bool = False,
        max_norm: float | None = 1.0,
        ages: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        names = [GLOBAL, *identities]
        _check(names, ages)
        self.size, self.learned_global, self.max_norm, self.adopts = size, learned_global, max_norm, not identities
        self.weight = nn.Parameter(torch.zeros(len(names), size))
        self.register_buffer("identity_names", _to_bytes(names))
        known = [math.nan, *(ages if ages is not None else [math.nan] * len(identities))]
        self.register_buffer("identity_ages", torch.tensor(known, dtype=torch.float32))
        self.register_buffer("mean_latent", torch.zeros(size))
        self.register_buffer("age_slope", torch.zeros(size))
        self._set_names(names)

    def _set_names(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._row = {name: row for row, name in enumerate(names)}

    def reset_parameters(self) -> None:
        """Set all latents to zero, where the paper starts."""
        nn.init.zeros_(self.weight)

    def hold(self, identities: Sequence[str], ages: Sequence[float] | None = None) -> None:
        """Make the table that of these identities, all latents zero, as if it had been built with them; weights loaded later keep to them.

        Args:
            identities: names, each once, without ``#global``.
            ages: of every identity in the network's unit, or None.

        Raises:
            UserError: as at construction.
        """
        names = [GLOBAL, *identities]
        _check(names, ages)
        self._resize(names)
        if ages is not None:
            self.identity_ages[1:] = torch.tensor(list(ages), dtype=torch.float32)
        self.adopts = False

    def rows(self, names: Sequence[str]) -> torch.Tensor:
        """Rows of some names, ``(len(names),)`` int64, on the CPU.

        Raises:
            UserError: a name that the table does not hold.
        """
        unknown = [name for name in names if name not in self._row]
        if unknown:
            held = f"the table holds {len(self.names)} ({_few(self.names)})"
            raise UserError(f"latents: no latent of {_few(unknown)}; {held}. Fit one to the image, or train with these identities.")
        return torch.tensor([self._row[name] for name in names], dtype=torch.int64)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Latents ``(B, size)`` of rows ``(B,)`` int64; a fixed global latent gets no gradient."""
        fixed = None if self.learned_global else 0
        return embedding(rows, self.weight, padding_idx=fixed, max_norm=self.max_norm, norm_type=math.inf)

    def mean(self) -> torch.Tensor:
        """Mean of the training latents, ``(size,)``, mirrored and global ones left out; the stored one where the rows were dropped."""
        rows = self._own_rows()
        return self.weight.detach()[rows].mean(dim=0) if len(rows) else self.mean_latent

    def slope(self) -> torch.Tensor:
        """Change of a latent per unit of age, ``(size,)``; see :func:`regress_on_age`. Zero in a table without ages."""
        rows = self._own_rows()
        rows = rows[~self.identity_ages[rows].isnan()]
        return regress_on_age(self.weight.detach()[rows], self.identity_ages[rows]) if len(rows) else self.age_slope

    def _own_rows(self) -> torch.Tensor:
        own = [row for row, name in enumerate(self.names) if row and not name.endswith(FLIP)]
        return torch.tensor(own, dtype=torch.int64, device=self.weight.device)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """Bring the rows of a file to the places that their names have here; called by ``load_state_dict``."""
        keys = [prefix + key for key in ("weight", "identity_names", "identity_ages")]
        if all(key in state_dict for key in keys) and state_dict[keys[0]].shape[1:] == self.weight.shape[1:]:
            weight, names, ages = state_dict[keys[0]], _from_bytes(state_dict[keys[1]]), state_dict[keys[2]]
            if self.adopts:
                self._resize(names)
            place = {name: row for row, name in enumerate(names)}
            shared = [row for row, name in enumerate(self.names) if name in place]
            source = [place[self.names[row]] for row in shared]
            moved, own_ages = torch.zeros_like(self.weight), self.identity_ages.clone()
            moved[shared] = weight[source].to(moved)
            own_ages[shared] = own_ages[shared].where(~own_ages[shared].isnan(), ages[source].to(own_ages))
            state_dict = {**state_dict, keys[0]: moved, keys[1]: self.identity_names, keys[2]: own_ages}
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def _resize(self, names: Sequence[str]) -> None:
        # the parameter stays the same object, which an optimizer may hold
        self.weight.data = self.weight.new_zeros(len(names), self.size)
        self.identity_names = _to_bytes(names).to(self.weight.device)
        self.identity_ages = self.weight.new_full((len(names),), math.nan)
        self._set_names(names)


def without_subjects(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A network's ``state_dict`` without the latents of its subjects: a latent is a picture of that child.

    Args:
        state: of a network that holds one :class:`LatentTable`.

    Returns:
        The same, with a table of the global latent alone; the mean and the slope on age of what was dropped are kept.

    Raises:
        UserError: there is no table in it.
    """
    prefix = next((key.removesuffix("identity_names") for key in state if key.endswith("identity_names")), None)
    if prefix is None:
        raise UserError("weights: found no table of latents (identity_names); expected the weights of a BrainINR.")
    table = LatentTable(size=state[prefix + "weight"].shape[1])
    table.load_state_dict({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})
    kept = {"weight": table.weight.detach()[:1].clone(), "identity_names": _to_bytes([GLOBAL]), "identity_ages": torch.tensor([math.nan])}
    kept |= {"mean_latent": table.mean().clone(), "age_slope": table.slope().clone()}
    return {key: kept[key.removeprefix(prefix)] if key.startswith(prefix) else value for key, value in state.items()}


def _check(names: Sequence[str], ages: Sequence[float] | None) -> None:
    bad = sorted({name for name in names[1:] if not name or "\n" in name or name == GLOBAL})
    if bad:
        raise UserError(f"identities: got {bad[:_SHOWN]}; expected names without line breaks, other than {GLOBAL!r}.")
    if len(set(names)) < len(names):
        twice = [name for name in dict.fromkeys(names) if list(names).count(name) > 1]
        raise UserError(f"identities: {_few(twice)} more than once; expected every name once.")
    if ages is not None and len(ages) != len(names) - 1:
        raise UserError(f"ages: got {len(ages)} for {len(names) - 1} identities; expected one each.")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _to_bytes(names: Sequence[str]) -> torch.Tensor:
    return torch.frombuffer(bytearray("\n".join(names).encode()), dtype=torch.uint8).clone()


def _from_bytes(encoded: torch.Tensor) -> list[str]:
    return bytes(encoded.cpu().tolist()).decode().split("\n")
