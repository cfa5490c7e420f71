"""The disk image that every machine of the VM tier boots, built once and kept.

    python tests/vm/image.py           # build it if it is not there; prints its directory

A directory below the cache holds one image, `disk.img`, and the ssh key that opens its machines,
`key`. Its name is a digest of all that goes in: the list of packages, the files of `guest/`, the
kernel, this program. What has the same digest is the same image, so there is nothing to configure
and nothing to forget; an image that was interrupted has no name yet. Root is needed.

The image is a stock Debian 12 with packages of the machine's own apt sources. It has no sources of its
own, and its machines have no way out. Installing the packages takes most of the time: they are kept apart, by
a digest of their list alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, List

HERE = Path(__file__).resolve().parent
CACHE = Path("/var/tmp/opensvc-hb-vm")
PACKAGE_LIST = HERE / "image-packages.txt"
GUEST_FILES = HERE / "guest"
KERNEL = Path("/usr/bin/linux.uml")
KERNEL_MODULES = Path("/usr/lib/uml/modules")
SUITE = "bookworm"
DISK_BYTES = 3 << 30
"""Sparse: what the machines write goes into files of their own."""
NOT_INSTALLED = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*")
ENABLED = ("vm-network.service", "vm-disks.service", "ssh.service")
DISABLED = ("docker.service", "docker.socket", "containerd.service", "rsync.service", "open-iscsi.service")
"""Each would cost every boot a second or more: docker's own daemon is started by whoever needs it."""
MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@.service",
    "lvm2-monitor.service",
    "modprobe@drm.service",
    "modprobe@efi_pstore.service",
    "modprobe@fuse.service",
    "serial-getty@.service",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-fs-fuse-connections.mount",
    "systemd-binfmt.service",
    "systemd-logind.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
)


class BuildError(Exception):
    """The image cannot be built; the text says why."""


@dataclass(frozen=True)
class Image:
    """A finished image: its disk, never written again, and the private key that root accepts."""

    directory: Path

    @property
    def disk(self) -> Path:
        """The file system of the root, read only for those who use it."""
        return self.directory / "disk.img"

    @property
    def key(self) -> Path:
        """The ssh key."""
        return self.directory / "key"


