"""`lit-ad data shift`."""

from dataclasses import dataclass
from pathlib import Path

from lit_ad.counts import format_count
from lit_ad.data.audit.guess_source import guess_source
from lit_ad.data.light import STRENGTH, Kind
from lit_ad.data.shift import Shift, write_shifted
from lit_ad.data.sources.images import Images
from lit_ad.data.sources.pages import split_pages
from lit_ad.data.sources.source import Source, check_samples
from lit_ad.errors import UserError
from lit_ad.training.run_directory import quote_path


@dataclass(frozen=True)
class ShiftedData:
    """The data set to shift, given by the same flags as for fit.

    Args:
        source: Any source of images, with its own flags, as for fit.
    """

    source: Source | None = None


def data_shift(
    path: Path | None = None,
    /,
    data: ShiftedData = ShiftedData(),
    kind: Kind = "light",
    strength: float = STRENGTH,
    seed: int = 0,
    output: Path | None = None,
) -> None:
    """Copy a test set with its masks under other light, to measure how well a detector copes with the change.

    lit_ad.data.Light changes each image at the image's own size. The same seed gives the same images on any machine.
    The copy has MVTec AD's layout, for lit-ad test. If the folder has no test set, all of its images are copied, for
    lit-ad predict.

    Args:
        path: A folder: in MVTec's layout, with one category or several; with train/CLASS folders; or of images.
        data: For any other layout, as for fit: --data.source Folder --data.source.root PATH.
        kind: What changes. light changes all of the others together.
        strength: How strong the change is, above 0 and at most 1.
        seed: The seed that draws each image's change.
        output: The folder to write. None: NAME-KIND-STRENGTH in the working directory.

    Raises:
        UserError: No data set or more than one is given, or the output lies in it or cannot be written.
    """
    if (path is None) == (data.source is None):
        raise UserError("give one data set to shift: lit-ad data shift PATH, or --data.source NAME with its flags")
    shift = Shift(kind, strength, seed)
    if path is None:
        assert data.source is not None
        data.source.prepare()
        source, name = data.source, Path(getattr(data.source, "root", None) or type(data.source).__name__).name
    else:
        source, name = guess_source(path)[0], path.name
    samples = split_pages(source.samples())
    check_samples(samples)
    if path is not None and not any(sample.split == "test" for sample in samples):
        samples = Images(path).samples()
    target = output or Path(f"{name}-{kind}-{strength:g}").absolute()
    root = path or getattr(data.source, "root", None)
    if root is not None and target.resolve().is_relative_to(Path(root).resolve()):
        raise UserError(
            f"{target} lies in the data set {root}, so the copy would become part of it: give another --output"
        )
    number = write_shifted(samples, shift, target)
    print(f"{format_count(number, 'image')} in {target}, {kind} shifted by up to {strength:g}, seed {seed}")
    labelled = any(sample.split == "test" for sample in samples)
    words = f"test RUN --data.source MVTec --data.source.root {quote_path(target)}"
    print(f"Next: lit-ad {words if labelled else f'predict RUN {quote_path(target)}'}")
