"""OpenVINO: its two files, and signals."""

import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from lit_ad import Detector
from lit_ad.errors import UserError

pytest.importorskip("openvino")


def test_ctrl_c_works_after_several_files_were_loaded(files: dict[str, Path]) -> None:
    """With two Cores, OpenVINO would leave a signal stack that is freed, and Ctrl-C would be a segmentation fault."""
    code = """
        import signal, sys
        from lit_ad import Detector

        one, two = Detector.load(sys.argv[1]), Detector.load(sys.argv[1])
        del one
        del two
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            print("heard")
    """
    done = subprocess.run([sys.executable, "-c", dedent(code), files["openvino"]], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


def test_an_xml_without_its_bin_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(files["openvino"], tmp_path)
    with pytest.raises(UserError, match=r"model\.xml needs its weights, model\.bin, beside it: copy both files"):
        Detector.load(tmp_path / "model.xml")
