"""TIFF files of several pages: each page is an image.

The path of such an image ends in its page, `stack.tif#3`, so that everything that names an image by its path names the
page: scores.csv, heatmaps, a threshold's evidence, caches. `pixels.open_page` splits the path when it opens the file.
"""

from collections.abc import Iterable
from pathlib import Path

from lit_ad.batch import Sample
from lit_ad.errors import UserError
from lit_ad.image.pixels import list_page_paths, split_page


def split_pages(samples: Iterable[Sample]) -> list[Sample]:
    """Replace a sample of a TIFF by one for each page, with the image FILE#1, FILE#2, ... Others stay unchanged.

    The pages of a file get one item, unless the source has set it, so that they stay on one side of every split. If a
    mask has as many pages, each page gets its own; a mask of one page, or a folder of masks, belongs to all pages.

    Raises:
        UserError: A mask has several pages, but not as many as its image.
    """
    pages = []
    for sample in samples:
        file, page = split_page(sample.image)
        images = list_page_paths(file)
        if page is None and len(images) == 1:
            pages.append(sample)
            continue
        masks = [] if sample.mask is None else list_page_paths(sample.mask)
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


def list_files(samples: Iterable[Sample]) -> list[Path]:
    """Return the files of the samples' images, each once."""
    return list(dict.fromkeys(split_page(sample.image)[0] for sample in samples))
