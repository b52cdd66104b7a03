"""A plain strong network to compare with: MONAI's ``DynUNet`` with the usual channels, scaled in width."""

from __future__ import annotations

from monai.networks.nets import DynUNet

CHANNELS = (32, 64, 128, 256, 320)


def plain_dynunet(in_channels: int, out_channels: int = 1, spatial_dims: int = 2, width: float = 1.0) -> DynUNet:
    """``DynUNet`` with five resolutions, plain blocks and instance norm.

    Args:
        in_channels: image channels.
        out_channels: logits per voxel.
        spatial_dims: 2 or 3.
        width: factor on all channels, in (0, 1]; at least 4 channels stay.
    """
    steps = len(CHANNELS)
    return DynUNet(
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=[3] * steps,
        strides=[1] + [2] * (steps - 1),
        upsample_kernel_size=[2] * (steps - 1),
        filters=[max(4, round(channels * width)) for channels in CHANNELS],
        norm_name="instance",
        # no residual blocks: their strided 1x1 convolutions corrupt memory in torch 2.13 on CPU (channels last, few channels)
        res_block=False,
    )
