"""The generated benchmark `shapes`: things (colour x shape) on stuff (textures), with unseen words of both kinds.

It shows the two biases that SCAN calibrates: unseen categories lie close to seen ones, onto which embeddings collapse,
and some categories are drawn alike and told apart by their surroundings, of which a masked crop shows no more than the
blended pixels of the rim.
"""

from __future__ import annotations

from torch.utils.data import Dataset

from scan_lightning.data.base import EvaluationDataset, RawSample, SegmentationDataModule, Split, TrainingDataset
from scan_lightning.data.shapes_scene import make_scene
from scan_lightning.data.shapes_words import shapes_hierarchy, shapes_vocabulary
from scan_lightning.data.transforms import EvaluationTransform, TrainingTransform
from scan_lightning.types import ClassHierarchy, Sample, Vocabulary


class ShapesSource:
    """Generated scenes as raw samples; generated anew at each access, about 3 ms each at 128 pixels.

    Args:
        split: See `make_scene`.
        length: Number of scenes.
        image_size: Side in pixels.
        seed: Seed of the scenes.
    """

    def __init__(self, *, split: str, length: int, image_size: int, seed: int) -> None:
        self.split = split
        self.length = length
        self.image_size = image_size
        self.seed = seed

    def __len__(self) -> int:
        """Count the scenes."""
        return self.length

    def __getitem__(self, index: int) -> RawSample:
        """Generate one scene.

        Raises:
            IndexError: If ``index`` is outside [0, length).
        """
        if not 0 <= index < self.length:
            raise IndexError(f"index: expected 0 to {self.length - 1}, got {index}")
        scene = make_scene(seed=self.seed, split=self.split, index=index, size=self.image_size)
        return RawSample(image=scene.image, image_id=f"{self.split}_{index:06d}", label_map=scene.label_map)


class ShapesDataModule(SegmentationDataModule):
    """Scenes of `shapes`: 32 categories, 20 of them seen; training scenes hold seen categories alone.

    Nothing is read or downloaded. Images are square, so neither crop nor resize takes place; training flips them
    horizontally. Prediction runs over the test images.

    Args:
        train_size: Training scenes.
        val_size: Validation scenes, of all categories.
        test_size: Test scenes, of all categories.
        image_size: Side in pixels.
        scene_seed: Seed of the scenes; scores compare only where it is equal.
        train_on_all: Whether training scenes hold the unseen categories as well. For training CLIP, which stands for a
            model that has seen the web; never for the segmenter.
        batch_size: Images per training batch and process.
        eval_batch_size: Images per evaluation batch.
        num_workers: Loading processes per loader.
        seed: Seed of order and flips.

    Raises:
        ValueError: If a size is below 1 or an image side below 32 pixels.
    """

    def __init__(
        self,
        *,
        train_size: int = 2000,
        val_size: int = 200,
        test_size: int = 400,
        image_size: int = 128,
        scene_seed: int = 0,
        train_on_all: bool = False,
        batch_size: int = 8,
        eval_batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
            train_transform=TrainingTransform(
                shortest_sides=(image_size,), longest_side=image_size, crop_size=image_size, colour_jitter=False
            ),
            eval_transform=EvaluationTransform(min_size=None),
        )
        sizes = {"train": train_size, "val": val_size, "test": test_size}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name}_size: expected at least 1, got {value}")
        if image_size < 32:
            raise ValueError(f"image_size: expected at least 32 pixels, got {image_size}")
        self.sizes = sizes
        self.image_size = image_size
        self.scene_seed = scene_seed
        self.train_on_all = train_on_all

    @property
    def vocabulary(self) -> Vocabulary:
        """All 32 categories."""
        return shapes_vocabulary()

    @property
    def training_vocabulary(self) -> Vocabulary:
        """The seen categories, or all with ``train_on_all``."""
        return self.vocabulary if self.train_on_all else super().training_vocabulary

    @property
    def hierarchy(self) -> ClassHierarchy:
        """Parents of the painted stars and of the brick wall."""
        return shapes_hierarchy()

    def build_dataset(self, split: Split) -> Dataset[Sample]:
        """Make the dataset of a split; prediction shares the test scenes.

        Args:
            split: "train", "val", "test" or "predict".

        Returns:
            The dataset, with labels of the training vocabulary for "train".
        """
        part = "test" if split == "predict" else split
        stream = "clip" if part == "train" and self.train_on_all else part
        source = ShapesSource(split=stream, length=self.sizes[part], image_size=self.image_size, seed=self.scene_seed)
        if part == "train":
            return TrainingDataset(
                source, transform=self.train_transform, seed=self.seed, relabel=self.training_relabel
            )
        return EvaluationDataset(source, transform=self.eval_transform)
