"""A trained detector for programs: an image in, a verdict out. Nothing of training is imported.

With an exported file it needs NumPy, Pillow and that file's runtime; with a checkpoint also torch and lit_ad's methods.
"""

import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_ad.detector.card import Card
from lit_ad.detector.decision import NO_DECISION
from lit_ad.detector.detection import Detection
from lit_ad.detector.exported import load_exported
from lit_ad.detector.guarantee import folds_of
from lit_ad.detector.inputs import ImageLike, iterate_images, list_images, name_of, read_pixels
from lit_ad.detector.run_files import find_detector
from lit_ad.detector.scoring import Judgement, Network, NetworkFor, judge
from lit_ad.detector.stream import CALLERS, Record, in_order
from lit_ad.detector.verification import verify as verify_loaded
from lit_ad.errors import UserError, check_number
from lit_ad.image.pixels import Pixels
from lit_ad.image.view import Box
from lit_ad.threads import enter_stage

if TYPE_CHECKING:
    from torch import Tensor

TIMEOUT = 600.0  # seconds


class Detector:
    """Judges images as training's own evaluation does.

    Args:
        network: Of the detector.
        card: What is known of it.
        network_for: The network for several callers at a time. None: `network` is.

    Example:
        detector = Detector.load("runs/stfpm/20260101-120000")
        verdict = detector("part.png")
        print(verdict.anomalous, verdict.p_value, verdict.regions)
    """

    def __init__(self, network: Network, card: Card, network_for: NetworkFor | None = None) -> None:
        self.network, self.card, self.network_for = network, card, network_for
        self._shared: Detector | None = None
        self._sharing = Lock()

    def __repr__(self) -> str:
        card, decision = self.card, self.card.decision
        name = f"{card.method.rpartition('.')[2]}, {card.precision}"
        if decision is None:
            return f"Detector({name}, no threshold)"
        known = [category for category in decision.scores if category]
        categories = f", {len(known)} categories" if len(known) > 1 else f", {known[0]}" if known else ""
        point = decision.operating_point()
        rate = "set by hand" if point.by_hand else f"for {100 * decision.kept_rate():.3g} % false alarms"
        rate += f" by {folds} folds" if (folds := folds_of(decision)) and not point.by_hand else ""
        return f"Detector({name}{categories}, threshold {point.threshold:.4g} {rate})"

    @classmethod
    def load(
        cls, path: str | Path, weights: str | Path | None = None, device: str = "cpu", verify: bool = True
    ) -> "Detector":
        """The detector in a run's directory, in a checkpoint, or in an exported file.

        The file is compared with its checksum, since a damaged network still gives scores. On one core this takes 0.3 s
        for each GiB of a checkpoint or a .pt2 (CRC-32), and 0.6 s of an .onnx, or an .xml with its .bin (SHA-256).

        An exported file is also compared with its checkpoint, on the three images that it carries, when it is loaded
        for the first time on this machine, by this version of its runtime and on this device.

        Args:
            path: RUN, whose best checkpoint is taken, or a file.
            weights: The teacher's, if a checkpoint does not find them.
            device: cpu, cuda or cuda:1; of an .onnx, tensorrt too; of an .xml, what OpenVINO calls it, such as GPU.
            verify: Whether an exported file is compared with its checkpoint.

        Raises:
            UserError: There is no such file or no such device, the file is damaged, what it needs is not there, or its
                scores or maps are not its checkpoint's here.
        """
        path = find_detector(path)
        device = str(device)  # a torch.device is taken, too
        if path.suffix == ".ckpt":
            from lit_ad.methods.torch_runtime import load_network

            loaded = load_network(path, weights, device)
        else:
            loaded = load_exported(path, device)
        if verify:
            verify_loaded(loaded, path, device)
        detector = cls(loaded.network, loaded.card, loaded.network_for)
        Image.init()  # Pillow's readers, before several threads want them
        if detector.card.decision is None:
            warnings.warn(NO_DECISION, stacklevel=2)
        return detector

    @overload
    def __call__(self, images: "Tensor", category: str | None = None, *, bgr: bool = False) -> Any: ...

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a binary file is an iterator, too
        self, images: ImageLike, category: str | None = None, *, bgr: bool = False
    ) -> Detection: ...

    @overload
    def __call__(
        self, images: Sequence[ImageLike], category: str | None = None, *, bgr: bool = False
    ) -> list[Detection]: ...

    @overload
    def __call__(
        self, images: Iterator[ImageLike], category: str | None = None, *, bgr: bool = False
    ) -> Iterator[Detection]: ...

    def __call__(self, images: Any, category: str | None = None, *, bgr: bool = False) -> Any:
        """One image -> its Detection; a sequence -> a list; an iterator -> an iterator, as the images come.

        Args:
            images: See `inputs.ImageLike`. A sequence or a tensor (B, C, H, W) of several, or an iterator of them.
            category: Of a model for many products: whose thresholds count. None, or an unknown one: those of all
                together.
            bgr: Whether the channels of arrays and tensors are blue, green, red, as OpenCV's are.

        Raises:
            UserError: What is no image, or an image that cannot be read, or that is too small; it is named.
            NotFiniteError: A score or map that is NaN or infinite; the image is named.
        """
        several = list_images(images)
        if several is None:
            return self._judge([images], [name_of(images)], category, bgr)[0]
        stream = self.stream(several, category, bgr=bgr)
        return list(stream) if isinstance(several, list) else stream

    def stream(
        self,
        images: Iterable[ImageLike],
        category: str | None = None,
        batch_size: int = 1,
        timeout: float | None = TIMEOUT,
        source_timeout: float | None = None,
        bgr: bool = False,
        journal: Record | None = None,
    ) -> Generator[Detection, None, None]:
        """The same one after the other, `batch_size` at a time where their inputs have one size.

        Several threads read images and judge them, each with a part of the cores, which is faster than all cores for
        one image. They take images from the iterator ahead, but no answer waits for images that a camera has yet to
        give, unless they are of its batch.

        Args:
            images: A list, or any other iterable.
            category: As in a call.
            batch_size: Images that the network sees at once.
            timeout: Seconds that reading an image, or one run of the network, may take. None: any time.
            source_timeout: Seconds that `images` may take to give the next one. None: any time, as a camera may.
            bgr: As in a call.
            journal: A `lit_ad.deploy.journal.Journal` that each verdict is written to, in the order of judging.

        Raises:
            UserError: As a call does.
            TimeLimitError: One of them took longer; the message says which. The program can end all the same.
        """
        given, shared = iterate_images(images), self.shared
        for setting, value in (("batch_size", batch_size), ("timeout", timeout), ("source_timeout", source_timeout)):
            if value is not None:
                check_number(setting, value, least=0, above=True)

        def work(group: list[ImageLike], first: int) -> list[Detection]:
            names, begin = [name_of(image, number) for number, image in enumerate(group, first)], perf_counter()
            detections = shared._judge(group, names, category, bgr)
            seconds = (perf_counter() - begin) / len(group)
            if journal is not None:
                for detection, name in zip(detections, names, strict=True):
                    journal.record(detection, seconds, name, awaited=False, category=category)
            return detections

        return in_order(work, given, batch_size, timeout, source_timeout)

    @property
    def shared(self) -> "Detector":
        """The same detector for several threads at a time, each of which has a part of the cores."""
        with self._sharing:
            if self._shared is None:
                for_callers = None if self.network_for is None else self.network_for(CALLERS)
                self._shared = self if for_callers is None else Detector(for_callers, self.card)
            return self._shared

    def _look(self, image: ImageLike, name: str, bgr: bool) -> tuple[Pixels, Pixels, Box]:
        enter_stage(f"reading {name}")
        pixels = read_pixels(image, self.card.view.levels, name, bgr)
        try:
            return pixels, *self.card.view(pixels)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error

    def _judge(
        self, images: list[ImageLike], names: list[str], category: str | None, bgr: bool = False
    ) -> list[Detection]:
        """A Detection of each image. Raises NotFiniteError, and UserError, with the image's name."""

        def network(pixels: NDArray[np.uint8]) -> Any:
            enter_stage(f"the network, for {', '.join(names)},")
            return self.network(pixels)

        group = [self._look(image, name, bgr) for image, name in zip(images, names, strict=True)]
        decision = self.card.decision
        known = category if decision is not None and category in decision.scores else None
        judgements: list[Judgement] = []
        for part in [group] if len({pixels.shape for _, pixels, _ in group}) == 1 else [[each] for each in group]:
            pixels = np.ascontiguousarray(np.stack([seen for _, seen, _ in part]).transpose(0, 3, 1, 2))
            judgements += judge(network, pixels, [box for _, _, box in part], self.card)
        detections = []
        for (image, shown, _), name, judgement in zip(group, names, judgements, strict=True):
            judgement.refuse_not_finite(name)
            judged = judgement.score, judgement.seen, judgement.box, decision, known
            detections.append(Detection(image, *judged, self.card.view.region, self.card.view.mm_per_pixel, shown))
        return detections
