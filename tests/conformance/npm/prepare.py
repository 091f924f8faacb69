"""
Fetch Node's senders and readers of Web Push, pinned by hash in package-lock.json, into .cache/npm.

    python tests/conformance/npm/prepare.py

They are ours to compare with, not to ship.
"""

import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
#: Where `require` finds them.
MODULES = HERE.parents[2] / ".cache" / "npm" / "node_modules"


def prepared() -> bool:
    """Whether what the lock names is there."""
    stamp = MODULES.parent / "package-lock.json"
    lock = HERE / "package-lock.json"
    return MODULES.is_dir() and stamp.is_file() and stamp.read_bytes() == lock.read_bytes()


def prepare(*, timeout: float = 300.0) -> None:
    """
    Install what is not there. timeout: in seconds.

    Raises FileNotFoundError without npm, CalledProcessError and TimeoutExpired when its registry cannot be reached.
    """
    if prepared():
        return
    folder = MODULES.parent
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package-lock.json").unlink(missing_ok=True)
    shutil.copy(HERE / "package.json", folder)
    shutil.copy(HERE / "package-lock.json", folder / "npm-shrinkwrap.json")
    install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run(install, cwd=folder, check=True, timeout=timeout, capture_output=True)
    shutil.copy(HERE / "package-lock.json", folder)  # last: whoever was interrupted begins again


if __name__ == "__main__":
    prepare()
    print(f"Node's packages are in {MODULES}")
