"""Programs that try to get out of the sandbox. Each prints ESCAPED when it has.

They are given SECRET (a file anyone may read and write), FOLDER (its folder, open to all), VICTIM
(a process of the judge's user), JUDGE (the judge itself), PORT (a server of this machine).
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Attack:
    """One program and how it must end."""

    name: str
    source: str = ""
    """Python, after PRELUDE; empty for one of native.cpp, called by its name."""
    endings: tuple[str, ...] = ("exited",)
    """The ends that are a containment."""
    may_fork: bool = False
    limits: dict[str, float] = field(default_factory=dict)
    may_starve: bool = False
    """Whether it may end with "waited for a processor": it makes its own competition."""


SHORT = {"wall_s": 0.8, "cpu_s": 0.4}
"""For attacks that take all the time they are given."""
BRIEF = {"cpu_s": 0.9}
"""For attacks that compute all the time they are given."""


PRELUDE = """
import ctypes, os, signal, socket, struct, sys, time
SECRET, FOLDER, VICTIM, JUDGE, PORT, MARK = sys.argv[1:7]
VICTIM, JUDGE, PORT, PARENT = int(VICTIM), int(JUDGE), int(PORT), os.getppid()
libc = ctypes.CDLL(None, use_errno=True)

def attempt(what, action):
    try:
        result = action()
    except Exception:
        return
    if result is not None and result is not False:
        print("ESCAPED:", what, str(result)[:80], flush=True)

def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno())
    return "done"

def read(path):
    with open(path, "rb") as file:
        return file.read(100) or None

def write(path):
    with open(path, "ab") as file:
        file.write(b"x")
    return "written"

def done(_):
    return "done"

TARGETS = (VICTIM, JUDGE, PARENT, -1, 0)
"""

_PYTHON: list[Attack] = []


def _add(name: str, source: str, **options: object) -> None:
    _PYTHON.append(Attack(name=name, source=source, **options))  # type: ignore[arg-type]


# What can be read
_add("read a file of the judge", "attempt('read', lambda: read(SECRET))")
_add(
    "read a file through proc",
    """
for root in ('self', 'thread-self', '1', str(JUDGE), str(PARENT)):
    attempt(root, lambda: read(f'/proc/{root}/root{SECRET}'))
    attempt(root, lambda: read(f'/proc/{root}/cwd/../..{SECRET}'))
""",
)
_add(
    "read the machine's users, keys and settings",
    """
for path in ('/etc/passwd', '/etc/shadow', '/etc/hostname', '/root/.bashrc', '/etc/ssh/ssh_config',
             '/sys/kernel/notes', '/usr/share/doc', '/var/log/dpkg.log', '/etc/group'):
    attempt(path, lambda: read(path))
""",
)
_add(
    "list folders",
    """
for path in (FOLDER, '/tmp', '/root', '/home', '/etc/ssh', '/var', '/sys/class', '/usr/share'):
    attempt(path, lambda: os.listdir(path) or None)
""",
)
_add(
    "read the judge's environment, memory and arguments",
    """
for pid in (JUDGE, PARENT, VICTIM):
    for name in ('environ', 'cmdline', 'maps', 'mem', 'stack', 'auxv'):
        # In namespaces of its own, the parent is the container's own first process.
        if pid not in (0, 1):
            attempt(name, lambda: read(f'/proc/{pid}/{name}'))
""",
)
_add(
    "take files that the judge has open",
    """
for pid in (JUDGE, PARENT, VICTIM):
    for fd in range(64):
        if pid not in (0, 1):
            attempt(fd, lambda: os.open(f'/proc/{pid}/fd/{fd}', os.O_RDWR))
        attempt(fd, lambda: call(438, call(434, pid, 0), fd, 0))  # pidfd_getfd
""",
)
_add(
    "read another process's memory",
    """
buffer = ctypes.create_string_buffer(64)
local = struct.pack('=QQ', ctypes.addressof(buffer), 64)
for pid in (JUDGE, PARENT, VICTIM):
    for number in (310, 311):
        attempt(number, lambda: call(number, pid, local, 1, local, 1, 0))
