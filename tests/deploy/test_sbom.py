"""If this breaks, the image lists wrong packages, or omits what is compiled into them."""

import hashlib
import importlib
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DPKG = """#!/bin/sh
printf 'libc6\\t2.36-9+deb12u14\\tarm64\\tglibc\\t2.36-9+deb12u14\\n'
printf 'libgcc-s1\\t12.2.0-14\\tarm64\\tgcc-12\\t12.2.0-13\\n'
"""
CRATE = {"type": "library", "name": "ahash", "version": "0.8.12", "purl": "pkg:cargo/ahash@0.8.12"}


def package(name: str, version: str) -> dict[str, Any]:
    found = {"type": "library", "name": name, "version": version, "bom-ref": f"{name}=={version}"}
    return found | {"purl": f"pkg:pypi/{name}@{version}"}


def installed(name: str, digest: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "download_info": {"archive_info": {"hashes": {"sha256": digest}}}}


def document() -> dict[str, Any]:
    """What cyclonedx-py writes, in short."""
    own = {"type": "application", "name": "bertheads", "version": "1.2.3", "bom-ref": "root-component"}
    license = {"licenses": [{"license": {"id": "Apache-2.0"}}]}
    packages = [package("prometheus_client", "0.26.0"), package("tokenizers", "0.23.3")]
    head = {"$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json", "bomFormat": "CycloneDX"}
    return head | {"specVersion": "1.6", "metadata": {"component": own | license}, "components": packages}


REPORT = {"install": [installed("tokenizers", "a" * 64), installed("Prometheus-Client", "b" * 64)]}


@pytest.fixture
def sbom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, in a directory and a system that stand for those of the image."""
    if not os.environ.get("CI"):  # there, no check shall get lost
        pytest.importorskip("cyclonedx", reason="pip install cyclonedx-bom")
    module = importlib.import_module("deploy.sbom")
    (tmp_path / "kernels.so").write_bytes(b"kernels")
    (tmp_path / "bundle.json").write_text('{"name": "starter", "version": "0.4.0"}')
    (tmp_path / "dpkg-query").write_text(DPKG)
    (tmp_path / "dpkg-query").chmod(0o755)
    inside = tmp_path / "site-packages/tokenizers-0.23.3.dist-info/sboms"
    inside.mkdir(parents=True)
    (inside / "rust.json").write_text(json.dumps({"components": [CRATE | {"bom-ref": "path+file:///x"}]}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(module, "SITE_PACKAGES", tmp_path / "site-packages")
    system = {"ID": "debian", "VERSION_ID": "12"}
    monkeypatch.setattr(module.platform, "freedesktop_os_release", lambda: system)
    return module


def components(text: str) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in json.loads(text)["components"]}


def sha256(digest: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": digest}]


def test_it_lists_packages_of_python_and_debian_and_our_own_parts(sbom: ModuleType) -> None:
    found = components(sbom.complete(document(), REPORT))
    python = {"prometheus_client", "tokenizers", "python"}
    assert set(found) == python | {"libc6", "libgcc-s1", "bertheads-kernels", "starter"}
    assert found["tokenizers"]["hashes"] == sha256("a" * 64)
    assert found["prometheus_client"]["hashes"] == sha256("b" * 64)
    assert found["bertheads-kernels"]["hashes"] == sha256(hashlib.sha256(b"kernels").hexdigest())


def test_it_lists_what_is_compiled_into_a_wheel(sbom: ModuleType) -> None:
    found = components(sbom.complete(document(), REPORT))
    assert found["tokenizers"]["components"] == [CRATE]
    assert "components" not in found["prometheus_client"]


def test_packages_of_debian_name_the_source_that_scanners_look_for(sbom: ModuleType) -> None:
    found = components(sbom.complete(document(), REPORT))
    start = "pkg:deb/debian/"
    assert found["libc6"]["purl"] == f"{start}libc6@2.36-9%2Bdeb12u14?arch=arm64&distro=debian-12&upstream=glibc"
    assert found["libgcc-s1"]["purl"].endswith("&upstream=gcc-12%4012.2.0-13")


def test_licenses_are_those_of_the_copyright_file(sbom: ModuleType, tmp_path: Path) -> None:
    machine = (
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nLicense: MIT\nLicense: GPL-2+\n"
    )
    assert sbom.licenses("x", tmp_path) == []
    (tmp_path / "x").mkdir()
    (tmp_path / "x/copyright").write_text(machine)
    assert [each["license"]["name"] for each in sbom.licenses("x", tmp_path)] == ["GPL-2+", "MIT"]
    (tmp_path / "x/copyright").write_text("License: as you like\n")  # no form that programs can read
    assert sbom.licenses("x", tmp_path) == []


def test_the_same_image_has_the_same_document(sbom: ModuleType) -> None:
    assert sbom.complete(document(), REPORT) == sbom.complete(document(), REPORT)


def test_what_breaks_the_schema_is_refused(sbom: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"breaks the schema of CycloneDX 1\.6"):
        sbom.complete(document() | {"serialNumber": "4711"}, REPORT)


def test_a_package_without_a_hash_is_refused(sbom: ModuleType) -> None:
    with pytest.raises(LookupError, match="pip did not install prometheus_client"):
        sbom.complete(document(), {"install": REPORT["install"][:1]})
