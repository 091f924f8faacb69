"""What is shipped: the wheel, the locks, and the images of compose.yaml and the Dockerfile."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import yaml

from tests.machine import program

ROOT = Path(__file__).parents[1]
PACKAGES = ("app", "core", "delivery", "hub", "migrations", "push", "static")
BUILT = shutil.ignore_patterns("__pycache__")


def test_the_wheel_holds_every_file_of_every_package(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(ROOT / "pyproject.toml", source)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=BUILT)
    expected = {
        file.relative_to(source).as_posix()
        for package in PACKAGES
        for file in (source / package).rglob("*")
        if file.is_file()
    }

    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", str(tmp_path), str(source)], check=True)

    (wheel,) = tmp_path.glob("carillon-*.whl")
    with ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert shipped == expected


def test_everything_is_installed_by_hash_and_from_no_named_index() -> None:
    for lock in ("requirements.txt", "requirements-dev.txt"):
        text = (ROOT / lock).read_text()
        requirements = re.findall(r"^[a-z0-9].*(?:\n    .*)*", text, re.MULTILINE)

        assert len(requirements) > 30
        assert all("==" in item and "--hash=sha256:" in item for item in requirements)
        assert not re.search(r"https?://|--index-url|--find-links", text)


def test_the_lock_for_tests_differs_from_the_one_that_runs_by_additions_alone() -> None:
    runtime, development = (
        dict(re.findall(r"^([a-z0-9-]+)(?:\[.*\])?==(\S+)", (ROOT / lock).read_text(), re.MULTILINE))
        for lock in ("requirements.txt", "requirements-dev.txt")
    )

    assert runtime.items() <= development.items()


def test_the_lock_holds_the_build_backend_and_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    locked = set(re.findall(r"^([a-z0-9-]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))

    assert {re.split(r"[^a-z0-9-]", item)[0] for item in wanted} <= locked


def test_compose_runs_two_web_nodes_behind_a_proxy_and_each_other_role_apart() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]

    roles = [" ".join(service.get("command", [])) for service in services.values()]
    assert roles.count("serve --roles web") == 2
    assert roles.count("serve --roles worker") == roles.count("serve --roles scheduler") == 1
    assert {name for name, service in services.items() if "ports" in service} == {"proxy"}


def test_the_image_runs_without_root_and_is_asked_whether_it_lives() -> None:
    *_, last_stage = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)

    assert re.search(r"^USER 10001:10001$", last_stage, re.MULTILINE)
    assert "/livez" in last_stage.split("HEALTHCHECK")[1].split("\n\n")[0]
    assert re.search(r"^EXPOSE 8003$", last_stage, re.MULTILINE)


def test_scripts_of_the_repository_are_sound_shell() -> None:
    subprocess.run([program("bash"), "-n", str(ROOT / ".ci" / "run")], check=True)
