"""Pictures of your own: a folder with a subfolder for each class, such as photos/cats/*.jpg and photos/dogs/*.jpg.

    pip install pillow
    p2pfusion check examples/image_folder.py

Each device reads its own folder, so that no picture leaves it; only the names of the classes must be the same. A data
set in one of the customary formats needs no file of your own: `p2pfusion join cifar10:DIR`.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from p2pfusion import Task, TaskError

PHOTOS = Path(__file__).with_name("photos")
SIZE = 64


class Photos(torch.utils.data.Dataset):
    """Decoded when they are needed: only the names are kept."""

    def __init__(self, folder: Path) -> None:
        self.classes = sorted(path.name for path in folder.glob("*/"))
        kinds = (".jpg", ".jpeg", ".png")
        self.files = [file for file in sorted(folder.glob("*/*")) if file.suffix.lower() in kinds]
        if not self.files:
            raise TaskError(f"{folder}: there are no pictures; put them into {folder.name}/CLASS/*.jpg")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.files[index]) as picture:
            pixels = np.asarray(picture.convert("RGB").resize((SIZE, SIZE)), np.float32)
        return torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1, self.classes.index(self.files[index].parent.name)


def task() -> Task:
    photos = Photos(PHOTOS)
    held_out = range(0, len(photos), 10)  # every tenth picture
    learnt = [number for number in range(len(photos)) if number not in held_out]
    model = nn.Sequential(
        *(nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.GroupNorm(4, 32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.GroupNorm(4, 64), nn.ReLU()),
        *(nn.Conv2d(64, 128, 3, stride=2, padding=1), nn.GroupNorm(4, 128), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, len(photos.classes))),
    )
    train, validation = (torch.utils.data.Subset(photos, which) for which in (learnt, held_out))
    return Task(model, train, validation, batch_size=16, steps_per_round=10)
