"""Completes the SBOM of the image, in the Dockerfile: cyclonedx-py lists the Python packages, and this adds the rest.

Reads, in the working directory, python.json of cyclonedx-py, installed.json of pip, kernels.so and bundle.json, and
beside them the Debian packages of this system. Writes CycloneDX 1.6 to standard output; a document that breaks the
schema is an error.
"""

import hashlib
import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

Component = dict[str, Any]

SITE_PACKAGES = Path("/opt/venv/lib/python3.11/site-packages")
DEBIAN = "${Package}\t${Version}\t${Architecture}\t${source:Package}\t${source:Version}\n"
KEPT = ("type", "name", "version", "purl", "licenses", "hashes")
"""What is copied of the components in the SBOMs of wheels: their references might meet in one document."""


def read(path: str | Path) -> Any:
    return json.loads(Path(path).read_text())


def key(name: str) -> str:
    """Return the name of a Python package in one spelling."""
    return re.sub(r"[-_.]+", "-", name).lower()


def wheel_hashes(report: Any) -> dict[str, list[Component]]:
    """Return the SHA-256 of each wheel that pip installed, by the name of the package."""
    found = {key(each["metadata"]["name"]): each["download_info"]["archive_info"] for each in report["install"]}
    return {name: [{"alg": "SHA-256", "content": archive["hashes"]["sha256"]}] for name, archive in found.items()}


def compiled_into(name: str, version: str) -> list[Component]:
    """Return what a wheel says of the libraries compiled into it (PEP 770), such as crates of Rust."""
    folder = key(f"{name}-{version}.dist-info")
    files = [path for path in SITE_PACKAGES.glob("*.dist-info/sboms/*.json") if key(path.parts[-3]) == folder]
    parts = [part for path in sorted(files) for part in read(path).get("components", [])]
    return [{field: part[field] for field in KEPT if field in part} for part in parts]


def python_packages(bom: Any, report: Any) -> Iterator[Component]:
    """Yield the packages of the virtual environment, each with the hash of its wheel and what is compiled into it."""
    hashes = wheel_hashes(report)
    for package in bom["components"]:
        if key(package["name"]) not in hashes:
            raise LookupError(f"pip did not install {package['name']}, which the environment holds; build it afresh")
        package["hashes"] = hashes[key(package["name"])]
        if parts := compiled_into(package["name"], package["version"]):
            package["components"] = parts
        yield package


def licenses(package: str, documents: Path = Path("/usr/share/doc")) -> list[Component]:
    """Return the licenses that Debian names for a package, as far as its copyright file can be read by programs."""
    path = documents / package / "copyright"
    text = path.read_text(errors="replace") if path.exists() else ""
    names = set(re.findall(r"^License:[ \t]*(\S.*?)\s*$", text, re.MULTILINE)) if text.startswith("Format:") else set()
    return [{"license": {"name": name}} for name in sorted(names)]


def debian_packages() -> Iterator[Component]:
    """Yield the packages of the base image; scanners look for faults by their source, the qualifier upstream."""
    system = platform.freedesktop_os_release()
    command = ["dpkg-query", "--show", f"--showformat={DEBIAN}"]
    for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines():
        name, version, machine, source, source_version = line.split("\t")
        upstream = source if source_version == version else f"{source}@{source_version}"
        qualifiers = {"arch": machine, "distro": f"{system['ID']}-{system['VERSION_ID']}", "upstream": upstream}
        purl = PackageURL("deb", system["ID"], name, version, qualifiers).to_string()
        found = {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl}
        yield found | ({"licenses": licenses(name)} if licenses(name) else {})


def others(bom: Any) -> Iterator[Component]:
    """Yield the interpreter, which no package manager knows, and our own parts that are not Python."""
    version, own = platform.python_version(), bom["metadata"]["component"]
    yield {
        "type": "application",
        "name": "python",
        "version": version,
        "cpe": f"cpe:2.3:a:python:python:{version}:*:*:*:*:*:*:*",
        "purl": f"pkg:generic/python@{version}",
        "licenses": [{"license": {"id": "PSF-2.0"}}],
    }
    kernels = hashlib.sha256(Path("kernels.so").read_bytes()).hexdigest()
    yield {
        "type": "library",
        "name": "bertheads-kernels",
        "version": own["version"],
        "licenses": own["licenses"],
        "hashes": [{"alg": "SHA-256", "content": kernels}],
    }
    bundle = read("bundle.json")
    yield {
        "type": "machine-learning-model",
        "name": bundle["name"],
        "version": bundle["version"],
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(Path("bundle.json").read_bytes()).hexdigest()}],
    }


def complete(bom: Any, report: Any) -> str:
    """Return the document; raise ValueError for one that breaks the schema."""
    bom["components"] = [*python_packages(bom, report), *debian_packages(), *others(bom)]
    text = json.dumps(bom, indent=1, sort_keys=True)
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ValueError(f"the SBOM breaks the schema of CycloneDX 1.6: {error}")
    return text


if __name__ == "__main__":
    sys.stdout.write(complete(read("python.json"), read("installed.json")))
