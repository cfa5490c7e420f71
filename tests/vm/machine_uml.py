"""One machine of the VM tier: a kernel of its own, a disk, network links, and a plug to pull.

The kernel is Debian's user-mode Linux: an ordinary process, whose SIGKILL is a power cut. What the
machine had not written to its disk is lost, and nothing of it runs on. It needs no help of the
processor, so it runs wherever the tests run; a process that the machine starts costs 22 ms, and it
has one processor.

A machine is reached by ssh over a link that is no part of any test. One connection is made when it has
booted, and every command goes through that.

Nothing outlives the test: the kernel runs in a PID namespace of its own, and ends with the thread that
started it.
"""

from __future__ import annotations

import io
import os
import shlex
import shutil
import signal
import subprocess
import tarfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Sequence, TypeVar, Union

from image import KERNEL, Image

POWER_SUPPLY = Path(__file__).resolve().parent / "power-supply"
REBOOTS = 75
"""Status of a power supply whose kernel wants to be started again."""
RESETS = (b"sysrq: Resetting", b"Initiating system reboot")
"""What a kernel says last: by sysrq, by the software watchdog."""
RESET_LIMIT_S = 10.0
BOOT_LIMIT_S = 180.0
POLL_S = 0.1
SHOWN_LINES = 40
MEMORY_FOLDER = Path("/dev/shm")

Answer = TypeVar("Answer")


class VmError(AssertionError):
    """A machine could not do what the test asked, or the test did not see what it waited for."""


@dataclass(frozen=True)
class Result:
    """How a command on a machine ended: exit status (255: the machine did not answer), what it wrote."""

    where: str
    command: str
    status: int
    out: str
    err: str

    def check(self) -> Result:
        """Return itself when the command succeeded, else fail with all it wrote."""
        if self.status != 0:
            raise VmError(str(self))
        return self

    def __str__(self) -> str:
        said = f"stdout:\n{self.out}stderr:\n{self.err}"
        return f"{self.where}# {self.command}\nexit status {self.status}\n{said}"


@dataclass(frozen=True)
class File:
    """A file for a machine."""

    path: str
    data: bytes
    mode: int = 0o644

    @classmethod
    def of(cls, path: str, text: str, mode: int = 0o644) -> File:
        """Return a file with a text in it."""
        return cls(path, text.encode(), mode)


def wait(
    condition: Callable[[], Answer], limit_s: float, what: str, shown: Callable[[], str] = str
) -> Answer:
    """Return a condition's answer as soon as it is true.

    Args:
        shown: what else is told when it does not come true.
    """
    deadline = time.monotonic() + limit_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise VmError(f"not within {limit_s:g} s: {what}\n{shown()}")
        time.sleep(POLL_S)


