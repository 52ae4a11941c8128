"""A wheel must hold every package and every YAML file and prompt."""

import configparser
import subprocess
import sys
import zipfile

from tests.conftest import REPOSITORY


def test_setup_lists_every_package():
    parser = configparser.ConfigParser()
    parser.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    listed = set(parser["options"]["packages"].split())
    found = {
        ".".join(p.parent.relative_to(REPOSITORY).parts) for p in (REPOSITORY / "recbole_eimf").rglob("__init__.py")
    }
    assert listed == found | {"recbole_eimf.properties"}


def test_the_wheel_holds_properties_and_they_are_found(tmp_path):
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(tmp_path),
        ".",
    ]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    shipped = [p for p in (REPOSITORY / "properties").rglob("*") if p.suffix in (".yaml", ".txt")]
    assert len(shipped) > 8
    missing = [
        p for p in shipped if f"recbole_eimf/properties/{p.relative_to(REPOSITORY / 'properties')}" not in inside
    ]
    templates = (REPOSITORY / "recbole_eimf").rglob("*.j2")
    missing += [p for p in templates if str(p.relative_to(REPOSITORY)) not in inside]
    assert missing == []
    page = REPOSITORY / "recbole_eimf" / "serving" / "http" / "page"
    assert {f"{path.relative_to(REPOSITORY)}" for path in page.iterdir()} <= inside
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    code = (
        "from recbole_eimf.config.layers import properties_folder;"
        "from recbole_eimf.config.config import plugin_defaults;"
        "print(properties_folder()); print(plugin_defaults(None, 'EIMF', 'ml-100k', {})['n_layers'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert str(tmp_path) in done.stdout, done.stderr
    assert done.stdout.strip().endswith("2")
