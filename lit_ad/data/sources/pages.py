"""TIFF files of several pages: each page is an image.

The path of an image carries its page, `stack.tif#3`, so that whatever names an image by its path, such as scores.csv, a
heatmap, a threshold's evidence or a cache, names the page. Where a file is opened, `pixels.open_page` takes it apart.
"""

from collections.abc import Iterable
from pathlib import Path

from lit_ad.batch import Sample
from lit_ad.errors import UserError
from lit_ad.image.pixels import page_paths, split_page


def by_page(samples: Iterable[Sample]) -> list[Sample]:
    """Each page of a TIFF as a sample of its own, whose image is FILE#N, the first FILE#1; other samples as they are.

    The pages of a file are one item, and so on one side of every split, unless the source says of which item they are.
    A mask file of as many pages has one for each; a mask of one page, or a folder, is for all of them.

    Raises:
        UserError: A mask has several pages, but not as many as its image.
    """
    pages = []
    for sample in samples:
        file, page = split_page(sample.image)
        images = page_paths(file)
        if page is None and len(images) == 1:
            pages.append(sample)
            continue
        masks = [] if sample.mask is None else page_paths(sample.mask)
        if len(masks) > 1 and len(masks) != len(images):
            raise UserError(
                f"{sample.mask} has {len(masks)} pages and its image {file} {len(images)}: a mask has one page for "
                "each of the image's, or one for all of them"
            )
        for number, image in enumerate(images, 1):
            if page is None or page == number:
                mask = masks[number - 1] if len(masks) > 1 else sample.mask
                pages.append(sample._replace(image=image, mask=mask, item=sample.item or str(file)))
    return pages


def files_of(samples: Iterable[Sample]) -> list[Path]:
    """The files that the images lie in, each once."""
    return list(dict.fromkeys(split_page(sample.image)[0] for sample in samples))
