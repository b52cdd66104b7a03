"""Swin UNETR whose embedding can be disrupted on its way to the first stage, with the heads of the pre-training tasks.

MONAI's ``SwinUNETR`` goes from the image to logits in one piece: it offers no place to hide channels or tokens of the embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from monai.networks.blocks import UnetBasicBlock, UnetOutBlock
from monai.networks.nets.swin_unetr import SwinUNETR, WindowAttention
from torch import nn

from common import flag
from common.errors import UserError
from common.transforms.local_masking import hide_channels, hide_tokens

STEMS = ("conv", "block")
SKIPS = ("drop", "disrupted", "open")
HEADS = ("image", "rotation", "projection")
"""What a pre-training can predict with a layer of its own; ``embedding`` needs none."""
SIDE = 32
"""An input's sides are multiples of this: 2 by the patch embedding, 2 by each of four mergings."""
PROJECTION = 512  # features that SimCLR compares
_SPREAD = 0.02  # SD of the first mask token and the first position biases
_BODY = ("encoder1.", "encoder2.", "encoder3.", "encoder4.", "encoder10.", "decoder5.", "decoder4.", "decoder3.", "decoder2.", "decoder1.")


class BlockStem(nn.Module):
    """Patch embedding of the released code: two 3x3x3 convolutions, the first with stride 2, each with affine instance norm, LeakyReLU.

    Args:
        in_channels: of the image.
        feature_size: channels of the embedding.

    Source: released code of DAE, ``swin_transformer_3d.py``; its names of layers are kept.
    """

    def __init__(self, in_channels: int, feature_size: int) -> None:
        super().__init__()
        self.proj = UnetBasicBlock(3, in_channels, feature_size, kernel_size=3, stride=2, norm_name=("instance", {"affine": True}))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """``(B, C, D, H, W)`` to ``(B, feature_size, D/2, H/2, W/2)``."""
        return self.proj(image)


