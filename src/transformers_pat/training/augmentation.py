"""Training views of a labelled photo: random crop and scale, flip, colour. Seeded per sample, not per process."""

import numpy as np
import torch
from PIL import Image, ImageEnhance


class TrainingView:
    """
    Turns a photo and its label map into tensors of one fixed size (ranges are our choice).

    Args:
        crop_size: Side of the square view in pixels.
        image_mean, image_std: CLIP's normalisation, from the image processor.
        scale: Range of the crop's side as a share of the photo's short side; where the crop is larger than the photo,
            it ends at the photo's border and is squeezed to a square.
    """

    def __init__(
        self,
        crop_size: int,
        image_mean: list[float],
        image_std: list[float],
        scale: tuple[float, float] = (0.5, 1.0),
    ):
        self.crop_size, self.scale = crop_size, scale
        self.mean = torch.tensor(image_mean)[:, None, None]
        self.std = torch.tensor(image_std)[:, None, None]

    def __call__(
        self, image: Image.Image, labels: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Draw one view.

        Args:
            image: RGB photo.
            labels: (height, width) integer ids, or None for a photo without a mask.
            rng: Source of all randomness.

        Returns:
            pixel_values (3, crop_size, crop_size) float32 and labels (crop_size, crop_size) int64 or None.
        """
        box = self._random_box(image, rng)
        flip = rng.random() < 0.5
        view = image.resize((self.crop_size, self.crop_size), Image.Resampling.BILINEAR, box=box)
        if flip:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        view = self._jitter(view, rng)
        pixels = torch.from_numpy(np.array(view)).permute(2, 0, 1).float() / 255
        pixels = (pixels - self.mean) / self.std
        return pixels, None if labels is None else self._crop_labels(labels, box, flip)

    def _random_box(self, image: Image.Image, rng: np.random.Generator) -> tuple[float, float, float, float]:
        short = min(image.size)
        side = short * np.exp(rng.uniform(*np.log(self.scale)))
        aspect = np.exp(rng.uniform(-0.2, 0.2))
        width, height = (
            min(length, full) for length, full in zip((side * aspect, side / aspect), image.size, strict=True)
        )
        left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
        return left, top, left + width, top + height

    def _crop_labels(self, labels: np.ndarray, box: tuple[float, float, float, float], flip: bool) -> torch.Tensor:
        left, top, right, bottom = box
        centres = (np.arange(self.crop_size) + 0.5) / self.crop_size
        rows = np.clip((top + centres * (bottom - top)).astype(int), 0, labels.shape[0] - 1)
        columns = np.clip((left + centres * (right - left)).astype(int), 0, labels.shape[1] - 1)
        view = labels[rows][:, columns[::-1] if flip else columns]
        return torch.from_numpy(view.astype(np.int64))

    @staticmethod
    def _jitter(view: Image.Image, rng: np.random.Generator) -> Image.Image:
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            view = enhance(view).enhance(rng.uniform(0.7, 1.3))
        return view
