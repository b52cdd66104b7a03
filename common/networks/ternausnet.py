"""TernausNet: a U-Net on a VGG encoder (Iglovikov and Shvets 2018), with encoder, decoder and head as named parts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from common.errors import UserError
from common.weights import read_weights

ENCODERS: dict[str, tuple[tuple[int, ...], ...]] = {
    "vgg11": ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    "vgg16": ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
}
"""Channels of every 3x3 convolution, stage by stage; each stage but the first is preceded by 2x2 max-pooling."""

# (inner, outer) channels of the decoder steps center, dec5, dec4, dec3, dec2, and the channels of dec1
DECODERS: dict[str, tuple[tuple[tuple[int, int], ...], int]] = {
    "vgg11": (((512, 256), (512, 256), (512, 128), (256, 64), (128, 32)), 32),
    "vgg16": (((512, 256), (512, 256), (512, 256), (256, 64), (128, 32)), 32),
}


def _conv_relu(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]


def initialise(network: nn.Module) -> None:
    """Draw convolutions by the rule of He et al. (2015), which keeps the size of activations where there is no normalisation.

    Deviation: torchvision draws VGG's encoder so, and the released decoder by torch's default; with that narrow networks
    learned later and on some seeds not at all within 12 epochs (measured, see docs/results.md of ``ladp``).
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, nn.ConvTranspose2d):
            # torch swaps the axes of these weights, and a pixel is reached by one in stride**2 of them
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            layer.weight.data *= layer.stride[0]
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.bias is not None:
            nn.init.zeros_(layer.bias)


class VGGEncoder(nn.Module):
    """Convolutional part of VGG; returns the output of each of its five stages before pooling.

    Args:
        in_channels: image channels.
        stages: channels of each convolution, stage by stage.
    """

    def __init__(self, in_channels: int, stages: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.stages = nn.ModuleList()
        for channels in stages:
            layers: list[nn.Module] = []
            for outputs in channels:
                layers += _conv_relu(in_channels, outputs)
                in_channels = outputs
            self.stages.append(nn.Sequential(*layers))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Features of ``(B, C, H, W)``: five tensors, the k-th ``(B, channels, H / 2**k, W / 2**k)``."""
        if x.shape[-1] % 32 or x.shape[-2] % 32:
            raise UserError(f"image_size: got slices of {tuple(x.shape[-2:])}, expected multiples of 32 (five poolings).")
        features: list[torch.Tensor] = []
        for index, stage in enumerate(self.stages):
            x = stage(x if index == 0 else self.pool(x))
            features.append(x)
        return features

    def convolutions(self) -> list[nn.Conv2d]:
        """All convolutions in the order of torchvision's ``features``."""
        return [layer for layer in self.modules() if isinstance(layer, nn.Conv2d)]


def _up(inputs: int, inner: int, outputs: int, deconvolution: bool) -> nn.Sequential:
    if deconvolution:
        up: list[nn.Module] = [nn.ConvTranspose2d(inner, outputs, 3, stride=2, padding=1, output_padding=1), nn.ReLU(inplace=True)]
        return nn.Sequential(*_conv_relu(inputs, inner), *up)
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), *_conv_relu(inputs, inner), *_conv_relu(inner, outputs))


class TernausDecoder(nn.Module):
    """Five up-sampling steps with skips from the encoder, then one convolution at full resolution.

    Args:
        skips: channels of the five encoder stages, finest first.
        steps: (inner, outer) channels of center, dec5, dec4, dec3 and dec2.
        out_channels: channels of dec1, the output.
        deconvolution: transposed convolutions (TernausNet-11) in place of bilinear up-sampling (TernausNet-16).
    """

    def __init__(self, skips: Sequence[int], steps: Sequence[tuple[int, int]], out_channels: int, deconvolution: bool) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.pool = nn.MaxPool2d(2)
        self.steps = nn.ModuleList()
        inputs = skips[-1]
        for (inner, outer), skip in zip(steps, reversed(skips), strict=True):
            self.steps.append(_up(inputs, inner, outer, deconvolution))
            inputs = outer + skip
        self.last = nn.Sequential(*_conv_relu(inputs, out_channels))

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Decode the encoder's five feature maps to ``(B, out_channels, H, W)``."""
        x = self.pool(features[-1])
        for step, skip in zip(self.steps, reversed(features), strict=True):
            x = torch.cat([step(x), skip], dim=1)
        return self.last(x)


def prediction_head(inputs: int, outputs: int, hidden: int | None = None) -> nn.Sequential:
    """A 1x1 convolution, or with ``hidden`` the three of the released LADP wrapper (inputs, hidden, hidden, outputs)."""
    if hidden is None:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 1))
    middle = [nn.Conv2d(inputs, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, hidden, 1), nn.ReLU()]
    return nn.Sequential(*middle, nn.Conv2d(hidden, outputs, 1))


