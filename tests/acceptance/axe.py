"""
Fetch axe-core, which finds what people with a screen reader or a keyboard can not use, into .cache/axe.

    python tests/acceptance/axe.py

It comes from the npm registry, pinned by hash, and is ours to run, not to ship.
"""

import subprocess
import tarfile
import tempfile
from hashlib import sha256
from pathlib import Path

import pytest
from playwright.async_api import Page

VERSION = "4.14.1"
SHA256 = "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745"
SCRIPT = Path(__file__).parents[2] / ".cache" / "axe" / VERSION / "axe.min.js"


def prepare() -> None:
    """Leave the script at SCRIPT. Raises CalledProcessError when the registry says no, SystemExit when the hash does."""
    if SCRIPT.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        pack = ["npm", "pack", "--silent", f"axe-core@{VERSION}"]
        subprocess.run(pack, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        archive = Path(folder) / f"axe-core-{VERSION}.tgz"
        if sha256(archive.read_bytes()).hexdigest() != SHA256:
            raise SystemExit(f"axe-core {VERSION} is not what it was")
        with tarfile.open(archive) as packed:
            member = packed.extractfile("package/axe.min.js")
            assert member is not None
            SCRIPT.parent.mkdir(parents=True, exist_ok=True)
            part = SCRIPT.with_suffix(".part")
            part.write_bytes(member.read())
            part.rename(SCRIPT)


#: A function of JavaScript, once script() has run in the page.
VIOLATIONS = """async () => {
    await Promise.all(document.getAnimations().map((one) => one.finished.catch(() => {})));
    const { violations } = await axe.run(document, { resultTypes: ["violations"] });
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(" ")}`);
}"""


def script() -> str:
    """To be evaluated from outside: a page's policy lets no script in. Where it is not there the test is skipped."""
    if not SCRIPT.exists():
        pytest.skip("axe-core is not there: python tests/acceptance/axe.py")
    return SCRIPT.read_text()


async def violations(page: Page) -> list[str]:
    """What axe finds."""
    await page.evaluate(script())
    return [str(one) for one in await page.evaluate(VIOLATIONS)]


if __name__ == "__main__":
    prepare()
    print(f"axe is at {SCRIPT}")
