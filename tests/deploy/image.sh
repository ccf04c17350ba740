#!/usr/bin/env bash
# Builds the Dockerfile without Docker and tests the image: it answers /classify as a non-root user on a read-only
# file system, reports healthy, and drains on SIGTERM. Needs root, buildah, debootstrap and a Debian mirror.
#   sudo tests/deploy/image.sh                                   MIRROR=URL overrides apt's own
#   sudo tests/deploy/image.sh --build-arg PROVIDER=cuda         builds only; KEEP=DIR keeps, and reuses, what was built
#   sudo ARCH=arm64 tests/deploy/image.sh                        on another machine by qemu-user-static, slowly
#
# The base image is made by debootstrap: the same Debian 12 and Python 3.11 as python:3.11-slim-bookworm, with the
# interpreter, pip and setuptools under /usr/local as there. All storage is private to this run; your images stay as they are.
set -euo pipefail
cd "$(dirname "$0")/../.."
# A mount namespace of our own: whatever is mounted below disappears with it.
[ -n "${APART:-}" ] || APART=1 exec unshare --mount tests/deploy/image.sh "$@"
readonly BASE=docker.io/library/python:3.11-slim-bookworm IMAGE=localhost/bertheads
HOST=$(dpkg --print-architecture)
readonly HOST ARCH=${ARCH:-$HOST}
export PORT=${PORT:-18080} BUILDAH_ISOLATION=chroot

kept=${KEEP:-$(mktemp -d)}
work=$kept/$ARCH
mkdir -p "$work"
buildah() { command buildah --root "$work/storage" --runroot "$work/run" --storage-driver "${STORAGE_DRIVER:-overlay}" "$@"; }
say() { printf '\n== %s\n' "$*"; }
cleanup() {
    buildah umount --all >/dev/null 2>&1 || true
    [ -n "${KEEP:-}" ] || rm -rf "$kept"
}
trap cleanup EXIT

debian_mirror() {  # the first Debian archive among apt's own sources
    apt-get indextargets --format '$(REPO_URI) $(ORIGIN)' 'Created-By: Packages' |
        awk '$2 == "Debian" && $1 !~ /security/ { print $1; exit }'
}

emulate() {  # lets the kernel run programs of another machine, in a mount namespace of this script
    local handlers=/proc/sys/fs/binfmt_misc machine
    machine=$(case $ARCH in amd64) echo x86_64 ;; arm64) echo aarch64 ;; *) echo "$ARCH" ;; esac)
    [ -e $handlers/register ] || mount -t binfmt_misc binfmt_misc $handlers
    say "qemu for $machine"
    # Its flag F opens qemu now, so that a chroot need not hold it.
    [ -e "$handlers/qemu-$machine" ] || cat "/usr/lib/binfmt.d/qemu-$machine.conf" >$handlers/register
    [ "$ARCH" = arm64 ] || return 0
    # Before its version 8.2, qemu shows the host's processor, which ends ONNX Runtime on arm64: this is a Neoverse N1.
    for processor in $(seq 0 $(($(nproc) - 1))); do
        printf '%s\n' "processor : $processor" 'CPU implementer : 0x41' 'CPU architecture: 8' 'CPU variant : 0x3' 'CPU part : 0xd0c' \
            'CPU revision : 1' 'Features : fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp asimdrdm asimddp' ''
    done >"$work/cpuinfo"
    mount --bind "$work/cpuinfo" /proc/cpuinfo
}

make_base() {
    local root=$work/debian container
    say "base image from ${MIRROR:=$(debian_mirror)}"
    debootstrap --arch="$ARCH" --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$root" "$MIRROR" >"$work/debootstrap.log" ||
        { tail -n 20 "$work/debootstrap.log"; exit 1; }
    chroot "$root" python3 -m venv --upgrade-deps /usr/local 2>/dev/null || chroot "$root" python3 -m venv /usr/local
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$root" / >/dev/null
    buildah config --arch "$ARCH" --cmd python3 --env PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    buildah commit --quiet --rm "$container" "$BASE" >/dev/null
    rm -rf "$root"
}