class TernausNet(nn.Module):
    """TernausNet on slices ``(B, in_channels, H, W)``, H and W multiples of 32, to logits ``(B, out_channels, H, W)``.

    With ``width=1``, 3 inputs and 1 output it has 22,927,393 parameters (vgg11) or 29,306,465 (vgg16).

    Args:
        in_channels: image channels.
        out_channels: logits per pixel.
        encoder: ``vgg11`` (what LADP cites; transposed convolutions) or ``vgg16`` (what its code uses; bilinear).
        width: factor on all channels, in (0, 1]; below 1 for small machines.
        hidden: channels of the extra 1x1 layers of the released LADP wrapper (64), or None for the plain head.
        encoder_weights: a user's torchvision VGG ``state_dict`` file; never downloaded.

    Raises:
        UserError: unknown encoder, or weights that do not fit.

    Source: LADP, Sec. II.D ("TeraNet [23]").
    """

    def __init__(
        self,
        in_channels: int = 2,
        out_channels: int = 1,
        encoder: str = "vgg11",
        width: float = 1.0,
        hidden: int | None = None,
        encoder_weights: str | None = None,
    ) -> None:
        super().__init__()
        if encoder not in ENCODERS:
            raise UserError(f"encoder: got '{encoder}', expected one of {sorted(ENCODERS)}.")
        stages = [[max(1, round(c * width)) for c in stage] for stage in ENCODERS[encoder]]
        steps, last = DECODERS[encoder]
        scaled = [(max(1, round(a * width)), max(1, round(b * width))) for a, b in steps]
        self.encoder = VGGEncoder(in_channels, stages)
        self.decoder = TernausDecoder([stage[-1] for stage in stages], scaled, max(1, round(last * width)), encoder == "vgg11")
        self.head = prediction_head(self.decoder.out_channels, out_channels, hidden)
        self.encoder_weights = encoder_weights
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew from torch's generator; the encoder from ``encoder_weights`` where they are given."""
        initialise(self.encoder)
        self.reset_decoder()
        if self.encoder_weights:
            load_imagenet_weights(self.encoder, self.encoder_weights)

    def reset_decoder(self) -> None:
        """Draw decoder and head anew, the encoder stays."""
        initialise(self.decoder)
        initialise(self.head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of normalised slices."""
        return self.head(self.decoder(self.encoder(x)))


def adapt_first_convolution(weight: torch.Tensor, in_channels: int) -> torch.Tensor:
    """Fit RGB filters to another number of channels: their mean for each, scaled so that a constant input gives the same output.

    Args:
        weight: ``(out, 3, k, k)``.
        in_channels: channels wanted.

    Returns:
        ``(out, in_channels, k, k)``; unchanged for 3 channels.
    """
    if in_channels == weight.shape[1]:
        return weight
    return weight.mean(dim=1, keepdim=True).repeat(1, in_channels, 1, 1) * (weight.shape[1] / in_channels)


def load_imagenet_weights(encoder: VGGEncoder, path: str | Path) -> None:
    """Fill an encoder from a torchvision VGG file such as ``vgg11-8a719046.pth``.

    torchvision puts the first eight digits of the file's SHA-256 in its name; when they are there they are checked.

    Args:
        encoder: of full width.
        path: a file the user downloaded; read with ``weights_only``.

    Raises:
        UserError: no such file, damaged (hash differs, unreadable), or made for another VGG.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"encoder_weights: no file {path}; download the torchvision VGG weights yourself or leave the key null.")
    expected = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if expected and not digest.startswith(expected.group(1)):
        raise UserError(f"encoder_weights: {path} has SHA-256 {digest[:8]}..., its name says {expected.group(1)}; download it again.")
    state = read_weights(path)
    names = sorted({key.rsplit(".", 1)[0] for key in state if key.startswith("features.")}, key=lambda name: int(name.split(".")[1]))
    layers = encoder.convolutions()
    if len(names) != len(layers):
        raise UserError(f"encoder_weights: {path} has {len(names)} convolutions, this encoder {len(layers)}; is it for the other VGG?")
    for index, (name, layer) in enumerate(zip(names, layers, strict=True)):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        weight = adapt_first_convolution(weight, layer.in_channels) if index == 0 else weight
        if weight.shape != layer.weight.shape:
            raise UserError(f"encoder_weights: {name} has {tuple(weight.shape)}, expected {tuple(layer.weight.shape)}; width must be 1.")
        layer.weight.data.copy_(weight)
        if layer.bias is not None:
            layer.bias.data.copy_(bias)
