"""What of a line is tested and kept in its journal."""

from dataclasses import dataclass

from lit_ad.detector.drift import DELTA
from lit_ad.errors import check_number


@dataclass(frozen=True)
class JournalSettings:
    """What of a line is tested and kept.

    Args:
        delta: The probability of a false alarm of drift, ever, of each test.
        anomalous_rate: The share of images, defects and false alarms together, that may be called anomalous; an alarm
            says that there are more. None: this is not tested.
        pictures_mib: The bound of all pictures together: of all anomalous images, of the borderline ones, and of a
            random sample. The oldest nominal ones of the sample go first.
        sample: The share of images in that sample.

    Raises:
        UserError: A bound or a share that makes no sense.
    """

    delta: float = DELTA
    anomalous_rate: float | None = None
    pictures_mib: float = 1024
    sample: float = 0.01

    def __post_init__(self) -> None:
        if self.anomalous_rate is not None:
            check_number("anomalous_rate", self.anomalous_rate, least=0, most=0.999999, above=True)
        check_number("pictures_mib", self.pictures_mib, least=0)
        check_number("sample", self.sample, least=0, most=1)


SETTINGS = JournalSettings()
