"""Programs that try to get out, to stay, or to take everything. Each prints ESCAPED where it succeeds.

The tests replace the names in braces: `{canary}` is a file of the user's, `{folder}` its folder, `{host}` and
`{parent}` are process ids, `{port}` is a server's port, `{socket}` a socket's path.
"""

from __future__ import annotations

from typing import NamedTuple

LIBC = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"


class Hostile(NamedTuple):
    """What a program does, its code, and the ends that it may have."""

    what: str
    code: str
    ends: tuple[str, ...] = ("ended",)


def tries(what: str, attempt: str, before: str = "") -> Hostile:
    """Attempts what the kernel must refuse with an exception."""
    body = "".join(f"    {line}\n" for line in attempt.splitlines())
    return Hostile(
        what, f"{before}\ntry:\n{body}    print('ESCAPED')\nexcept (OSError, KeyError, ImportError):\n    pass"
    )


def calls(what: str, call: str) -> Hostile:
    """Makes a system call without Python's function for it; the call must return an error."""
    return Hostile(what, f"{LIBC}print('ESCAPED' if libc.{call} >= 0 else 'refused')")


HOSTILE = (
    # more of the machine than it may have
    tries("fork", "os.fork()", "import os"),
    Hostile("fork bomb", "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        break"),
    tries("start a program", "subprocess.run(['/bin/sh', '-c', 'true'])", "import subprocess"),
    tries("start Python", "subprocess.run([sys.executable, '-c', '1'])", "import subprocess, sys"),
    tries("become another program", "os.execv('/bin/true', ['true'])", "import os"),
    tries("a pool of processes", "multiprocessing.Pool(2)", "import multiprocessing"),
    calls("vfork by hand", "vfork()"),
    Hostile("threads without end", "import threading, time\n"
        "try:\n    while True:\n        threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n"
        "except (RuntimeError, MemoryError):\n    print('refused')", ("ended", "time", "memory")),
    Hostile("a large list", "rows = [0] * 10**10", ("memory",)),
    Hostile("memory bit by bit", "kept = []\nwhile True:\n    kept.append(bytearray(1 << 24))", ("memory", "time")),
    Hostile("a large string", "text = 'x' * 10**11", ("memory",)),
    Hostile("a large number", "n = 10 ** 10 ** 9", ("time", "memory")),
    Hostile("code that explodes in the compiler", "eval('(' * 10**6)", ("exception", "memory", "crash")),
    Hostile("one large file", "with open('big', 'wb') as file:\n    while True:\n        file.write(bytes(1 << 20))",
        ("exception", "crash", "disk")),
    Hostile("many files", "n = 0\nwhile True:\n    open(str(n), 'w').close()\n    n += 1", ("exception", "disk")),
    Hostile("folders in folders",
        "import os\nwhile True:\n    os.mkdir('d')\n    os.chdir('d')", ("exception", "disk", "time")),
    Hostile("many middling files", "n = 0\nwhile True:\n    with open(str(n), 'wb') as file:\n"
        "        file.write(bytes(1 << 20))\n    n += 1", ("exception", "disk")),
    calls("memory that is a file", "memfd_create(b'x', 0)"),
    calls("shared memory that outlives it", "shmget(0, 1 << 20, 0o1600)"),
    calls("a message queue that outlives it", "msgget(0, 0o1600)"),
    Hostile("endless output", "while True:\n    print('x' * 1000)", ("output",)),
    Hostile("endless output by hand", "import os\nwhile True:\n    os.write(1, bytes(65536))", ("output",)),
    Hostile("an endless loop", "while True: pass", ("time",)),
    Hostile("sleep", "import time; time.sleep(1000)", ("time",)),
    Hostile("a loop within C", "sum(range(10**12))", ("time",)),
    Hostile("a regular expression that explodes", "import re; re.match('(a+)+$', 'a' * 60 + 'b')", ("time",)),
    Hostile("a deadlock", "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()", ("time",)),
    Hostile("ask for input", "input()", ("exception",)),
    Hostile("raise its own limits", "import resource\n"
        "try:\n    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)\n    print('ESCAPED')\n"
        "except (ValueError, OSError):\n    pass"),
    # signals
    Hostile("ignore every signal", "import signal\nfor each in range(1, 65):\n    try:\n"
        "        signal.signal(each, signal.SIG_IGN)\n    except (OSError, ValueError):\n        pass\n"
        "while True: pass", ("time",)),
    Hostile("stop itself",
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGSTOP)\ntime.sleep(1000)", ("time",)),
    Hostile("kill itself", "import os\nos.kill(os.getpid(), 9)", ("ended", "memory", "crash")),
    tries("kill its parent", "os.kill(os.getppid() or {parent}, 9)", "import os"),
    tries("kill the user's process", "os.kill({host}, 9)", "import os"),
    tries("kill everything", "os.kill(-1, 9)", "import os"),
    tries("kill its group", "os.killpg(0, 9)", "import os"),
    calls("kill a thread of another", "syscall(200, {parent}, 9)"),
    calls("a queued signal", "syscall(129, {parent}, 9, b'' * 128)"),
    tries("a session of its own", "os.setsid()", "import os"),
    Hostile("a daemon", "import os, time\ntry:\n"
        "    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n"
        "            time.sleep(1000)\n    print('ESCAPED')\nexcept OSError:\n    pass"),
    # the user's files
    tries("read a file of the user's", "print(open('{canary}').read())"),
    tries("read it through a link", "os.symlink('{canary}', 'link')\nprint(open('link').read())", "import os"),
    tries("read it through a hard link", "os.link('{canary}', 'link')\nprint(open('link').read())", "import os"),
    tries("read it by going up", "print(open('../' * 30 + '{canary}'.lstrip('/')).read())"),
    tries("read it by a descriptor of a folder",
        "there = os.open('{folder}', os.O_RDONLY)\nprint(os.read(os.open('canary', 0, dir_fd=there), 99))",
        "import os"),
    tries("list the user's folder", "print(os.listdir('{folder}'))", "import os"),
    tries("list the user's home", "os.listdir(os.path.expanduser('~root'))", "import os"),
    tries("read the password file", "open('/etc/passwd').read()"),
    tries("read another's environment", "print(open('/proc/{host}/environ').read())"),
    tries("read its parent's environment", "print(open(f'/proc/{parent}/environ').read())"),
    tries("read its parent's memory", "open(f'/proc/{parent}/mem', 'rb')"),
    tries("its own process's descriptors", "os.listdir('/proc/self/fd')", "import os"),
    tries("another process's root", "os.listdir('/proc/{host}/root')", "import os"),
    tries("overwrite a file of the user's", "open('{canary}', 'w').write('gone')"),
    tries("empty it by its path", "os.truncate('{canary}', 0)", "import os"),
    tries("delete it", "os.unlink('{canary}')", "import os"),
    tries("move it", "os.rename('{canary}', 'mine')", "import os"),
    tries("open it to everyone", "os.chmod('{canary}', 0o777)", "import os"),
    tries("change its time", "os.utime('{canary}', (0, 0))", "import os"),
    tries("give it away", "os.chown('{canary}', 65534, 65534)", "import os"),
    tries("write beside it", "open('{folder}/new', 'w').write('x')"),
    tries("write into Python", "open(os.__file__, 'a').write('x')", "import os"),
    tries("write into the system", "open('/usr/lib/new', 'w').write('x')"),
    tries("a device", "os.mknod('disk', 0o60600, os.makedev(8, 0))", "import os"),
    tries("another root", "os.chroot('/')", "import os"),
    calls("a mount", "mount(b'none', b'.', b'tmpfs', 0, None)"),
    calls("namespaces of its own", "unshare(0x10000000)"),
    calls("a file by its handle", "syscall(304, -100, b'' * 128, 0)"),
    calls("watch folders", "inotify_init()"),
    Hostile("read the environment", "import os\nfor name, value in os.environ.items():\n    print(name, value)\n"
        "print('ESCAPED' if 'SGT_TEST_KEY' in os.environ else '')"),
    Hostile("look for keys in memory",
        "import gc\nfound = [each for each in gc.get_objects() if isinstance(each, dict)]\n"
        "print('ESCAPED' if any('SGT_TEST_KEY' in each for each in found) else '')"),
    # the network
    tries("a connection", "socket.create_connection(('127.0.0.1', {port}), timeout=1)", "import socket"),
    tries("a datagram", "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
        "import socket"),
    tries("a server", "socket.create_server(('127.0.0.1', 0))", "import socket"),
    tries("a name", "socket.getaddrinfo('example.org', 80)", "import socket"),
    tries("a page", "urllib.request.urlopen('http://127.0.0.1:{port}/', timeout=1)", "import urllib.request"),
    tries("a raw socket", "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)", "import socket"),
    tries("a socket of the kernel's", "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", "import socket"),
    tries("a socket in a folder",
        "ours, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\nours.connect('{socket}')", "import socket"),
    tries("a datagram to a socket in a folder",
        "ours, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\nours.sendto(b'x', '{socket}')",
        "import socket"),
    tries("a message to a socket in a folder",
        "ours, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\nours.sendmsg([b'x'], [], 0, '{socket}')",
        "import socket"),
    # the kernel
    calls("trace another process", "ptrace(16, {parent}, 0, 0)"),
    calls("read another's memory", "process_vm_readv({parent}, 0, 0, 0, 0, 0)"),
    calls("a program in the kernel", "syscall(321, 0, 0, 0)"),
    calls("keys", "syscall(250, 0, -3, 0)"),
    calls("rings that pass by filters", "syscall(425, 8, b'' * 128)"),
    calls("performance counters", "syscall(298, b'' * 128, 0, -1, -1, 0)"),
    calls("faults handled by itself", "syscall(323, 0)"),
    calls("another kernel", "syscall(246, 0, 0, 0, 0)"),
    calls("a call that does not exist yet", "syscall(100000)"),
    Hostile("calls of another kind of machine", f"{LIBC}libc.syscall(0x40000000 + 57)", ("crash", "exit")),
    # the way back
    Hostile("a crash", "import ctypes\nctypes.string_at(0)", ("crash",)),
    Hostile("abort", "import os\nos.abort()", ("crash",)),
    Hostile("endless recursion", "def f():\n    return f()\nf()", ("exception",)),
    Hostile("recursion within C",
        "import sys\nsys.setrecursionlimit(10**9)\ndef f():\n    return [*map(lambda _: f(), [0])]\nf()",
        ("crash", "memory", "exception")),
    Hostile("leave early", "import os\nprint('done', flush=True)\nos._exit(0)", ("exit",)),
    Hostile("leave politely", "import sys\nsys.exit(0)", ("exit",)),
    Hostile("leave from a thread", "import os, threading, time\n"
        "threading.Thread(target=os._exit, args=(0,)).start()\ntime.sleep(9)",
        ("exit",)),
    Hostile("forge the report", "import json, os\nfor each in range(3, 64):\n    try:\n"
        "        os.write(each, json.dumps(dict(reason='ended', error='', token='')).encode())\n    except OSError:\n"
        "        pass\nos._exit(0)", ("exit",)),
    Hostile("fill the report", "import os\nwhile True:\n    os.write(3, bytes(4096))", ("output",)),
    Hostile("close everything", "import os\nos.closerange(0, 4096)\nprint('x', flush=True)", ("exception", "exit")),
    Hostile("close everything and stay", "import os, time\nos.closerange(0, 4096)\ntime.sleep(1000)", ("time",)),
    Hostile("use up its descriptors", "import os\nwhile True:\n    os.dup(1)", ("exception",)),
    Hostile("an exception without a text",
        "class Odd(Exception):\n    def __str__(self):\n        raise SystemExit\nraise Odd", ("exception",)),
    Hostile("an exception of a megabyte", "raise ValueError('x' * 10**6)", ("exception",)),
    Hostile("no text", "print('\\ud800')\nimport os\nos.write(1, bytes(range(256)))"),
    Hostile("a program that is none", "\x00", ("exception",)),
    Hostile("a broken interpreter", "import builtins, os, sys, json\nbuiltins.str = builtins.len = None\n"
        "sys.modules.clear()\njson.dumps = None", ("ended", "exit")),
)  # fmt: skip
