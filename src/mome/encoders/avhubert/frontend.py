"""The visual front end: a 3-D convolution and a ResNet-18 applied to each frame."""

from __future__ import annotations

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with a skip connection, PReLU with one slope per channel."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.PReLU(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in, H, W)`` → ``(N, channels, H / stride, W / stride)``."""
        skip = x if self.downsample is None else self.downsample(x)
        x = self.relu1(self.bn1(self.conv1(x)))
        added: Tensor = self.relu2(self.bn2(self.conv2(x)) + skip)
        return added


class ResNetTrunk(nn.Module):
    """The four stages of a ResNet-18 and global average pooling."""

    def __init__(self, width: int):
        super().__init__()
        channels = width
        for stage, (multiple, stride) in enumerate(((1, 1), (2, 2), (4, 2), (8, 2)), start=1):
            out = width * multiple
            blocks = nn.Sequential(BasicBlock(channels, out, stride), BasicBlock(out, out, 1))
            self.add_module(f"layer{stage}", blocks)
            channels = out

    def forward(self, x: Tensor) -> Tensor:
        """``(N, width, H, W)`` → ``(N, 8 · width)``."""
        for stage in self.children():
            x = stage(x)
        return x.mean((-2, -1))


class VisualResNet(nn.Module):
    """3-D convolution over five frames, then the ResNet-18 trunk on each frame by itself."""

    def __init__(self, width: int):
        super().__init__()
        self.frontend3D = nn.Sequential(
            nn.Conv3d(1, width, (5, 7, 7), (1, 2, 2), (2, 3, 3), bias=False),
            nn.BatchNorm3d(width),
            nn.PReLU(width),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        )
        self.trunk = ResNetTrunk(width)

    def forward(self, video: Tensor) -> Tensor:
        """``(B, T, H, W)`` normalised grey frames → ``(B, T, 8 · width)``."""
        batch, frames = video.shape[:2]
        x = self.frontend3D(video[:, None]).transpose(1, 2).flatten(0, 1)
        features: Tensor = self.trunk(x).unflatten(0, (batch, frames))
        return features
