"""
Fetch the Autobahn testsuite's cases and make them readable for today's Python, into .cache/autobahn.

    python tests/conformance/autobahn/prepare.py

The suite itself is a program for Python 2; its cases are classes that a driver can run (driver.py). They come
from the package index, pinned by hash, and are ours to run, not to ship. lib2to3, which translates them, left
Python with 3.13: there, use the folder that an older one prepared.
"""

import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "25.10.1"
SHA256 = "b083d6e15330fc16f3e5f0975cce2b15f21bfa0c6db09547316b1852c6dbd6df"
CASES = Path(__file__).parents[3] / ".cache" / "autobahn" / VERSION

# Groups 12 and 13 are about compression, which we never negotiate; they lean on an API that is gone.
NO_COMPRESSION = """\
Case12_X_X = []
Case12_X_X_CaseSubCategories = {}
Case13_X_X = []
Case13_X_X_CaseSubCategories = {}
__all__ = ["Case12_X_X", "Case12_X_X_CaseSubCategories", "Case13_X_X", "Case13_X_X_CaseSubCategories"]
"""


def fetch(folder: Path) -> Path:
    """The unpacked source distribution. Raises CalledProcessError when the index or the hash says no."""
    requirement = folder / "requirement.txt"
    requirement.write_text(f"autobahntestsuite=={VERSION} --hash=sha256:{SHA256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    source_only = ["--no-deps", "--no-binary=:all:", "--no-build-isolation", "--require-hashes"]
    subprocess.run([*pip, *source_only, f"--dest={folder}", f"--requirement={requirement}"], check=True)
    with tarfile.open(folder / f"autobahntestsuite-{VERSION}.tar.gz") as archive:
        archive.extraction_filter = getattr(
            tarfile, "data_filter", None
        )  # since 3.11.4; the hash was right anyway
        archive.extractall(folder)
    return folder / f"autobahntestsuite-{VERSION}"


def normalise(source: bytes) -> str:
    """Tabs to blanks, and in byte strings each byte beyond ASCII to its escape."""

    def line(text: str) -> str:
        if 'u"' not in text and "u'" not in text:
            text = "".join(
                c if c < "\x80" else "".join(f"\\x{byte:02x}" for byte in c.encode()) for c in text
            )
        return text.replace("\t", "   ")

    return "\n".join(map(line, source.decode("utf-8", "replace").split("\n")))


def adapt(source: str) -> str:
    """What lib2to3 leaves: byte strings are text of code points below 256 here (compat.py), / was a floor."""
    source = re.sub(r"^import binascii$", "from compat import binascii", source, flags=re.MULTILINE)
    source = source.replace(
        "from autobahn.websocket.utf8validator import Utf8Validator", "from compat import Utf8Validator"
    )
    source = source.replace("from zope.interface import implements", "def implements(*interfaces): pass")
    source = source.replace(
        "len(self.payload) / self.p.autoFragmentSize", "len(self.payload) // self.p.autoFragmentSize"
    )
    return re.sub(r"\(object, *Case, *\)", "(Case,)", source)


def prepare() -> None:
    """Leave the cases in CASES/case, or nothing there."""
    if (CASES / "case").is_dir():
        return
    if importlib.util.find_spec("lib2to3") is None:
        raise SystemExit("the Autobahn cases need lib2to3: prepare them with Python 3.11 or 3.12")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cases = folder / "case"
        shutil.copytree(fetch(folder) / "autobahntestsuite" / "case", cases)
        for file in cases.glob("*.py"):
            file.write_text(normalise(file.read_bytes()))
        translate = [sys.executable, "-W", "ignore", "-m", "lib2to3", "-w", "-n", "--no-diffs", str(cases)]
        subprocess.run(translate, check=True, capture_output=True)
        for file in cases.glob("*.py"):
            file.write_text(adapt(file.read_text()))
        (cases / "case12_x_x.py").write_text(NO_COMPRESSION)
        CASES.mkdir(parents=True, exist_ok=True)
        shutil.copytree(cases, CASES / "incomplete", dirs_exist_ok=True)
        (CASES / "incomplete").rename(CASES / "case")


if __name__ == "__main__":
    prepare()
    print(f"The Autobahn cases are in {CASES}")
