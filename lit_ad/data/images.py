"""Images of which nothing is known, for predict."""

from pathlib import Path

from lit_ad.batch import Sample
from lit_ad.data.source import Source, by_stem, is_image
from lit_ad.errors import UserError
from lit_ad.pixels import EXTENSIONS


class Images(Source):
    """Every image in a folder and the folders inside it, or one image file. A folder inside it is a category.

    Args:
        root: The folder, or the file.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root).expanduser()

    def samples(self) -> list[Sample]:
        if not self.root.exists():
            raise UserError(f"{self.root} does not exist: expected an image, or a folder of images")
        found = [self.root] if self.root.is_file() else sorted(self.root.rglob("*"))
        images = [path for path in found if is_image(path) and path.is_file()]
        if not images:
            raise UserError(f"no image in {self.root}: expected {', '.join(EXTENSIONS)} files")
        folder = self.root if self.root.is_dir() else self.root.parent
        folders = sorted({image.parent for image in images})
        for inner in folders:
            by_stem(image for image in images if image.parent == inner)
        return [Sample(i, -1, None, str(i.parent.relative_to(folder)), "", "predict") for i in images]