""",
)
_add("find secrets in the environment", "attempt('env', lambda: 'SANDBOX_TOKEN' in os.environ)")
_add(
    "find open files",
    """
for fd in range(3, 256):
    attempt(fd, lambda: os.readlink(f'/proc/self/fd/{fd}') and os.fstat(fd))
    attempt(fd, lambda: done(os.fstat(fd)))
""",
)
_add(
    "open by handle, watch files",
    """
attempt('handle', lambda: call(303, -100, SECRET.encode(), b'\\0' * 128, b'\\0' * 8, 0))
attempt('inotify', lambda: call(294, 0))
attempt('fanotify', lambda: call(300, 0, 0))
""",
)

# What can be written
_add(
    "write files anywhere",
    """
for folder in (FOLDER, '/', '/tmp', '/dev/shm', '/dev', '/var/tmp', '/run', os.getcwd(), '/proc',
               '/usr/lib', '/lib', os.path.dirname(sys.executable), '/etc'):
    attempt(folder, lambda: write(folder + '/made'))
""",
)
_add(
    "change a file of the judge",
    """
attempt('append', lambda: write(SECRET))
attempt('truncate', lambda: done(os.truncate(SECRET, 0)))
attempt('create', lambda: os.open(SECRET, os.O_CREAT | os.O_TRUNC | os.O_RDONLY))
""",
)
_add(
    "change the mode, owner, times and attributes of a file",
    """
attempt('chmod', lambda: done(os.chmod(SECRET, 0o700)))
attempt('chmod', lambda: call(452, -100, SECRET.encode(), 0o700, 0))
attempt('chown', lambda: done(os.chown(SECRET, os.getuid(), -1)))
attempt('times', lambda: done(os.utime(SECRET, (0, 0))))
attempt('attribute', lambda: done(os.setxattr(SECRET, 'user.a', b'1')))
""",
)
_add(
    "remove, rename and link files",
    """
attempt('unlink', lambda: done(os.unlink(SECRET)))
attempt('rename', lambda: done(os.rename(SECRET, FOLDER + '/made')))
attempt('link', lambda: done(os.link(SECRET, os.getcwd() + '/made')))
attempt('symlink', lambda: done(os.symlink(SECRET, os.getcwd() + '/made')))
attempt('symlink', lambda: done(os.symlink('/etc/passwd', FOLDER + '/made')))
""",
)
_add(
    "make folders, pipes and devices",
    """
for folder in (FOLDER, os.getcwd(), '/tmp', '/dev'):
    attempt('mkdir', lambda: done(os.mkdir(folder + '/made')))
    attempt('fifo', lambda: done(os.mkfifo(folder + '/made')))
    attempt('device', lambda: done(os.mknod(folder + '/made', 0o60666, os.makedev(8, 0))))
""",
)
_add(
    "make a million files",
    """
for i in range(1000000 if os.access(os.getcwd(), os.W_OK) else 1000):
    attempt('file', lambda: write(f'{os.getcwd()}/made{i}'))
    attempt('file', lambda: write(f'/tmp/made{i}'))
""",
)
_add(
    "use devices and terminals",
    """
for name in ('mem', 'kmem', 'kmsg', 'tty', 'console', 'fuse', 'vda', 'sda', 'ptmx', 'pts/0',
             'shm/a'):
    attempt(name, lambda: os.open('/dev/' + name, os.O_RDWR))
for fd in range(3):
    attempt('type', lambda: call(16, fd, 0x5412, b'x'))
""",
)
_add(
    "take over the container's first process",
    """
for pid in (1, PARENT):
    attempt('memory', lambda: os.open(f'/proc/{pid}/mem', os.O_RDWR))
    attempt('limits', lambda: os.open(f'/proc/{pid}/oom_score_adj', os.O_WRONLY))
""",
)
_add(
    "send the kernel after somebody else when memory is short",
    """
for name, least in (('oom_score_adj', b'0'), ('oom_adj', b'0')):
    attempt(name, lambda: os.write(os.open('/proc/self/' + name, os.O_WRONLY), least))
