"""A trained detector for programs: an image in, a verdict out. No training code is imported.

An exported file needs NumPy, Pillow and that file's runtime. A checkpoint also needs torch and lit_ad's methods.
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
from lit_ad.detector.guarantee import count_folds
from lit_ad.detector.inputs import ImageLike, iterate_images, list_images, name_image, read_pixels
from lit_ad.detector.run_files import find_detector
from lit_ad.detector.scoring import Judgement, Network, NetworkFor, judge
from lit_ad.detector.stream import CALLERS, Record, run_in_order
from lit_ad.detector.verification import verify as verify_loaded
from lit_ad.errors import UserError, check_number
from lit_ad.image.pixels import Pixels
from lit_ad.image.view import Box
from lit_ad.names import printable
from lit_ad.threads import enter_stage

if TYPE_CHECKING:
    from torch import Tensor

TIMEOUT = 600.0  # seconds


class Detector:
    """A trained detector. A call judges images, exactly as the evaluation in training does.

    Args:
        network: Turns pixels into maps and scores.
        card: The detector's view, decision and other settings.
        network_for: Makes a network that several threads may call at the same time. None: they may call `network`.

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
        names = [category for category in decision.scores if category]
        categories = f", {len(names)} categories" if len(names) > 1 else f", {names[0]}" if names else ""
        point, folds = decision.operating_point(), count_folds(decision)
        rate = f"for {100 * decision.kept_rate():.3g} % false alarms" + (f" by {folds} folds" if folds else "")
        return (
            f"Detector({name}{categories}, threshold {point.threshold:.4g} {'set by hand' if point.by_hand else rate})"
        )

    @classmethod
    def load(
        cls, path: str | Path, weights: str | Path | None = None, device: str = "cpu", verify: bool = True
    ) -> "Detector":
        """Load a detector from a run directory, a checkpoint or an exported file.

        The file is compared with its checksum, because a damaged network still gives scores. On one core this takes
        0.3 s for each GiB of a checkpoint or a .pt2 (CRC-32), and 0.6 s for each GiB of an .onnx, or an .xml with its
        .bin (SHA-256).

        An exported file is also compared with its checkpoint, on the three images that it carries. This happens once on
        each machine, for each version of the runtime and each device.

        Args:
            path: A run directory, whose best checkpoint is loaded, or a file.
            weights: The file of the teacher's weights, if they are not where the checkpoint expects them.
            device: cpu, cuda or cuda:1; for an .onnx also tensorrt; for an .xml a name of OpenVINO's, such as GPU.
            verify: Whether an exported file is compared with its checkpoint.

        Raises:
            UserError: The file or the device does not exist, the file is damaged, a package or weights that it needs
                are missing, or its scores or maps differ from its checkpoint's on this machine.
        """
        path = find_detector(path)
        device = str(device)  # for callers that give a torch.device
        if path.suffix == ".ckpt":
            from lit_ad.methods.torch_runtime import load_network

            loaded = load_network(path, weights, device)
        else:
            loaded = load_exported(path, device)
        if verify:
            verify_loaded(loaded, path, device)
        detector = cls(loaded.network, loaded.card, loaded.network_for)
        Image.init()  # load Pillow's readers before several threads need them
        if detector.card.decision is None:
            warnings.warn(NO_DECISION, stacklevel=2)
        return detector

    @overload
    def __call__(self, images: "Tensor", category: str | None = None, *, bgr: bool = False) -> Any: ...

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a binary file is also an iterator
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
        """Judge images.

        Args:
            images: One image (see `inputs.ImageLike`), a sequence of images, a tensor (B, C, H, W), or an iterator.
            category: For a model of several products, the category whose thresholds decide. None: the thresholds of
                all categories together.
            bgr: Whether the channels of arrays and tensors are blue, green, red, as OpenCV has them.

        Returns:
            A `Detection` for one image, a list for a sequence or a tensor, an iterator for an iterator.

        Raises:
            UserError: An input is no image, or an image cannot be read or is too small; the message names it. Or there
                are no thresholds of the category.
            NotFiniteError: A score or map is NaN or infinite; the message names the image.
        """
        several = list_images(images)
        if several is None:
            self.check_category(category)
            return self._judge([images], [name_image(images)], category, bgr)[0]
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
        """Yield a `Detection` for each image, in the order of the images.

        Several threads read and judge images, each with a part of the cores: this is faster than one image on all
        cores. They take some images ahead of time. A `Detection` waits for the other images of its batch, but never for
        a later batch.

        Args:
            images: A list, or any other iterable.
            category: As in a call.
            batch_size: How many images the network judges at once, if their inputs have the same size.
            timeout: Seconds that reading an image, or one run of the network, may take. None: no limit.
            source_timeout: Seconds that `images` may take to give the next image. None: no limit, as for a camera.
            bgr: As in a call.
            journal: A `lit_ad.deploy.journal.Journal`, to which each verdict is written, in the order of judging.

        Raises:
            UserError: As in a call.
            TimeLimitError: A step took longer than its limit; the message says which. The program can still end: no
                thread keeps it alive.
        """
        self.check_category(category)
        iterator, shared = iterate_images(images), self.shared
        for setting, value in (("batch_size", batch_size), ("timeout", timeout), ("source_timeout", source_timeout)):
            if value is not None:
                check_number(setting, value, least=0, above=True)

        def judge_group(group: list[ImageLike], first: int) -> list[Detection]:
            names, begin = [name_image(image, number) for number, image in enumerate(group, first)], perf_counter()
            detections = shared._judge(group, names, category, bgr)
            seconds = (perf_counter() - begin) / len(group)
            if journal is not None:
                for detection, name in zip(detections, names, strict=True):
                    journal.record(detection, seconds, name, category=category)
            return detections

        return run_in_order(judge_group, iterator, batch_size, timeout, source_timeout)

    def check_category(self, category: str | None, setting: str = "category") -> None:
        """Raise UserError if there are thresholds, but none of this category: those of other products would decide.

        Args:
            category: The category, or None.
            setting: The name of the option that gave it, for the message.
        """
        decision = self.card.decision
        if category is None or decision is None or category in decision.scores:
            return
        known = [name for name in decision.scores if name]
        has = f"has {', '.join(map(printable, known))}" if known else "has none: leave it out"
        raise UserError(f"{setting} {printable(category)} is not one of the detector's: it {has}")

    @property
    def shared(self) -> "Detector":
        """This detector for several threads at the same time, each with a part of the cores."""
        with self._sharing:
            if self._shared is None:
                for_callers = None if self.network_for is None else self.network_for(CALLERS)
                self._shared = self if for_callers is None else Detector(for_callers, self.card)
            return self._shared

    def _read(self, image: ImageLike, name: str, bgr: bool) -> tuple[Pixels, Pixels, Box]:
        """Return the image (H, W, 3), the network's input (h, w, 3), and the box that the image fills in the input."""
        enter_stage(f"reading {name}")
        pixels = read_pixels(image, self.card.view.levels, name, bgr)
        try:
            return pixels, *self.card.view(pixels)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error

    def _judge(
        self, images: list[ImageLike], names: list[str], category: str | None, bgr: bool = False
    ) -> list[Detection]:
        """Return a Detection of each image. Raises NotFiniteError and UserError, which name the image."""

        def network(pixels: NDArray[np.uint8]) -> Any:
            enter_stage(f"the network, for {', '.join(names)},")
            return self.network(pixels)

        group = [self._read(image, name, bgr) for image, name in zip(images, names, strict=True)]
        decision, view = self.card.decision, self.card.view
        known_category = None if decision is None else category
        same_size = len({network_input.shape for _, network_input, _ in group}) == 1
        judgements: list[Judgement] = []
        for part in [group] if same_size else [[entry] for entry in group]:
            inputs = np.stack([network_input for _, network_input, _ in part])
            pixels = np.ascontiguousarray(inputs.transpose(0, 3, 1, 2))
            judgements += judge(network, pixels, [box for _, _, box in part], self.card)
        detections = []
        for (image, network_input, _), name, judgement in zip(group, names, judgements, strict=True):
            judgement.refuse_not_finite(name)
            judged = judgement.score, judgement.network_map, judgement.box, decision, known_category
            detections.append(Detection(image, *judged, view.region, view.mm_per_pixel, network_input))
        return detections
