"""Settings of a journal: what it tests, and which pictures it keeps."""

from dataclasses import dataclass

from lit_ad.detector.drift import DELTA
from lit_ad.errors import check_number


@dataclass(frozen=True)
class JournalSettings:
    """What a journal tests, and which pictures it keeps.

    Args:
        delta: The probability that a drift test ever raises a false alarm, for each test.
        anomalous_rate: The share of images that may be judged anomalous, defects and false alarms together. An alarm is
            raised if the share is higher. None: the share is not tested.
        pictures_mib: The most disk space for all pictures together, in MiB. Pictures are kept of anomalous images, of
            borderline images, and of a random sample. When the space is used up, the oldest pictures of nominal images
            in the sample are removed first.
        sample: The share of images in the random sample.

    Raises:
        UserError: A number is out of its range.
    """

    delta: float = DELTA
    anomalous_rate: float | None = None
    pictures_mib: float = 1024
    sample: float = 0.01

    def __post_init__(self) -> None:
        if self.anomalous_rate is not None:
            check_number("anomalous_rate", self.anomalous_rate, least=0, most=0.999999, above=True)
        check_number("pictures_mib", self.pictures_mib, least=0, most=1e9)
        check_number("sample", self.sample, least=0, most=1)


SETTINGS = JournalSettings()