""",
)
_add(
    "change its own input",
    """
attempt('write', lambda: os.write(0, b'x'))
attempt('reopen', lambda: os.write(os.open('/proc/self/fd/0', os.O_RDWR), b'x'))
attempt('reopen', lambda: os.write(os.open('/dev/stdin', os.O_RDWR), b'x'))
attempt('truncate', lambda: done(os.ftruncate(0, 0)))
""",
)

# The network and other processes' channels
_add(
    "open network connections",
    """
for host in ('127.0.0.1', '::1', '10.0.0.1', '169.254.169.254'):
    attempt(host, lambda: socket.create_connection((host, PORT), 0.2))
here = ('127.0.0.1', PORT)
attempt('udp', lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', here))
""",
)
_add(
    "make sockets of every family",
    """
for family in range(46):
    for kind in (1, 2, 3, 5):
        attempt(family, lambda: call(41, family, kind, 0))
        attempt(family, lambda: call(53, family, kind, 0, ctypes.create_string_buffer(8)))
""",
)
_add("use io_uring", "attempt('io_uring', lambda: call(425, 8, ctypes.create_string_buffer(120)))")
_add(
    "leave memory behind",
    """
attempt('shm', lambda: call(29, 4242, 1 << 20, 0o1777))
attempt('msg', lambda: call(68, 4242, 0o1777))
attempt('sem', lambda: call(64, 4242, 1, 0o1777))
attempt('mq', lambda: call(240, b'made', 0o102, 0o666, None))
attempt('memfd', lambda: call(319, b'made', 0))
attempt('secret memory', lambda: call(447, 0))
attempt('key', lambda: call(248, b'user', b'made', b'x', 1, -3))
""",
)

# Other processes
_add(
    "signal other processes",
    """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for pid in (VICTIM, JUDGE, PARENT):
    if pid in (0, 1):  # the container's own first process, which ignores it
        continue
    for number in (0, signal.SIGSTOP, signal.SIGKILL):
        attempt('kill', lambda: done(os.kill(pid, number)))
        attempt('tgkill', lambda: call(234, pid, pid, number))
        attempt('tkill', lambda: call(200, pid, number))
        attempt('queue', lambda: call(129, pid, number, b'\\0' * 128))
        attempt('pidfd', lambda: call(424, os.pidfd_open(pid), number, None, 0))
        attempt('group', lambda: done(os.killpg(pid, number)))
""",
)
_add(
    "signal everybody",
    "os.kill(-1, signal.SIGTERM)",
    endings=("exited", "killed"),
)
_add("signal its group", "os.kill(0, signal.SIGTERM)", endings=("exited", "killed"))
_add(
    "have the kernel signal another process",
    """
import fcntl
reading, writing = os.pipe()
for pid in (VICTIM, JUDGE, PARENT):
    if pid not in (0, 1):
        attempt('owner', lambda: done(fcntl.fcntl(reading, 8, pid)))
        attempt('owner', lambda: done(fcntl.fcntl(reading, 15, struct.pack('=ii', 1, pid))))
        attempt('signal', lambda: done(fcntl.fcntl(reading, 10, signal.SIGKILL)))
        attempt('socket', lambda: done(fcntl.ioctl(reading, 0x8901, struct.pack('=i', pid))))
""",
)
_add(
    "trace other processes",
    """
for pid in (VICTIM, JUDGE, PARENT):
    for request in (16, 0x4206):
        attempt('ptrace', lambda: call(101, request, pid, 0, 0))
    attempt('kcmp', lambda: call(312, pid, pid, 0, 0, 0))
attempt('ptrace', lambda: call(101, 0, 0, 0, 0))
""",
)
_add(
    "change limits and priorities of other processes",
    """
import resource
for pid in (VICTIM, JUDGE, PARENT):
    if pid not in (0, 1):
        attempt('limit', lambda: resource.prlimit(pid, resource.RLIMIT_CPU, (1, 1)))
    attempt('priority', lambda: done(os.setpriority(os.PRIO_PROCESS, pid, 19)))
    attempt('cores', lambda: done(os.sched_setaffinity(pid, {0})))
    attempt('disk', lambda: call(251, 1, pid, 0))
    attempt('pages', lambda: call(256, pid, 64, b'\\1' * 8, b'\\1' * 8))
attempt('priority', lambda: done(os.setpriority(os.PRIO_USER, os.getuid(), 19)))
""",
)
_add(
    "outlive the judge",
    """
for option, value in ((1, 0), (36, 1), (4, 1), (35, 1)):
    attempt('prctl', lambda: call(157, option, value, 0, 0, 0))
attempt('session', lambda: done(os.setsid()))
attempt('group', lambda: done(os.setpgid(0, 0)))
""",
)

# The kernel
_add(
    "become somebody else",
    """
attempt('uid', lambda: done(os.setuid(0)))
attempt('uid', lambda: done(os.setresuid(0, 0, 0)))
attempt('groups', lambda: done(os.setgroups([0])))
attempt('capabilities', lambda: call(126, struct.pack('=II', 0x20080522, 0), b'\\xff' * 24))
for path in ('/usr/bin/su', '/bin/mount', '/usr/bin/passwd'):
    attempt(path, lambda: read(path))
    attempt(path, lambda: os.execv(path, [path]))
""",
)
_add(
    "enter and make namespaces",
    """
CLONE = (0x00020000, 0x10000000, 0x40000000, 0x20000000, 0x08000000)
for flag in CLONE:
    attempt('unshare', lambda: call(272, flag))
    attempt('clone', lambda: call(56, flag | 17, 0, 0, 0, 0))
attempt('setns', lambda: call(308, 0, 0))
attempt('mount', lambda: call(165, b'none', b'/tmp', b'tmpfs', 0, 0))
attempt('chroot', lambda: done(os.chroot('/')))
attempt('pivot', lambda: call(155, b'/', b'/'))
for number in (428, 429, 430, 431, 432, 442):
    attempt(number, lambda: call(number, -100, b'/', 0, 0, 0))
""",
)
_add(
    "make uncommon system calls",
    """
ZEROS = ctypes.create_string_buffer(256)
for number in (103, 134, 135, 153, 156, 163, 167, 168, 169, 170, 171, 172, 173, 175, 176, 179, 212,
               227, 246, 250, 298, 304, 305, 313, 320, 321, 323, 425, 443, 444, 446):
    attempt(number, lambda: call(number, 0, ZEROS, ZEROS, 0, 0))
""",
)
_add(
    "raise its own limits",
    """
import resource
for name in ('AS', 'CPU', 'FSIZE', 'NPROC'):
    which = getattr(resource, 'RLIMIT_' + name)
    attempt(name, lambda: done(resource.setrlimit(which, (resource.RLIM_INFINITY,) * 2)))
""",
)

# Exhaustion
_add("fork", "attempt('fork', lambda: done(os.fork()))")
_add(
    "fork by other names",
    """
import subprocess
attempt('spawn', lambda: os.posix_spawn(sys.executable, [sys.executable], {}))
attempt('run', lambda: subprocess.run([sys.executable, '-c', '']))
attempt('vfork', lambda: call(435, b'\\0' * 88, 88))
attempt('clone', lambda: call(56, 17, 0, 0, 0, 0))
""",
)
_add(
    "fork bomb, where forks are allowed",
    """
while True:
    try:
        os.fork()
    except OSError:
        pass
""",
    endings=("wall", "time"),
    may_fork=True,
    may_starve=True,
    limits=SHORT,
)
_add(
    "leave a daemon, where forks are allowed",
    """
if os.fork() == 0:
    try:
        os.setsid()
    except OSError:
        pass
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)
print('left')
""",
    may_fork=True,
)
_add(
    "outrun the sweep by forking and exiting for ever",
    """