def packages() -> List[str]:
    """Return the names in the list."""
    lines = PACKAGE_LIST.read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def digest_of(parts: List[bytes]) -> str:
    """Return a short digest of some texts."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def packages_digest() -> str:
    """Return the digest of what decides which packages are installed."""
    return digest_of([SUITE.encode(), *(name.encode() for name in packages()), repr(NOT_INSTALLED).encode()])


def image_digest() -> str:
    """Return the digest of everything that goes into the image."""
    parts = [packages_digest().encode(), Path(__file__).read_bytes()]
    for path in sorted(GUEST_FILES.rglob("*")):
        if path.is_file():
            parts += [str(path.relative_to(GUEST_FILES)).encode(), path.read_bytes()]
    kernel = KERNEL.stat()
    parts.append(f"{kernel.st_size} {kernel.st_mtime_ns}".encode())
    return digest_of(parts)


def run(*argv: object) -> None:
    """Run a program to its end; what it wrote is shown when it fails."""
    words = [str(word) for word in argv]
    ended = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if ended.returncode != 0:
        raise BuildError(f"{' '.join(words)}\nexit status {ended.returncode}\n{ended.stdout}{ended.stderr}")


def say(text: str) -> None:
    """Tell whoever waits what takes so long."""
    print(f"image: {text}", file=sys.stderr, flush=True)


@contextmanager
def locked() -> Iterator[None]:
    """Hold the cache: two builds at once would do the work twice."""
    CACHE.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def apt_sources() -> List[str]:
    """Return mmdebstrap's words for where packages come from: this machine's sources of the suite.

    None: mmdebstrap takes its default.
    """
    names = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    found = [path for path in names if path.is_file() and path.suffix in (".list", ".sources")]
    return [str(path) for path in found if f" {SUITE}" in path.read_text()]


def install_packages() -> Path:
    """Return a tar archive of a root file system with the packages in it; made if it is not there."""
    archive = CACHE / f"packages-{packages_digest()}.tar"
    if archive.exists():
        return archive
    say(f"installing {len(packages())} packages and what they depend on (3 minutes)")
    unfinished = archive.with_suffix(".unfinished.tar")
    run(
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        "--variant=minbase",
        f"--include={','.join(packages())}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in NOT_INSTALLED),
        SUITE,
        unfinished,
        *apt_sources(),
    )
    unfinished.rename(archive)
    return archive


def configure(root: Path, key: Path) -> None:
    """Make the unpacked packages a machine of the VM tier."""
    shutil.copytree(KERNEL_MODULES, root / "lib/modules", dirs_exist_ok=True)
    for version in (root / "lib/modules").iterdir():
        run("chroot", root, "depmod", version.name)
    shutil.copytree(GUEST_FILES, root, dirs_exist_ok=True)
    for path in GUEST_FILES.rglob("*"):
        os.chown(root / path.relative_to(GUEST_FILES), 0, 0)
    for path in (root / "etc/dpkg/dpkg.cfg.d").iterdir():  # what it left out, our package brings
        path.unlink()
    shutil.rmtree(root / "etc/apt/sources.list.d")
    (root / "etc/apt/sources.list").write_text("")
    (root / "etc/resolv.conf").write_text("")
    (root / "etc/fstab").write_text("/dev/root / ext4 noatime,errors=remount-ro 0 1\n")
    (root / "etc/hostname").unlink(missing_ok=True)  # the kernel's command line tells it
    (root / "etc/machine-id").write_text("")
    ssh = root / "root/.ssh"
    ssh.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(key.with_suffix(".pub"), ssh / "authorized_keys")
    shutil.copy(key, ssh / "id_ed25519")  # the machines reach each other, as an administrator sets them up
    host_key = (root / "etc/ssh/ssh_host_ed25519_key.pub").read_text()
    (root / "etc/ssh/ssh_known_hosts").write_text(f"* {host_key}")
    run("chroot", root, "systemctl", "--quiet", "enable", *ENABLED)
    run("chroot", root, "systemctl", "--quiet", "disable", *DISABLED)
    run("chroot", root, "systemctl", "--quiet", "mask", *MASKED)
    run("chroot", root, "systemctl", "--quiet", "set-default", "multi-user.target")
    for tool in (
        "iptables",
        "ip6tables",
    ):  # the kernel of the machines has no address translation of nftables
        run("chroot", root, "update-alternatives", "--set", tool, f"/usr/sbin/{tool}-legacy")


def make(directory: Path) -> None:
    """Fill a directory with an image."""
    key = directory / "key"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "vm tier", "-f", key)
    archive = install_packages()
    root = directory / "root"
    root.mkdir()
    say("unpacking and configuring")
    run("tar", "--directory", root, "--extract", "--file", archive, "--exclude", "./dev/*")
    configure(root, key)
    say("making the file system")
    disk = directory / "disk.img"
    with open(disk, "wb") as file:
        file.truncate(DISK_BYTES)
    run("mke2fs", "-q", "-t", "ext4", "-d", root, "-E", "lazy_itable_init=1,lazy_journal_init=1", disk)
    disk.chmod(0o444)
    shutil.rmtree(root)


def drop_others(kept: Path) -> None:
    """Remove images and archives of other digests: a change of the inputs leaves nothing behind."""
    keep = {kept.name, f"packages-{packages_digest()}.tar", "lock"}
    for path in CACHE.iterdir():
        if path.name not in keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def ensure_image() -> Image:
    """Return the image, built now if it is not there.

    Raises:
        BuildError: with what the failing program wrote.
    """
    if not KERNEL.exists():
        raise BuildError(f"{KERNEL} is missing: install user-mode-linux")
    directory = CACHE / f"image-{image_digest()}"
    with locked():
        if not directory.exists():
            began = time.monotonic()
            unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=CACHE))
            try:
                make(unfinished)
                unfinished.rename(directory)
            except BaseException:
                shutil.rmtree(unfinished)
                raise
            drop_others(directory)
            say(f"built in {time.monotonic() - began:.0f} s: {directory}")
    return Image(directory)


def main() -> int:
    """Build it, or say why not."""
    try:
        print(ensure_image().directory)
    except BuildError as error:
        print(f"image: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
