"""A real, throw-away Slurm cluster on this one machine: munge, a controller and several nodes.

As root every node has a network, a host name and shared memory of its own, so that programs talk
across nodes as on a cluster; otherwise all nodes share this machine's. Nothing is installed or left
behind.
"""

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tiny_run import HANGS_AFTER_S, wait_for

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol", "squeue", "scancel")
SEARCH_PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}
"""States in which a job does not run any more."""
_STOP_S = 8.0


def missing_programs() -> list[str]:
    """Return which of Slurm's programs this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name, path=SEARCH_PATH) is None]


def num_stand_ins(wanted: int) -> int:
    """Return how many terminals there are to stand in for GPUs, all that are wanted or none."""
    return wanted if all(Path(f"/dev/tty{i}").exists() for i in range(wanted)) else 0


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster that is up. ``environment`` makes Slurm's commands talk to it."""

    folder: Path
    nodes: tuple[str, ...]
    networks: "Networks | None"
    environment: dict[str, str]

    @property
    def has_networks(self) -> bool:
        """Whether nodes have networks of their own."""
        return self.networks is not None

    @contextlib.contextmanager
    def hidden_from(self, node: str, folder: Path) -> Iterator[None]:
        """Have a node see an empty folder of its own instead of this one."""
        within = ("nsenter", "-t", self._pid_of(node), "--mount")
        _call(*within, "mount", "-t", "tmpfs", "tmpfs", str(folder))
        try:
            yield
        finally:
            _call(*within, "umount", "-l", str(folder))

    def _pid_of(self, node: str) -> str:
        return (self.folder / f"run/slurmd.{node}.pid").read_text().strip()

    @contextlib.contextmanager
    def named_loopback(self, node: str) -> Iterator[None]:
        """Have a node take its own name for 127.0.1.1, as some installers write it."""
        assert self.networks is not None
        hosts = self.networks.hosts_file(node)
        before = hosts.read_text()
        hosts.write_text(f"127.0.1.1 {node}\n{before}")
        try:
            yield
        finally:
            hosts.write_text(before)

    def cut_off(self, node: str) -> None:
        """Pull a node's cable."""
        self._set_link(node, "down")

    def reconnect(self, node: str) -> None:
        """Put the cable back and wait until the node is in service."""
        self._set_link(node, "up")
        self.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
        wait_for(
            lambda: self.run("sinfo", "-p", "main", "-hn", node, "-o", "%T").strip() == "idle",
            within_s=60,
        )

    def _set_link(self, node: str, state: str) -> None:
        assert self.networks is not None
        _call("ip", "link", "set", self.networks.cable(node), state)

    def run(self, *command: str, check: bool = True) -> str:
        """Run one of Slurm's commands and return what it printed."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stderr}"
        return done.stdout

    def state_of(self, job: str) -> tuple[str, int]:
        """Return the state of a job and its exit code so far."""
        words = self.run("scontrol", "show", "job", "--oneliner", job).splitlines()[0].split()
        facts = dict(word.split("=", 1) for word in words if "=" in word)
        return facts["JobState"], int(facts["ExitCode"].partition(":")[0])

    def wait_for_end(self, job: str, *, within_s: float = HANGS_AFTER_S) -> tuple[str, int]:
        """Wait until a job is over; return its state and exit code."""
        wait_for(lambda: self.state_of(job)[0] in OVER, within_s=within_s)
        return self.state_of(job)

    def processes(self, text: str) -> dict[int, str]:
        """Return pid and command line of living processes whose command line holds ``text``."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                line = (folder / "cmdline").read_text().replace("\0", " ")
                if text in line and ") Z " not in (folder / "stat").read_text():
                    found[int(folder.name)] = line
        return found


