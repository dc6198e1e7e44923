"""The sparse judge of the pixel game: it sees a few pixels of an image, and says which digit it is.

Its input is that of Irving et al. 2018: two planes of the image's size, one marking which pixels
were shown, one with their values, both dark elsewhere. It learns by supervision from pixels drawn
uniformly without replacement from the lit ones of each image, and is frozen then.

A dense network instead of the paper's convolutions: all but the pixels shown are zero, so its first
layer is a sum of a few rows, and a debater may ask it a hundred thousand times a second.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

CLASSES = 10
BATCH, RATE, WIDTH = 512, 2e-3, 256


class Judge(nn.Module):
    """From pixels shown to ten logits."""

    def __init__(self, size: int) -> None:
        """`size` is the number of pixels of an image."""
        super().__init__()
        self.size = size
        self.planes = nn.EmbeddingBag(2 * size, WIDTH, mode="sum")
        """The first layer: a row for each pixel of the mask, and one for each of the values."""
        self.bias = nn.Parameter(torch.zeros(WIDTH))
        self.hidden = nn.Linear(WIDTH, WIDTH // 2)
        self.last = nn.Linear(WIDTH // 2, CLASSES)
        nn.init.normal_(self.planes.weight, std=0.3)

    def forward(self, where: Tensor, values: Tensor) -> Tensor:
        """Logits of each row of pixels: where they are, and their values from 0 to 1."""
        rows = torch.cat([where, where + self.size], dim=1)
        weights = torch.cat([torch.ones_like(values), values], dim=1)
        seen = functional.relu(self.planes(rows, per_sample_weights=weights) + self.bias)
        seen = functional.dropout(seen, 0.2, self.training)
        return self.last(functional.relu(self.hidden(seen)))

    @torch.inference_mode()
    def logits(self, images: Floats, where: Ints) -> Floats:
        """What it makes of the pixels `where` of each image."""
        values = np.take_along_axis(images, where, axis=1)
        return self(torch.from_numpy(where), torch.from_numpy(values)).numpy()


def draw(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Where `pixels` lit pixels of each image lie, drawn uniformly without replacement."""
    keys = torch.rand(images.shape, generator=generator)
    return keys.masked_fill(images <= 0, -1.0).topk(pixels, dim=1, sorted=False).indices


def train(images: Floats, labels: Ints, pixels: int, steps: int, seed: int = 0) -> Judge:
    """A judge of `pixels` pixels, trained on these images alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge, generator = Judge(images.shape[1]), torch.Generator().manual_seed(seed)
        every, truth = torch.from_numpy(images), torch.from_numpy(labels)
        optimiser = torch.optim.AdamW(judge.parameters(), lr=RATE, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(steps):
            chosen = torch.randint(len(every), (BATCH,), generator=generator)
            where = draw(every[chosen], pixels, generator)
            logits = judge(where, every[chosen].gather(1, where))
            loss = functional.cross_entropy(logits, truth[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return judge.eval()


def confusion(judge: Judge, images: Floats, labels: Ints, pixels: int, seed: int = 0) -> Ints:
    """How often it says a class (columns) of another (rows), of one random draw an image."""
    generator = torch.Generator().manual_seed(seed)
    where = draw(torch.from_numpy(images), pixels, generator).numpy()
    said = judge.logits(images, where).argmax(axis=1)
    table = np.zeros((CLASSES, CLASSES), dtype=np.int64)
    np.add.at(table, (labels, said), 1)
    return table
