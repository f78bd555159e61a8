from __future__ import annotations

import numpy as np
import pytest

from mome.encoders.avhubert import AVHubertConfig
from mome.encoders.avhubert.pixels import mouth_pixels

MOUTH = np.random.default_rng(0).integers(0, 256, (3, 96, 96), dtype=np.uint8)


@pytest.mark.parametrize("offset", [None, (0, 0), (8, 3)])
@pytest.mark.parametrize("flip", [False, True])
def test_field_of_the_published_models(offset, flip):
    pixels = mouth_pixels(MOUTH, AVHubertConfig(), offset, flip)
    assert pixels.shape == (3, 88, 88)
    assert pixels.dtype == np.float32
    top, left = offset or (4, 4)
    for row, column in ((0, 0), (87, 87), (10, 70)):
        source = MOUTH[:, top + row, left + (87 - column if flip else column)]
        np.testing.assert_allclose(pixels[:, row, column], (source / 255 - 0.421) / 0.165, rtol=1e-4, atol=1e-5)


def test_smaller_input_averages_the_same_field():
    config = AVHubertConfig(image_size=44, image_mean=0.0, image_std=1.0)
    field = MOUTH[:, 4:92, 4:92].astype(float)
    expected = field.reshape(3, 44, 2, 44, 2).mean((2, 4)) / 255
    np.testing.assert_allclose(mouth_pixels(MOUTH, config), expected, atol=1e-5)
