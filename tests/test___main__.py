"""`python -m lit_ad` is the command lit-ad."""

import subprocess
import sys

from lit_ad import __version__


def test_python_m_lit_ad_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "lit_ad", "--version"], capture_output=True, text=True, check=True)
    assert __version__ in done.stdout
    done = subprocess.run([sys.executable, "-m", "lit_ad", "trian"], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "trian" in done.stderr