class DisruptiveSwinUNETR(SwinUNETR):
    """Swin UNETR that also learns without labels: to restore an image from a disrupted embedding, and other tasks.

    :meth:`forward` is MONAI's, and so are the names of encoder and decoder in the ``state_dict``.

    Args:
        in_channels: of the image.
        out_channels: logits per voxel of :meth:`forward`.
        feature_size: C, channels of the embedding, a multiple of 12.
        depths: blocks per stage.
        num_heads: attention heads per stage.
        window_size: side of the attention windows in tokens.
        skip: what the decoder gets at full resolution in :meth:`pretrain`. "drop": zeros, so that nothing of the input passes around the
            encoder. "disrupted": features of the disrupted image, hidden tokens' voxels set to 0; channels are not hidden there, so local
            masking alone can be undone by copying. "open": features of the image as it is given, as released.
        stem: patch embedding, "conv" (MONAI's, kernel 2 stride 2) or "block" (:class:`BlockStem`); the same one in both phases.
        rescale: divide the channels that are kept by their share, see :func:`hide_channels`.
        heads: which layers of its own the pre-training gets, some of "image", "rotation", "projection"; none makes a plain Swin UNETR.
        dropout_path_rate: stochastic depth.
        use_checkpoint: compute the Swin blocks twice instead of storing what is inside them.

    Raises:
        UserError: unknown ``skip``, ``stem`` or head.

    Source: DAE, Sec. 2 and 3; Swin UNETR. Deviations: the full-resolution skip is closed in pre-training; every stage's output is
        layer-normed in both phases, where the released pre-training has it in none; MONAI's stem is the default.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        feature_size: int = 48,
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int | Sequence[int] = 7,
        skip: str = "drop",
        stem: str = "conv",
        rescale: bool = False,
        heads: Sequence[str] = ("image",),
        dropout_path_rate: float = 0.0,
        use_checkpoint: bool = False,
    ) -> None:
        for name, value, known in (("skip", skip, SKIPS), ("stem", stem, STEMS), *(("heads", head, HEADS) for head in heads)):
            if value not in known:
                raise UserError(f"{name}: got '{value}', expected one of {', '.join(known)}.")
        super().__init__(
            in_channels,
            out_channels,
            depths=depths,
            num_heads=num_heads,
            window_size=window_size,
            feature_size=feature_size,
            dropout_path_rate=dropout_path_rate,
            use_checkpoint=flag(use_checkpoint, "use_checkpoint"),
        )
        self.in_channels, self.skip, self.stem, self.rescale = in_channels, skip, stem, flag(rescale, "rescale")
        if stem == "block":
            self.swinViT.patch_embed = BlockStem(in_channels, feature_size)  # type: ignore[assignment]
        deepest = 16 * feature_size
        layers = {
            "image": lambda: UnetOutBlock(3, feature_size, in_channels),
            "rotation": lambda: nn.Linear(deepest, 4),
            "projection": lambda: nn.Linear(deepest, PROJECTION),
        }
        if heads:
            self.pretext = nn.ModuleDict({head: layers[head]() for head in heads})
            self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(feature_size), std=_SPREAD))

    def reset_parameters(self) -> None:
        """Draw all weights anew; torch's layers know how, position biases and mask token are parameters without a layer."""
        for module in self.modules():
            if module is not self and hasattr(module, "reset_parameters"):
                module.reset_parameters()  # type: ignore[operator]
            if isinstance(module, WindowAttention):
                nn.init.trunc_normal_(module.relative_position_bias_table, std=_SPREAD)
        if hasattr(self, "mask_token"):
            nn.init.trunc_normal_(self.mask_token, std=_SPREAD)

    def encode(
        self, image: torch.Tensor, channel_mask: torch.Tensor | None = None, token_mask: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """The embedding and the output of the four stages, layer-normed over channels without affine.

        Args:
            image: ``(B, in_channels, D, H, W)``, sides multiples of 32.
            channel_mask: ``(B, C, 1, 1, 1)``, True or 1 hides the channel in every token, also in the mask token; None hides none.
            token_mask: ``(B, 1, D/2, H/2, W/2)``, True or 1 puts the mask token there; None hides none.

        Returns:
            Five tensors ``(B, 2^i C, D/2^(i+1), H/2^(i+1), W/2^(i+1))``, i = 0 ... 4; the first is disrupted too.

        Source: DAE, Sec. 2. Deviation: no axis of the embedding is taken for another, as the released code does before its first stage.
        """
        vit = self.swinViT
        embedding = vit.pos_drop(vit.patch_embed(image))
        if token_mask is not None:
            embedding = hide_tokens(embedding, token_mask, self.mask_token)
        if channel_mask is not None:
            embedding = hide_channels(embedding, channel_mask, self.rescale)
        states = [embedding]
        for stage in (vit.layers1, vit.layers2, vit.layers3, vit.layers4):
            states.append(stage[0](states[-1].contiguous()))
        return [vit.proj_out(state, self.normalize) for state in states]

    def decode(self, states: Sequence[torch.Tensor], full_resolution: torch.Tensor | None) -> torch.Tensor:
        """Features before the output layer.

        Args:
            states: of :meth:`encode`.
            full_resolution: the skip from :attr:`encoder1`, ``(B, C, D, H, W)``; None puts zeros in its place.

        Returns:
            ``(B, C, D, H, W)``.
        """
        deep = self.decoder5(self.encoder10(states[4]), states[3])
        deep = self.decoder4(deep, self.encoder4(states[2]))
        deep = self.decoder3(deep, self.encoder3(states[1]))
        deep = self.decoder2(deep, self.encoder2(states[0]))
        if full_resolution is None:
            full_resolution = deep.new_zeros(*deep.shape[:2], *(2 * side for side in deep.shape[2:]))
        return self.decoder1(deep, full_resolution)

    def stages(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Hidden states of an undisrupted image, from the embedding to the deepest stage; see :meth:`encode`."""
        return self.encode(image)

    def pretrain(
        self,
        image: torch.Tensor,
        channel_mask: torch.Tensor | None = None,
        token_mask: torch.Tensor | None = None,
        tasks: Sequence[str] = ("image", "embedding"),
    ) -> dict[str, torch.Tensor]:
        """Predictions of the pre-training tasks.

        Args:
            image: disrupted, ``(B, in_channels, D, H, W)``, sides multiples of 32 and one of them at least 64.
            channel_mask: ``(B, C, 1, 1, 1)``, True hides; see :meth:`encode`.
            token_mask: ``(B, 1, D/2, H/2, W/2)``, True hides; the image's voxels there become 0 before anything else.
            tasks: some of "image", "embedding", "rotation", "projection".

        Returns:
            By task: ``image`` restored, shape of the image; ``embedding`` ``(B, 16 C)``, deepest features averaged over space;
            ``rotation`` logits ``(B, 4)`` and ``projection`` ``(B, 512)``, linear in the embedding.

        Raises:
            UserError: sides, masks or tasks that do not fit.

        Source: DAE, Sec. 2; heads of Swin UNETR's self-supervision. Deviation: its linear heads look at one corner token, ours at the mean.
        """
        self._check(image, channel_mask, token_mask, tasks)
        seen = image
        if token_mask is not None:
            voxels = token_mask.bool()
            for axis in (2, 3, 4):
                voxels = voxels.repeat_interleave(2, axis)
            seen = image.masked_fill(voxels, 0)
        states = self.encode(seen, channel_mask, token_mask)
        found = {"embedding": states[-1].mean(dim=(2, 3, 4))}
        if "image" in tasks:
            around = None if self.skip == "drop" else self.encoder1(seen if self.skip == "disrupted" else image)
            found["image"] = self.pretext["image"](self.decode(states, around))
        for head in ("rotation", "projection"):
            if head in tasks:
                found[head] = self.pretext[head](found["embedding"])
        return {task: found[task] for task in tasks}

    def untrained(self, tasks: Sequence[str] = ("image", "embedding")) -> tuple[str, ...]:
        """Beginnings of the names of tensors that :meth:`pretrain` does not use, so that they stay as they were drawn."""
        unused = tuple(f"pretext.{head}." for head in getattr(self, "pretext", {}) if head not in tasks)
        if "image" not in tasks:
            return ("out.", *_BODY, *unused)
        return ("out.", *(("encoder1.",) if self.skip == "drop" else ()), *unused)

    def trained(self, tasks: Sequence[str] = ("image", "embedding")) -> Iterator[nn.Parameter]:
        """Parameters that :meth:`pretrain` uses; the mask token only where tokens are hidden."""
        idle = self.untrained(tasks)
        yield from (parameter for name, parameter in self.named_parameters() if not name.startswith(idle))

    def _check(self, image: torch.Tensor, channel_mask: torch.Tensor | None, token_mask: torch.Tensor | None, tasks: Sequence[str]) -> None:
        built = list(getattr(self, "pretext", {}))
        if missing := [task for task in tasks if task not in ("embedding", *built)]:
            raise UserError(f"tasks: got {missing}, but the network was built with heads {built}; name them in its argument heads.")
        sides = list(image.shape[2:])
        if image.ndim != 5 or image.shape[1] != self.in_channels or any(side == 0 or side % SIDE for side in sides) or max(sides) == SIDE:
            raise UserError(
                f"image: got shape {tuple(image.shape)}, expected (B, {self.in_channels}, D, H, W) with sides that are multiples of {SIDE},"
                f" one of them at least {2 * SIDE}; crop or pad to such a size, e.g. 96."
            )
        if token_mask is not None and not built:
            raise UserError("heads: the network was built without heads, hence without a mask token; no token can be hidden in it.")
        expected = {
            "channel_mask": (channel_mask, (len(image), self.swinViT.embed_dim, 1, 1, 1)),
            "token_mask": (token_mask, (len(image), 1, *(side // 2 for side in sides))),
        }
        for name, (mask, shape) in expected.items():
            if mask is not None and tuple(mask.shape) != shape:
                raise UserError(f"{name}: got shape {tuple(mask.shape)}, expected {shape}; True hides.")