pip_mounts() {  # this machine's pip settings (index, certificate, wheel folders) for the build only, never for the image
    python3 -m pip config list | python3 -c '
import ast, re, sys
from pathlib import Path

settings = {}
for line in sorted(sys.stdin, reverse=True):  # the environment, ":env:", comes last and wins
    key, value = line.strip().split("=", 1)
    settings[key.rsplit(".", 1)[-1]] = " ".join(ast.literal_eval(value).split())
conf = Path(sys.argv[1])
conf.write_text("\n".join(["[global]", *(f"{key} = {value}" for key, value in settings.items()), ""]))
# A file: index points at its files beside it (../../files), so its parent comes along.
paths = {match[1] for value in settings.values() for match in re.finditer(r"(?<!\S)(/\S+)", value)}
paths |= {str(Path(match[1]).parent) for value in settings.values() for match in re.finditer(r"file://(/\S+)", value)}
for path in filter(lambda path: Path(path).exists(), sorted(paths)):
    print(f"--volume={path}:{path}:ro")
print(f"--volume={conf}:/etc/pip.conf:ro")' "$work/pip.conf"
}

build() {
    say "build"
    mapfile -t mounts < <(pip_mounts)
    buildah bud --quiet --layers --pull-never --platform "linux/$ARCH" --format docker --tag "$IMAGE" "${mounts[@]}" "$@" . >"$work/build.log" 2>&1 ||
        { tail -n 40 "$work/build.log"; exit 1; }
}

layers() {  # what the image adds to its base, in MB, and whether that is less than a limit
    local base
    base=$(buildah inspect --type image "$BASE" | python3 -c 'import json, sys; print(len(json.load(sys.stdin)["OCIv1"]["rootfs"]["diff_ids"]))')
    rm -rf "$work/oci"
    buildah push --quiet --format oci "$IMAGE" "oci:$work/oci" >/dev/null
    python3 - "$work/oci" "$base" "$1" <<'PY'
import gzip, json, sys
from pathlib import Path

directory, base, limit = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
def blob(digest: str) -> Path:
    return directory / "blobs" / digest.replace(":", "/")
index = json.loads((directory / "index.json").read_text())
manifest = json.loads(blob(index["manifests"][0]["digest"]).read_text())
history = [step["created_by"] for step in json.loads(blob(manifest["config"]["digest"]).read_text())["history"] if not step.get("empty_layer")]
total = packed = 0
for layer, step in list(zip(manifest["layers"], history, strict=True))[base:]:
    size = 0
    with gzip.open(blob(layer["digest"])) as stream:
        while chunk := stream.read(1 << 20):
            size += len(chunk)
    total, packed = total + size, packed + layer["size"]
    print(f"{size / 1e6:8.1f} MB  ({layer['size'] / 1e6:6.1f} packed)  {step[:90]}")
print(f"{total / 1e6:8.1f} MB  ({packed / 1e6:6.1f} packed)  above the base image")
sys.exit(total / 1e6 >= limit and f"the layers above the base image are {total / 1e6:.0f} MB, expected less than {limit} MB")
PY
}

run() {
    local config root
    say "run"
    config=$(buildah inspect --type image "$IMAGE")
    root=$(buildah mount "$(buildah from --pull-never "$IMAGE")")
    python3 tests/deploy/image_run.py "$root" <<<"$config"
}

[ "$ARCH" = "$HOST" ] || emulate
buildah inspect --type image "$BASE" >/dev/null 2>&1 || make_base
build "$@"
if [[ " $* " == *PROVIDER=cuda* ]]; then
    layers 6000
    say "the image is built; running it takes a GPU"
else
    layers 250
    run
    say "the image answers"
fi