if os.fork() == 0:
    while True:
        if os.fork():
            os._exit(0)
print('left')
""",
    may_fork=True,
)
_add(
    "thread bomb",
    """
import threading
threading.stack_size(32768)
try:
    while True:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
except RuntimeError:
    pass
os._exit(0)
""",
    endings=("exited", "wall", "time", "memory"),
    limits=SHORT,
)
_add(
    "take all memory",
    "taken = []\nwhile True:\n    taken.append(b'x' * (8 << 20))",
    endings=("exited", "memory"),
)
_add(
    "take all memory through mappings",
    """
import mmap
taken = []
try:
    while True:
        taken.append(mmap.mmap(-1, 16 << 20))
        taken[-1].write(b'x' * (16 << 20))
except OSError:
    print(len(taken))
attempt('took', lambda: len(taken) * 16 > 400)
""",
    endings=("exited", "memory"),
)
_add("compute for ever", "while True: pass", endings=("time", "killed"), limits=BRIEF)
_add(
    "compute for ever and ignore the warning",
    """
signal.signal(signal.SIGXCPU, signal.SIG_IGN)
while True: pass
""",
    endings=("time",),
    limits=BRIEF,
)
_add("sleep for ever", "time.sleep(60)", endings=("wall",), limits=SHORT)
_add(
    "sleep for ever with signals blocked",
    "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)); time.sleep(60)",
    endings=("wall",),
    limits=SHORT,
)
_add("print for ever", "while True: os.write(1, b'x' * 65536)", endings=("output",))
_add("complain for ever", "while True: os.write(2, b'x' * 65536)", endings=("output",))
_add(
    "open files for ever",
    """