class Vm:
    """A machine.

    Args:
        name: its host name.
        image: what it boots.
        network: words in front of a program's that run it in the machines' network.
        links: {name of a link inside: the tap device outside}, in order; {name: address/bits}.
        ssh_address: where its sshd answers.
        workdir: where its disk, console and sockets are.
        memory_mib: its memory.
        disks: more disk images, of its own.
        settings: words for the kernel's command line.
    """

    def __init__(
        self,
        name: str,
        image: Image,
        network: Sequence[str],
        links: Mapping[str, str],
        ssh_address: str,
        workdir: Path,
        memory_mib: int,
        disks: Sequence[Path] = (),
        settings: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.image = image
        self.network = tuple(network)
        self.links = dict(links)
        self.ssh_address = ssh_address
        self.folder = workdir / name
        self.folder.mkdir(parents=True)
        self.memory_mib = memory_mib
        self.disks = tuple(disks)
        self.settings = tuple(settings)
        self.boots = 0
        """How often its kernel was started."""
        self._supply: Optional[threading.Thread] = None
        self._kernel: Optional[subprocess.Popen] = None
        self._ssh: Optional[subprocess.Popen] = None
        self._is_wanted = False

    @property
    def written(self) -> Path:
        """The file that holds what the machine wrote to its disk."""
        return self.folder / "written.cow"

    @property
    def console(self) -> Path:
        """What the kernel and systemd say, boot after boot."""
        return self.folder / "console.log"

    @property
    def is_on(self) -> bool:
        """Tell whether its kernel runs, or is about to be started again after a reboot."""
        return self._supply is not None and self._supply.is_alive()

    # -- power ------------------------------------------------------------------------------------

    def power_on(self) -> None:
        """Turn the power on, and return at once."""
        assert not self.is_on, f"{self.name} runs already"
        self._is_wanted = True
        self._supply = threading.Thread(target=self._supply_power, name=f"power of {self.name}", daemon=True)
        self._supply.start()

    def pull_plug(self) -> None:
        """Cut the power; returns when nothing of the machine is left."""
        self._is_wanted = False
        supply = self._supply
        while supply is not None and supply.is_alive():
            kernel = self._kernel_pid()
            if kernel:
                os.kill(kernel, signal.SIGKILL)
            supply.join(POLL_S)
        self._supply = None
        self._hang_up()

    def wait_off(self, limit_s: float = 120.0) -> None:
        """Return when the machine has turned itself off."""
        wait(lambda: not self.is_on, limit_s, f"{self.name} turns itself off", self.console_tail)
        self._hang_up()

    def wait_booted(self, limit_s: float = BOOT_LIMIT_S) -> None:
        """Return when every unit of the boot has started, the shared disks included."""
        wait(self._answers, limit_s, f"{self.name} answers", self.console_tail)
        self.run(
            "systemctl is-system-running --wait", limit_s
        )  # its word does not matter: some unit may fail
        if self.run("systemctl is-active --quiet multi-user.target vm-network.service").status != 0:
            raise VmError(
                f"{self.name} did not boot:\n{self.run('systemctl --failed').out}{self.console_tail()}"
            )

    def wait_rebooted(self, boots: int, limit_s: float = BOOT_LIMIT_S) -> None:
        """Return when the machine was started `boots` times, and the last boot is over."""
        wait(lambda: self.boots >= boots, limit_s, f"{self.name} boots again", self.console_tail)
        self._hang_up()
        self.wait_booted(limit_s)

    def pause(self) -> None:
        """Let the machine stand still, as a virtual machine that is being moved."""
        os.kill(self._kernel_pid(), signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self._kernel_pid(), signal.SIGCONT)

    def _supply_power(self) -> None:
        while self._is_wanted:
            with open(self.console, "ab") as console:
                self._kernel = subprocess.Popen(
                    self._argv(),
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    cwd=self.folder,
                    env={"PATH": os.environ["PATH"], "TMPDIR": str(self._memory_folder())},
                    start_new_session=True,
                )
            self.boots += 1
            if not self._wait_whether_it_reboots():
                return

    def _wait_whether_it_reboots(self) -> bool:
        """Return when the kernel has ended, and tell whether it wants to be started again.

        This kernel may hang in the middle of a reset, when nothing of the machine runs any more; then its
        process is ended, and that was the reset.
        """
        begins_at = self.console.stat().st_size
        resets_since = None
        while True:
            try:
                return self._kernel.wait(1.0) == REBOOTS
            except subprocess.TimeoutExpired:
                said = self.console.read_bytes()[begins_at:]
            if resets_since is None and any(word in said for word in RESETS):
                resets_since = time.monotonic()
            if resets_since is not None and time.monotonic() - resets_since > RESET_LIMIT_S:
                kernel = self._kernel_pid()
                if kernel:  # else it has just ended by itself; pid 0 would be all of us
                    os.kill(kernel, signal.SIGKILL)
                    self._kernel.wait()
                    return True

    def _argv(self) -> List[str]:
        """Return the words that run the kernel, as process 1 of a PID namespace that dies with us."""
        umid = self.folder / "umid"
        shutil.rmtree(umid, ignore_errors=True)
        taps = enumerate(self.links.values())
        return [
            *self.network,
            *("setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child", "--"),
            str(POWER_SUPPLY),
            str(KERNEL),
            f"mem={self.memory_mib}M",
            f"ubd0={self.written},{self.image.disk}",
            *(f"ubd{number}={disk}" for number, disk in enumerate(self.disks, 1)),
            "root=/dev/ubda",
            "rw",
            "umid=umid",
            f"uml_dir={self.folder}/",
            f"hostfs={self.folder}/no-such-folder",  # the machine sees no file of the one that runs it
            *("con=null", "con0=null,fd:1", "ssl=null"),
            *(f"vec{n}:transport=tap,ifname={tap},depth=128,gro=1,mac={self._mac(n)}" for n, tap in taps),
            *("net.ifnames=0", "quiet", "loglevel=4", "selinux=0", "systemd.firstboot=off"),
            "pty.legacy_count=0",  # 512 terminals that nobody uses are a unit of systemd each
            f"systemd.hostname={self.name}",
            *self.settings,
        ]

    def _mac(self, number: int) -> str:
        """Return the hardware address of a link: ours alone, the same at every boot."""
        node = self.ssh_address.rpartition(".")[2]
        return f"52:54:00:00:{number:02x}:{int(node):02x}"

    def _memory_folder(self) -> Path:
        """Return where the machine's memory is kept: in memory, where there is room for it."""
        try:
            room = shutil.disk_usage(MEMORY_FOLDER).free
        except OSError:
            room = 0
        return MEMORY_FOLDER if room > 3 * (self.memory_mib << 20) else self.folder

    def _kernel_pid(self) -> int:
        """Return the pid of the kernel, 0 when there is none."""
        starter = self._kernel
        if starter is None or starter.poll() is not None:
            return 0
        try:
            children = Path(f"/proc/{starter.pid}/task/{starter.pid}/children").read_text().split()
        except OSError:
            return 0
        return int(children[0]) if children else 0

    # -- what runs on it --------------------------------------------------------------------------

    def run(self, command: Union[str, Sequence[str]], timeout_s: float = 60.0, data: bytes = b"") -> Result:
        """Run a line of shell, or a program with its arguments, as root; `data` is its standard input."""
        line = command if isinstance(command, str) else shlex.join(command)
        argv = [*self.network, "ssh", *self._ssh_options(), "-T", self._login(), line]
        try:
            ended = subprocess.run(argv, input=data, capture_output=True, timeout=timeout_s)
        except subprocess.TimeoutExpired as expired:
            said = b"".join(part or b"" for part in (expired.stdout, expired.stderr)).decode(errors="replace")
            raise VmError(f"{self.name}: still running after {timeout_s:g} s: {line}\n{said}") from None
        return Result(
            self.name,
            line,
            ended.returncode,
            ended.stdout.decode(errors="replace"),
            ended.stderr.decode(errors="replace"),
        )

    def write(self, *files: File) -> None:
        """Write files, and the directories above them, in one go; a power cut does not undo it."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for file in files:
                entry = tarfile.TarInfo(file.path.lstrip("/"))
                entry.size = len(file.data)
                entry.mode = file.mode
                entry.mtime = int(time.time())
                tar.addfile(entry, io.BytesIO(file.data))
        self.run("tar --directory / --extract --no-overwrite-dir && sync", data=archive.getvalue()).check()

    def read(self, path: str) -> str:
        """Return a file's text."""
        return self.run(["cat", path]).check().out

    def _login(self) -> str:
        return f"root@{self.ssh_address}"

    def _ssh_options(self) -> List[str]:
        options: Dict[str, str] = {
            "BatchMode": "yes",
            "ConnectTimeout": "5",
            "ControlPath": str(self.folder / "ssh"),
            "IdentitiesOnly": "yes",
            "LogLevel": "ERROR",
            "ServerAliveInterval": "5",
            "ServerAliveCountMax": "12",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
        }
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return ["-F", "none", "-i", str(self.image.key), *words]

    def _answers(self) -> bool:
        """Make the connection that all commands share; False while the machine does not answer."""
        if not self.is_on:
            raise VmError(f"{self.name} went off while it booted:\n{self.console_tail()}")
        if self._ssh is None or self._ssh.poll() is not None:
            (self.folder / "ssh").unlink(missing_ok=True)
            self._ssh = subprocess.Popen(
                [*self.network, "ssh", *self._ssh_options(), "-M", "-N", "-T", self._login()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        return (self.folder / "ssh").exists()

    def _hang_up(self) -> None:
        connection, self._ssh = self._ssh, None
        if connection is not None:
            connection.kill()
            connection.wait()
        (self.folder / "ssh").unlink(missing_ok=True)

    # -- what it leaves to read ---------------------------------------------------------------------

    def console_tail(self) -> str:
        """Return the end of what its kernel said."""
        try:
            lines = self.console.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return "(nothing on the console)"
        return "\n".join(lines[-SHOWN_LINES:])
