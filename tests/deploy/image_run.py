"""Runs a mounted image as a container engine would, read-only and as its own user, and sends it the requests of a user.

image.sh calls it, as root and in a mount namespace of its own:  image_run.py ROOT < image.json
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

TEXT = "A delightful, warm and funny film."
ASK = """
import json, sys, urllib.request
body = json.dumps({"inputs": sys.argv[2]}).encode()
request = urllib.request.Request(f"http://127.0.0.1:{sys.argv[1]}/classify", body, {"Content-Type": "application/json"})
print(urllib.request.urlopen(request, timeout=60).read().decode())
"""
PACKAGES = """
import importlib.metadata, re
for found in importlib.metadata.distributions():
    print(re.sub("[-_.]+", "-", found.name).lower(), found.version)
"""
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


class Image:
    """A root file system and what the image says of running it."""

    def __init__(self, root: str, built: dict[str, Any], port: str) -> None:
        self.root = Path(root)
        self.config = config = built["config"]
        self.port = port
        emulated = MACHINES[built["architecture"]] != platform.machine()  # by qemu, some hundred times as slow
        self.patience = 60 if emulated else 1
        # Measuring what more threads bring to long texts would take half an hour there.
        unmeasured = ["BERTHEADS_WIDE_ENCODER=off"] if emulated else []
        environment = [*config["Env"], f"BERTHEADS_PORT={port}", *unmeasured]
        user = ["chroot", f"--userspec={config['User']}", "--groups=", root]
        self.prefix = [*user, "env", "-i", f"--chdir={config['WorkingDir']}", *environment]

    def start(self, *command: str) -> "subprocess.Popen[str]":
        """Start a command inside; each step execs the next, so that the process is the command itself."""
        return subprocess.Popen([*self.prefix, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def ask(self, *command: str) -> tuple[bool, str]:
        """Return whether a command succeeded, and what it wrote."""
        process = self.start(*command)
        output, _ = process.communicate(timeout=60 * self.patience)
        return process.returncode == 0, output.strip()


def mount_read_only(root: str) -> None:
    """Make the file system read-only, /tmp included, with the /proc, /sys and /dev of every container."""
    for arguments in (
        ["--bind", root, root],
        ["--rbind", "/proc", f"{root}/proc"],
        ["--rbind", "/sys", f"{root}/sys"],
        ["--rbind", "/dev", f"{root}/dev"],
        ["-o", "remount,bind,ro", root],
    ):
        subprocess.run(["mount", *arguments], check=True)


def say(what: str, answer: object) -> None:
    sys.stdout.write(f"{what}: {answer}\n")
    sys.stdout.flush()


def check(holds: bool, sentence: str) -> None:
    if not holds:
        raise SystemExit(sentence)


def check_contents(image: Image) -> None:
    """Non-root, read-only, and nothing inside that a service does not need."""
    _, user = image.ask("id", "-u")
    check(user != "0", "the image runs as root, expected a numeric user of its own")
    say("user", user)
    for path in ("/app/x", "/tmp/x"):
        wrote, _ = image.ask("touch", path)
        check(not wrote, f"{path} could be written, expected a read-only file system")
    for absent in ("pip", "torch", "training", "tests", "pytest", "huggingface_hub"):
        found, _ = image.ask("python", "-c", f"import {absent}")
        check(not found, f"the image holds {absent}, which a service does not need")
    compilers, where = image.ask("sh", "-c", "command -v gcc cc make pip")
    check(not compilers, f"the image holds {where}, which a service does not need")
    say("read-only, without pip, compiler, torch, training, tests", True)


def listed(sbom: dict[str, Any], kind: str) -> set[str]:
    """Return "name version" of the components of a kind of package (pypi, deb)."""
    components = [each for each in sbom["components"] if each.get("purl", "").startswith(f"pkg:{kind}/")]
    return {f"{unquote(each['purl'].split('/')[-1].split('@')[0])} {each['version']}" for each in components}


def check_sbom(image: Image) -> None:
    """The SBOM lists what is installed, no more and no less."""
    sbom = json.loads((image.root / "usr/share/sbom/bertheads.cdx.json").read_text())
    own = sbom["metadata"]["component"]
    _, packages = image.ask("python", "-c", PACKAGES)
    _, debian = image.ask("dpkg-query", "--show", "--showformat=${Package} ${Version}\n")
    installed = {*packages.splitlines()} - {f"{own['name']} {own['version']}"}
    for kind, found in ("pypi", installed), ("deb", {*debian.splitlines()}):
        difference = sorted(listed(sbom, kind) ^ found)
        check(not difference, f"the SBOM and the image differ in {', '.join(difference)}")
        say(f"the SBOM lists packages of {kind}", len(found))
    kernels = hashlib.sha256((image.root / "app/models/kernels.so").read_bytes()).hexdigest()
    hashes = [hash["content"] for each in sbom["components"] for hash in each.get("hashes", [])]
    check(kernels in hashes, f"the SBOM lacks SHA-256 {kernels} of the kernels")


def wait_healthy(image: Image, server: "subprocess.Popen[str]") -> float:
    """Return the seconds until the image's own health check passes."""
    started = time.monotonic()
    while time.monotonic() - started < 60 * image.patience:
        check(server.poll() is None, f"the service ended with status {server.returncode} before it was ready")
        if image.ask(*image.config["Healthcheck"]["Test"][1:])[0]:
            return time.monotonic() - started
        time.sleep(0.2 * image.patience)
    raise SystemExit(f"the health check did not pass within {60 * image.patience} s")


def prove(image: Image) -> None:
    """Start the service, wait, ask, stop."""
    check_contents(image)
    check_sbom(image)
    server = image.start(*image.config["Entrypoint"])
    try:
        say("the health check passes after seconds", round(wait_healthy(image, server), 1))
        answered, answer = image.ask("python", "-c", ASK, image.port, TEXT)
        check(answered, f"/classify did not answer: {answer}")
        say("/classify", answer)
        usage = Path(f"/proc/{server.pid}/status").read_text()
        say("memory", next(line.split(maxsplit=1)[1] for line in usage.splitlines() if line.startswith("VmRSS")))
        server.terminate()
        status = server.wait(timeout=40 * image.patience)
        # uvicorn raises the signal again once it has drained
        check(status in (0, -15), f"exit status {status} after SIGTERM, expected 0 or SIGTERM")
        say("SIGTERM: drained, status", status)
    finally:
        server.kill()
        assert server.stdout is not None
        sys.stdout.write(server.stdout.read())


if __name__ == "__main__":
    mount_read_only(sys.argv[1])
    prove(Image(sys.argv[1], json.load(sys.stdin)["Docker"], os.environ["PORT"]))