@contextlib.contextmanager
def cluster(folder: Path, *, num_nodes: int, cpus: int, gpus: int = 0) -> Iterator[Cluster]:
    """Start a cluster with nodes n1, n2, ... and end it with every job on it.

    Args:
        folder: holds keys, state and logs; short, since a socket's path may be no longer than 108.
        cpus: of each node, whatever this machine has.
        gpus: of each node; terminals stand in for the device files that Slurm insists on.
    """
    for name in ("run", "log", "state"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": SEARCH_PATH}
    names = tuple(f"n{i}" for i in range(1, num_nodes + 1))
    networks = Networks.make(names) if os.geteuid() == 0 and shutil.which("ip") else None
    ports = _free_ports(2 + num_nodes)
    _write_gpus(folder, gpus)
    settings = _settings(folder, names, networks, cpus=cpus, gpus=gpus, ports=ports)
    (folder / "slurm.conf").write_text(settings)
    up = Cluster(folder=folder, nodes=names, networks=networks, environment=environment)
    try:
        _start_munge(folder, environment)
        _start(["slurmctld", "-c", "-f", str(folder / "slurm.conf")], environment)
        for name in names:
            prefix = [] if networks is None else networks.enter(name)
            _start(
                [*prefix, "slurmd", "-c", "-f", environment["SLURM_CONF"], "-N", name], environment
            )
        wait_for(
            lambda: (
                up.run("sinfo", "-p", "main", "-hNo", "%T", check=False).split()
                == ["idle"] * num_nodes
            ),
            within_s=30,
        )
        yield up
    finally:
        _stop(up)
        if networks is not None:
            networks.remove()


@dataclass(frozen=True, kw_only=True)
class Networks:
    """One network namespace a node, joined by a bridge on this machine."""

    number: int
    names: tuple[str, ...]
    hosts: dict[str, str]

    @classmethod
    def make(cls, names: Sequence[str]) -> "Networks | None":
        """Return networks for the nodes; None where this machine does not allow them."""
        number = os.getpid() % 200 + 1
        hosts = {name: f"10.77.{number}.{i}" for i, name in enumerate(names, 1)}
        networks = cls(number=number, names=tuple(names), hosts=hosts)
        try:
            networks._create()
        except subprocess.CalledProcessError:
            networks.remove()
            return None
        return networks

    @property
    def controller(self) -> str:
        """Address of this machine as the nodes see it."""
        return f"10.77.{self.number}.254"

    def enter(self, name: str) -> list[str]:
        """Return the command that runs another within a node, under its name."""
        hosts = str(self.hosts_file(name))
        # Who shares /dev/shm takes each other for neighbours: SGLang would use its node's loopback.
        script = (
            'hostname "$0"; mount --bind "$1" /etc/hosts; mount -t tmpfs tmpfs /dev/shm; shift; '
            'exec "$@"'
        )
        # Not "ip netns exec": its fresh /sys has no control groups, without which slurmd ends.
        return [
            *("nsenter", f"--net=/run/netns/{self._space(name)}"),
            *(
                "unshare",
                "--uts",
                "--mount",
                "--propagation=slave",
                "sh",
                "-c",
                script,
                name,
                hosts,
            ),
        ]

    def remove(self) -> None:
        """Take everything down; what is not there does not matter."""
        for name in self.names:
            _try("ip", "netns", "del", self._space(name))
            shutil.rmtree(f"/etc/netns/{self._space(name)}", ignore_errors=True)
        _try("ip", "link", "del", self._bridge)

    def hosts_file(self, name: str) -> Path:
        """Return what a node has as /etc/hosts."""
        return Path("/etc/netns") / self._space(name) / "hosts"

    def cable(self, name: str) -> str:
        """Return this machine's end of the link to a node."""
        return f"mrlv{self.number}-{self.names.index(name) + 1}"

    @property
    def _bridge(self) -> str:
        return f"mrlbr{self.number}"

    def _space(self, name: str) -> str:
        return f"mrl{self.number}-{name}"

    def _create(self) -> None:
        _call("ip", "link", "add", self._bridge, "type", "bridge")
        _call("ip", "addr", "add", f"{self.controller}/24", "dev", self._bridge)
        _call("ip", "link", "set", self._bridge, "up")
        for name, address in self.hosts.items():
            space, cable = self._space(name), self.cable(name)
            _call("ip", "netns", "add", space)
            _call(
                "ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space
            )
            _call("ip", "link", "set", cable, "master", self._bridge, "up")
            _call("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            _call("ip", "-n", space, "link", "set", "eth0", "up")
            _call("ip", "-n", space, "link", "set", "lo", "up")
            hosts = self.hosts_file(name)
            hosts.parent.mkdir(parents=True)
            known = {"localhost": "127.0.0.1", socket.gethostname(): self.controller, **self.hosts}
            lines = [f"{address} {name}\n" for name, address in known.items()]
            hosts.write_text("".join(lines))


def _settings(
    folder: Path,
    names: Sequence[str],
    networks: Networks | None,
    *,
    cpus: int,
    gpus: int,
    ports: Sequence[int],
) -> str:
    host, user = socket.gethostname().partition(".")[0], getpass.getuser()
    controller = "127.0.0.1" if networks is None else networks.controller
    memory_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 // 2
    gres = f" Gres=gpu:{gpus}" if gpus else ""
    lines = [
        "ClusterName=throwaway",
        f"SlurmctldHost={host}({controller})",
        f"SlurmUser={user}",
        f"SlurmdUser={user}",
        "AuthType=auth/munge",
        "CredType=cred/munge",
        f"AuthInfo=socket={folder}/run/munge.sock,cred_expire=5",
        f"SlurmctldPort={ports[0]}",
        f"SlurmdPort={ports[1]}",
        f"SlurmctldPidFile={folder}/run/slurmctld.pid",
        f"SlurmdPidFile={folder}/run/slurmd.%n.pid",
        f"StateSaveLocation={folder}/state",
        f"SlurmdSpoolDir={folder}/run/spool.%n",
        f"SlurmctldLogFile={folder}/log/slurmctld.log",
        f"SlurmdLogFile={folder}/log/slurmd.%n.log",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "SwitchType=switch/none",
        "MpiDefault=none",
        "SchedulerType=sched/backfill",
        "SchedulerParameters=bf_interval=1,sched_min_interval=10000,requeue_delay=1,"
        "batch_sched_delay=0",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core",
        "ReturnToService=2",
        "SlurmdParameters=config_overrides",
        "GresTypes=gpu",
        "MinJobAge=600",
        "InactiveLimit=0",
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
        "SlurmctldTimeout=30",
        "SlurmdTimeout=30",
        # What is not answered in time is asked again after a minute, whatever Slurm is told.
        "MessageTimeout=30",
        "JobRequeue=1",
        f"NodeName=DEFAULT CPUs={cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={cpus} "
        f"ThreadsPerCore=1 RealMemory={memory_mb} State=UNKNOWN{gres}",
    ]
    for index, name in enumerate(names):
        if networks is None:
            where = f"NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2 + index]}"
        else:
            where = f"NodeHostname={name} NodeAddr={networks.hosts[name]} Port={ports[1]}"
        lines.append(f"NodeName={name} {where}")
    lines.append(
        f"PartitionName=main Nodes={','.join(names)} Default=YES MaxTime=INFINITE State=UP "
        "PriorityTier=1 GraceTime=60"
    )
    lines.append(f"PartitionName=urgent Nodes={','.join(names)} MaxTime=INFINITE PriorityTier=2")
    return "\n".join(lines) + "\n"


def _write_gpus(folder: Path, gpus: int) -> None:
    files = "/dev/tty0" if gpus == 1 else f"/dev/tty[0-{gpus - 1}]"
    line = f"Name=gpu Flags=nvidia_gpu_env File={files}\n" if gpus else ""
    (folder / "gres.conf").write_text(line)


def _start_munge(folder: Path, environment: dict[str, str]) -> None:
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    options = {
        "key-file": key,
        "socket": folder / "run/munge.sock",
        "pid-file": folder / "run/munged.pid",
        "log-file": folder / "log/munged.log",
        "seed-file": folder / "run/munge.seed",
    }
    named = [f"--{name}={value}" for name, value in options.items()]
    _start(["munged", "--force", "--num-threads=2", *named], environment)


def _start(command: Sequence[str], environment: dict[str, str]) -> None:
    """Run a daemon, which detaches itself."""
    path = shutil.which(command[0], path=SEARCH_PATH)
    assert path is not None, command[0]
    done = subprocess.run(
        [path, *command[1:]],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}"


def _stop(up: Cluster) -> None:
    up.run("scancel", f"--user={getpass.getuser()}", "--quiet", check=False)
    with contextlib.suppress(AssertionError):
        wait_for(lambda: not up.run("squeue", "-h", check=False).strip(), within_s=_STOP_S)
    daemons = [
        *up.folder.glob("run/slurmd.*.pid"),
        up.folder / "run/slurmctld.pid",
        up.folder / "run/munged.pid",
    ]
    pids = [int(path.read_text()) for path in daemons if path.exists()]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not any(_is_running(pid) for pid in pids), within_s=_STOP_S)


def placement_in(output: str) -> list[list[str]]:
    """Return the words of the lines that a job prints below "role nodes ..."."""
    lines = [line.split() for line in output.splitlines()]
    head = next(i for i, words in enumerate(lines) if words[:2] == ["role", "nodes"])
    return lines[head + 1 :]


def _is_running(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)


def _try(*command: str) -> None:
    subprocess.run(command, check=False, capture_output=True, timeout=30)