opened = []
try:
    while True:
        opened.append(os.open('/dev/null', os.O_RDONLY))
except OSError:
    pass
attempt('open', lambda: len(opened) > 64)
""",
)
_add(
    "hold pipes for ever",
    """
held = []
try:
    while True:
        held.append(os.pipe())
except OSError:
    pass
attempt('pipes', lambda: len(held) > 32)
""",
)

# Pretending
_add(
    "pretend that the sandbox broke",
    """
os.write(2, b'bwrap: Creating new namespace failed: No space left on device\\n')
for fd in range(3, 64):
    try:
        os.write(fd, b'{ "exit-code": 0 }\\n')
    except OSError:
        pass
os._exit(1)
""",
)
_add("kill itself", "os.kill(os.getpid(), signal.SIGABRT)", endings=("killed",))
# An end by SIGKILL is somebody else's doing, and would be no verdict.
_add(
    "look as if killed by others",
    """
import resource, threading
for pid in (os.getpid(), 0, -1, 1):
    attempt('kill', lambda: done(os.kill(pid, signal.SIGKILL)))
attempt('tgkill', lambda: call(234, os.getpid(), threading.get_native_id(), signal.SIGKILL))
attempt('limit', lambda: done(resource.setrlimit(resource.RLIMIT_CPU, (0, 0))))
attempt('limit', lambda: call(160, 0, struct.pack('=QQ', 0, 0)))
os._exit(137)
""",
    endings=("killed",),
)
_add(
    "look as if killed by others, from a thread",
    """
import threading
threading.Thread(target=lambda: call(60, 137)).start()
call(60, 137)
""",
    endings=("killed", "exited"),  # the numbers are those of x86_64
)

_NATIVE = [
    Attack(name="call the kernel as a 32-bit program", endings=("killed",)),
    Attack(name="call the kernel as an x32 program", endings=("killed",)),
    Attack(name="recurse for ever", endings=("killed", "memory")),
    Attack(name="allocate for ever", endings=("killed", "memory", "exited")),
    Attack(name="run code on the stack and heap", endings=("exited", "killed")),
    Attack(name="fork without libc"),
    Attack(name="read a file without libc"),
    Attack(name="socket without libc"),
    Attack(
        name="start threads without libc for ever",
        endings=("exited", "killed", "time", "wall"),
        limits=BRIEF,
    ),
    Attack(name="close every stream and go on", endings=("wall",), limits=SHORT),
]

ATTACKS = {attack.name: attack for attack in (*_PYTHON, *_NATIVE)}
