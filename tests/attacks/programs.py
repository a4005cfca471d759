"""What model code might try, one program each; ``GOT`` in its output means that it got through.

Every program runs in a session of its own, with native code at hand on purpose (ctypes, mmap,
socket, subprocess are there). ``PRELUDE`` gives it what an attacker would have to find out first:
pids of the host, the zygote and another session, ports, names and paths.
"""

from __future__ import annotations

from dataclasses import dataclass

PRELUDE = '''
import array, asyncio, ctypes, gc, io, itertools, json, mmap, os, re, select, signal, socket
import struct, subprocess, sys, tempfile, threading, time, types
libc = ctypes.CDLL(None, use_errno=True)
syscall = libc.syscall
def got(*what):
    print("GOT", *[repr(part)[:80] for part in what])
def each(*attempts):
    """Everything that does not raise and does not give -1 got through."""
    for number, attempt in enumerate(attempts):
        try:
            result = attempt()
        except BaseException:
            continue
        if not (isinstance(result, int) and result == -1):
            got(number, result)
def frame(kind, number, *fields):
    body = b"".join(struct.pack("!Q", len(field)) + field for field in fields)
    return struct.pack("!cQQ", kind, number, len(body)) + body
def raw(data):
    while data:
        data = data[os.write(3, data):]
'''
ENDED = ("died",)
STOPPED = ("timeout", "died")
RAN = ("ok", "error")
ANY = ("ok", "error", "timeout", "died")


@dataclass(frozen=True)
class Attack:
    """One program, and how its cell may end."""

    name: str
    code: str
    status: tuple[str, ...] = RAN
    calls: int | None = None  # sub-calls that may be answered at most
    says: str = ""  # part of why the session ended


def _attack(name: str, code: str, *status: str, **more: str | int | None) -> Attack:
    return Attack(name, code.strip() + "\n", status or RAN, **more)  # type: ignore[arg-type]


FILES = [
    _attack("f01 a file", "each(lambda: os.read(os.open('/etc/passwd', 0), 9))"),
    _attack(
        "f02 a secret of the user",
        "each(lambda: io.FileIO(DECOY).read(), lambda: libc.open(DECOY.encode(), 0))",
    ),
    _attack(
        "f03 the environment",
        "[got(k, v) for k, v in os.environ.items() if 'SECRET' in k or 'SECRET' in v]\n"
        "each(lambda: io.FileIO('/proc/self/environ').read())",
    ),
    _attack("f04 the host's environment", "each(lambda: io.FileIO(f'/proc/{H}/environ').read())"),
    _attack(
        "f05 memory of others",
        "for pid in (H, Z, P2):\n"
        "    each(*[lambda n=n: io.FileIO(f'/proc/{pid}/{n}').read(9)"
        " for n in ('mem', 'maps', 'fd/0')])",
    ),
    _attack(
        "f06 names and links",
        "each(lambda: os.listdir('/'), lambda: os.stat('/etc/shadow'),"
        " lambda: os.readlink('/proc/self/exe'), lambda: os.scandir('/'))",
    ),
    _attack(
        "f07 open by number",
        "each(*[lambda n=n: syscall(n, b'/etc/passwd', 0, 0, 0, 0) for n in (2, 85, 303, 304)],"
        " *[lambda n=n: syscall(n, -100, b'/etc/passwd', 0, 0, 0) for n in (257, 437, 428)])",
    ),
    _attack(
        "f08 links",
        "each(lambda: os.symlink('/etc/passwd', DECOY + 'a'), lambda: os.link(DECOY, DECOY + 'a'))",
    ),
    _attack(
        "f09 change a file",
        "each(lambda: os.truncate(DECOY, 0), lambda: os.chmod(DECOY, 0o777),"
        " lambda: os.utime(DECOY), lambda: os.rename(DECOY, DECOY + 'x'),"
        " lambda: os.open(DECOY, os.O_TRUNC), lambda: os.rmdir('/tmp'))",
    ),
    _attack(
        "f10 io_uring and aio",
        "each(lambda: syscall(425, 4, bytes(120)), lambda: syscall(206, 4, bytes(8)))",
    ),
    _attack(
        "f11 libraries",
        "each(lambda: ctypes.CDLL(EVIL),"
        " lambda: __import__('_sqlite3_x'), lambda: libc.dlopen(EVIL.encode(), 2) or -1)",
    ),
    _attack(
        "f12 inherited descriptors",
        "for fd in range(256):\n"
        "    if fd != 3:\n"
        "        each(lambda: os.read(fd, 10) or -1, lambda: os.fchdir(fd),"
        " lambda: os.listdir(fd))",
    ),
    _attack(
        "f13 other doors to files",
        "import codecs, linecache, tokenize, zipfile, shelve\n"
        "from importlib.machinery import SourceFileLoader\n"
        "each(lambda: codecs.open('/etc/passwd').read(), lambda: tokenize.open('/etc/passwd'),"
        " lambda: SourceFileLoader('x', '/etc/passwd').get_data('/etc/passwd'),"
        " lambda: linecache.getlines('/etc/passwd') or -1,"
        " lambda: zipfile.ZipFile('/etc/passwd'), lambda: io.open_code('/etc/passwd'),"
        " lambda: sys.modules['_io'].open('/etc/passwd'))",
    ),
    _attack(
        "f14 names that lead elsewhere",
        "class Path(os.PathLike):\n"
        "    def __fspath__(self): return DECOY\n"
        "each(*[lambda n=n: open(n).read() for n in ('../../etc/passwd', '/etc/passwd', b'/etc/passwd',"
        " '/proc/self/mem', 'a/../../etc/passwd', '\\0', '/dev/tty', 3, True, Path())])",
    ),
    _attack(
        "f15 names asked of the host",
        "raw(frame(b'O', 7, b'/etc/passwd')); raw(frame(b'O', 8, b'../' * 99 + b'etc/passwd'))\n"
        "raw(frame(b'O', 9, b'\\0')); raw(frame(b'O', 10, b'x' * 999999))\n"
        "reply = os.read(3, 1 << 16)\n"
        "'root:' in reply.decode('utf8', 'replace') and got(reply)",
        *ANY,
    ),
    _attack(
        "f16 users and hosts",
        "import pwd, grp\n"
        "each(lambda: pwd.getpwuid(0), lambda: grp.getgrgid(0), lambda: os.getlogin(),"
        " lambda: os.path.expanduser('~root') if os.path.expanduser('~root') != '~root' else -1)",
    ),
]
NETWORK = [
    _attack("n01 connect", "each(lambda: socket.create_connection(('127.0.0.1', PORT), 1))"),
    _attack("n02 datagram", "each(lambda: socket.socket(2, 2).sendto(b'x', ('127.0.0.1', PORT)))"),
    _attack("n03 look up a name", "each(lambda: socket.getaddrinfo('example.com', 80))"),
    _attack("n04 a named socket", "each(lambda: socket.socket(1).connect(UNIX))"),
    _attack("n05 an abstract socket", "each(lambda: socket.socket(1).connect(ABSTRACT))"),
    _attack(
        "n06 a pair aimed elsewhere",
        "a, b = socket.socketpair(1, socket.SOCK_DGRAM)\n"
        "each(lambda: a.sendto(b'x', MAILBOX), lambda: a.sendmsg([b'x'], [], 0, MAILBOX),"
        " lambda: a.connect(MAILBOX), lambda: a.bind(DECOY + 'a'), lambda: a.bind('\\0attack'))",
    ),
    _attack(
        "n07 families",
        "each(*[lambda f=f, t=t: syscall(41, f, t, 0) for f in (1, 2, 10, 16, 17, 38, 40)"
        " for t in (1, 2, 3, 5)], lambda: syscall(41, 2, 1, 262))",
    ),
    _attack("n08 listen", "each(lambda: socket.create_server(('127.0.0.1', 0)))"),
    _attack(
        "n09 pass a descriptor",
        "channel = socket.socket(fileno=3)\n"
        "each(lambda: socket.send_fds(channel, [b'x'], [1]), lambda: channel.recvmsg(9, 99),"
        " lambda: channel.getpeername() or -1, lambda: channel.getsockopt(1, 17, 12),"
        " lambda: channel.accept())\nchannel.detach()",
    ),
]
PROCESSES = [
    _attack(
        "p01 fork",
        "each(os.fork, lambda: libc.fork(), lambda: libc.vfork(), lambda: syscall(57), lambda: syscall(58))",
    ),
    _attack(
        "p02 run a program",
        "each(lambda: subprocess.run(['/bin/true']), lambda: os.posix_spawn('/bin/true', ['x'], {}),"
        " lambda: os.execv('/bin/true', ['x']), lambda: syscall(59, b'/bin/true', 0, 0),"
        " lambda: syscall(322, -100, b'/bin/true', 0, 0, 0))\n"
        "os.system('true') == 0 and got('system')",
    ),
    _attack(
        "p03 signal others",
        "for pid in (H, Z, P2, 1, -1, 0, -H):\n"
        "    each(*[lambda s=s: os.kill(pid, s) for s in (0, 9, 15, 19)],"
        " lambda: syscall(200, pid, 9), lambda: syscall(129, pid, 9, bytes(128)),"
        " lambda: syscall(297, pid, pid, 9, bytes(128)))\neach(lambda: os.killpg(0, 9))",
    ),
    _attack(
        "p04 look into others",
        "for pid in (H, Z, P2):\n"
        "    each(lambda: syscall(101, 16, pid, 0, 0), lambda: syscall(310, pid, 0, 0, 0, 0, 0),"
        " lambda: syscall(311, pid, 0, 0, 0, 0, 0), lambda: syscall(434, pid, 0),"
        " lambda: syscall(438, 3, 0, 0), lambda: syscall(312, pid, pid, 0, 0, 0),"
        " lambda: syscall(440, 3, 0, 0, 0, 0))\neach(lambda: syscall(101, 0, 0, 0, 0))",
    ),
    _attack(
        "p05 namespaces and mounts",
        "each(lambda: syscall(272, 0x10000000), lambda: syscall(56, 17, 0, 0, 0, 0),"
        " lambda: syscall(56, 0x10000000 | 17, 0, 0, 0, 0), lambda: syscall(308, 3, 0),"
        " lambda: syscall(165, b'x', b'/', b'tmpfs', 0, 0), lambda: os.chroot('/'),"
        " lambda: syscall(155, b'/', b'/'), lambda: syscall(430, b'tmpfs', 0),"
        " lambda: syscall(435, bytes(88), 88))",
    ),
    _attack(
        "p06 the kernel's back doors",
        "each(*[lambda n=n: syscall(n, 0, 0, 0, 0, 0) for n in (246, 248, 249, 250, 298, 313, 320,"
        " 321, 323, 172, 173, 175, 176, 169, 103, 300, 301, 447, 448, 462)])",
    ),
    _attack(
        "p07 get rights back",
        "each(*[lambda o=o, v=v: -1 if libc.prctl(o, v, 0, 0, 0) else 0 for o, v in ((4, 1), (1, 0),"
        " (22, 1), (38, 0), (24, 1), (47, 2), (0x59616d61, -1), (35, 1))], lambda: os.setuid(0),"
        " lambda: os.setgid(0), lambda: os.setgroups([0]), lambda: syscall(126, bytes(8), bytes(24)),"
        " lambda: syscall(317, 1, 0, bytes(16)), lambda: syscall(444, 0, 0, 1))",
    ),
    _attack(
        "p08 raise limits",
        "import resource\n"
        "each(*[lambda w=w: resource.setrlimit(w, (-1, -1)) for w in range(16)],"
        " lambda: resource.prlimit(H, 7, (3, 3)), lambda: resource.prlimit(H, 7))",
    ),
    _attack(
        "p09 priorities and groups",
        "each(lambda: os.sched_setaffinity(0, {0}), lambda: os.setpriority(0, 0, -20),"
        " lambda: os.setpgid(0, 0), os.setsid, lambda: os.nice(-30),"
        " lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),"
        " lambda: syscall(251, 1, 0, 0), lambda: syscall(314, 0, bytes(48), 0))",
    ),
    _attack(
        "p10 code in memory",
        "page = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "address = ctypes.addressof(ctypes.c_char.from_buffer(page))\n"
        "each(lambda: mmap.mmap(-1, 4096, flags=34, prot=7), lambda: syscall(10, ctypes.c_void_p(address), 4096, 7),"
        " lambda: syscall(329, ctypes.c_void_p(address), 4096, 7, -1), lambda: syscall(135, 0x0400000),"
        " lambda: syscall(9, 0, 4096, 4, 34, -1, 0))",
    ),
    _attack("p11 another table of calls", "each(lambda: syscall(0x40000000 + 39))", *ENDED),
    _attack(
        "p12 clocks, notifications, handles",
        "each(*[lambda n=n: syscall(n, 0, 0, 0, 0, 0) for n in (222, 283, 282, 289, 253, 294, 300, 303,"
        " 240, 29, 30, 31, 64, 66, 68, 319, 447, 425, 426, 427)], lambda: syscall(319, b'x', 0))",
    ),
    _attack(
        "p13 all other calls",
        "allowed = CALLS | {335, 336}\n"
        "for number in range(600):\n"
        "    if number not in allowed:\n"
        "        ctypes.set_errno(0)\n"
        "        result = syscall(number, 0, 0, 0, 0, 0, 0)\n"
        "        if result != -1 or ctypes.get_errno() not in (1, 13, 38):\n"
        "            got(number, result, ctypes.get_errno())",
    ),
]
RESOURCES = [
    _attack(
        "r01 memory, by and by", "kept = []\nwhile True: kept.append(bytearray(32 << 20))", *ANY
    ),
    _attack(
        "r02 memory, at once",
        "each(lambda: 'x' * 10**11, lambda: [0] * 10**12, lambda: bytearray(1 << 40))",
    ),
    _attack(
        "r03 memory that limits do not see",
        "each(lambda: os.memfd_create('x'), lambda: syscall(29, 0, 1 << 20, 0o1600),"
        " lambda: syscall(240, b'/x', 66, 0o600, 0), os.pipe)\n"
        "pairs = []\n"
        "try:\n"
        "    while len(pairs) < 64: pairs.append(socket.socketpair())\n"
        "except OSError: pass\n"
        "len(pairs) > 16 and got(len(pairs))",
    ),
    _attack(
        "r04 disk",
        "each(*[lambda d=d: os.write(os.open(d + '/attack', os.O_CREAT | os.O_WRONLY), b'x')"
        " for d in ('/dev/shm', '/tmp', '/var/tmp', '.')],"
        " lambda: tempfile.NamedTemporaryFile(), lambda: tempfile.mkdtemp())",
    ),
    _attack("r05 an endless loop", "while True: pass", "timeout"),
    _attack("r06 an endless loop in C", "sum(itertools.repeat(0))", "died"),
    _attack(
        "r07 deaf to interrupts",
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "while True:\n"
        "    try:\n"
        "        while True: time.sleep(0.01)\n"
        "    except BaseException: pass",
        "died",
    ),
    _attack("r08 a pattern that never ends", "re.match('(a+)+$', 'a' * 40 + 'b')", *STOPPED),
    _attack(
        "r09 a flood", "for _ in range(2000): os.write(1, b'x' * 65536); print('x' * 65536)", *ANY
    ),
    _attack(
        "r10 threads",
        "import _thread\n"
        "made = 0\n"
        "threading.stack_size(65536)\n"
        "try:\n"
        "    while made <= THREADS:\n"
        "        _thread.start_new_thread(time.sleep, (9,)); made += 1\n"
        "except RuntimeError: pass\n"
        "made > THREADS and got(made)",
        *ANY,
    ),
    _attack("r11 recursion", "sys.setrecursionlimit(10**9)\ndef f(x): return f([x])\nf(0)", *ANY),
    _attack("r12 a crash", "ctypes.string_at(0)", "died"),
    _attack("r13 a huge number", "len(bin(10**10**8))", *STOPPED),
    _attack("r14 stop oneself", "os.kill(os.getpid(), signal.SIGSTOP)", "died"),
    _attack(
        "r15 work between cells",
        "ticks = [0]\n"
        "def spin():\n"
        "    while True: ticks[0] += 1; time.sleep(0)\n"
        "threading.Thread(target=spin, daemon=True).start()",
    ),
    _attack(
        "r16 huge numbers as text",
        "sys.set_int_max_str_digits(0)\nint('9' * 20_000_000)",
        *ANY,
    ),
    _attack(
        "r17 the end of everything",
        "sys.modules.clear(); __builtins__.__dict__.clear() if hasattr(__builtins__, '__dict__') else __builtins__.clear()",
        *ANY,
    ),
    _attack(
        "r18 hold the interpreter",
        "sys.setswitchinterval(1e9)\n"
        "threading.Thread(target=lambda: max(range(10**11)), daemon=True).start()\ntime.sleep(0.1)",
        *ANY,
    ),
    _attack(
        "r19 an answer that takes for ever",
        "class D(dict):\n    def get(self, *_):\n        while True: pass\nanswer = D()",
        "died",
    ),
    _attack(
        "r20 an answer of lies",
        "class S(str):\n"
        "    def __str__(self): raise MemoryError\n"
        "    def __len__(self): return 10**18\n"
        "    def encode(self, *_): return b'x' * (1 << 31)\n"
        "answer = {'content': S('x'), 'ready': S('y')}",
        *ANY,
    ),
    _attack(
        "r21 objects that do not die",
        "class Z:\n    def __del__(self): Z()\nZ()",
        *ANY,
    ),
    _attack(
        "r22 broken code objects",
        "exec((lambda: 0).__code__.replace(co_code=bytes(range(256)) * 8, co_stacksize=1))",
        *ANY,
    ),
    _attack("r26 more than its share", "each(lambda: mmap.mmap(-1, 1536 << 20, flags=34))"),
    _attack("r27 pages that no count sees", "each(lambda: mmap.mmap(-1, 1 << 20))"),
    _attack(
        "r28 a thread with descriptors of its own",
        "each(lambda: syscall(56, 0x10000 | 0x800 | 0x100, 0, 0, 0, 0))",
    ),
    _attack(
        "r29 urgent data",
        "a, b = socket.socketpair()\na.send(b'x')\n"
        "each(lambda: a.send(b'x', socket.MSG_OOB), lambda: b.recv(1, socket.MSG_OOB))",
    ),
    _attack("r23 leave", "os._exit(0)", "died"),
    _attack(
        "r24 leave at the end", "import atexit\natexit.register(os._exit, 0)\nsys.exit(3)", *RAN
    ),
    _attack(
        "r25 timers",
        "signal.signal(signal.SIGALRM, lambda *_: None)\n"
        "signal.setitimer(signal.ITIMER_REAL, 1e-6, 1e-6)\ntime.sleep(0.05)",
        *ANY,
    ),
]
CHANNEL = [
    _attack("c01 close it", "os.closerange(0, 64)", *STOPPED),
    _attack(
        "c02 more calls than there are",
        "for number in range(40): raw(frame(b'C', 1000 + number, b'l', b'', b'forged'))\n"
        "for number in range(40):\n"
        "    try: llm_query(f'real {number}')\n"
        "    except Exception: pass",
        *ANY,
        calls=10,
    ),
    _attack(
        "c03 a result with a guessed nonce",
        "raw(frame(b'D', 1, b'ok', b'', b'0', b'', b'hi', b'r', b'', b''))",
        "died",
    ),
    _attack(
        "c04 a frame of 4 GB",
        "raw(struct.pack('!cQQ', b'C', 1, 4 << 30))",
        "died",
        says="announced",
    ),
    _attack(
        "c05 nested data and pickles",
        "raw(frame(b'C', 1, b'l', b'', b'[' * 3000000)); raw(frame(b'C', 2, b'l', b'', b'\\x80\\x04cos\\nsystem\\n.'))",
        *ANY,
    ),
    _attack("c06 an unknown kind", "raw(frame(b'?', 1, b'x'))", "died"),
    _attack(
        "c07 calls without reading replies",
        "while True: raw(frame(b'C', 5, b'l', b'', b'x' * 1000))",
        *STOPPED,
        calls=10,
    ),
    _attack(
        "c08 another encoder",
        "import json\njson.dumps = struct.pack = lambda *_: b'x' * 99\nprint(llm_query('a'))",
        *ANY,
    ),
    _attack(
        "c09 strings of other sessions",
        "mark = ''.join(['BYSTAN', 'DER-CON', 'TEXT'])\n"
        "[got(o[:80]) for o in gc.get_objects() if type(o) is str and mark in o]\n"
        "for o in gc.get_objects():\n"
        "    if type(o) in (dict, list, tuple):\n"
        "        for v in (o.values() if type(o) is dict else o):\n"
        "            if type(v) is str and v is not mark and len(v) < 10**6 and mark in v: got(v[:80])",
    ),
    _attack(
        "c10 memory of one's own",
        "mark = ''.join(['HOST-', 'ONLY-', 'MEMORY']).encode()\n"
        "seen = [o for o in gc.get_objects() if type(o) is bytes and mark in o]\n"
        "seen and got(seen)",
    ),
    _attack(
        "c11 a result between cells",
        "def later():\n"
        "    time.sleep(0.05); raw(frame(b'D', 1, b'ok', b'', b'0', b'', b'hi', b'r', b'', b''))\n"
        "threading.Thread(target=later).start()",
    ),
    _attack(
        "c12 text that is none",
        "print(llm_query('\\ud800')); raw(frame(b'C', 1, b'l', b'', b'\\xff\\xfe')); print('\\ud800\\0')\n"
        "answer['content'] = '\\udfff'",
        *ANY,
    ),
    _attack("c13 the terminal", "print('\\x1b]0;x\\x07\\x1b[2J')"),
    _attack(
        "c14 the nonce of this cell",
        "nonce = [v for f in (sys._getframe(i) for i in range(9) if i < 5) for v in f.f_locals.values()"
        " if type(v) is int and v > 1 << 40]\n"
        "for n in nonce: raw(frame(b'D', n, b'ok', b'', b'0', b'', b'mine', b'r', b'', b''))",
        *ANY,
    ),
    _attack(
        "c15 a field bomb",
        "raw(struct.pack('!cQQ', b'C', 1, 1200000) + bytes(1200000))",
        "died",
        says="fields",
    ),
    _attack("c16 torn fields", "raw(struct.pack('!cQQ', b'C', 1, 12) + b'\\xff' * 12)", "died"),
    _attack(
        "c17 frames of the host",
        "raw(frame(b'E', 1, b'1', b'print(1)')); raw(frame(b'R', 1))",
        "died",
    ),
    _attack("c18 ready again", "raw(frame(b'H', 1, b'isolation=none'))", "died"),
    _attack("c19 another process's handle", "raw(frame(b'P', 0))", "died"),
    _attack("c20 state unasked", "raw(frame(b'S', 1, b'x'))", "died"),
    _attack(
        "c21 a number that is none",
        "import __main__\n"
        "f = sys._getframe()\n"
        "while f.f_back: f = f.f_back\n"
        "nonces = [v for g in [sys._getframe(i) for i in range(4)] for v in g.f_locals.values()"
        " if type(v) is int and v > 1 << 40]\n"
        "for n in nonces: raw(frame(b'D', n, b'ok', b'', b'9' * 9000, b'', b'', b'', b'', b''))",
        *ANY,
    ),
    _attack(
        "c22 signals into the channel",
        "signal.set_wakeup_fd(3, warn_on_full_buffer=False)\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(0.2)",
        *ANY,
    ),
    _attack(
        "c23 hold its lock",
        "channels = [o for o in gc.get_objects() if type(o).__name__ == 'Channel']\n"
        "[c._send_lock.acquire() for c in channels]",
        "died",
    ),
    _attack(
        "c24 turn the interrupt off from within",
        "stoppers = [o for o in gc.get_objects() if type(o).__name__ == 'Stopper']\n"
        "for s in stoppers: s.in_cell = False\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: time.sleep(0.05)",
        "died",
    ),
    _attack(
        "c25 hooks",
        "def hook(*_): raise SystemExit\nsys.addaudithook(hook)",
        *ANY,
    ),
    _attack(
        "c26 traces",
        "sys.settrace(lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))\nthreading.settrace(print)",
        *ANY,
    ),
    _attack(
        "c27 rewrite the worker",
        "for o in gc.get_objects():\n"
        "    if type(o).__name__ == 'Session':\n"
        "        type(o)._run = lambda *_: ('ok', 'x' * 9, '9', '', 'forged', 'r', '', '')\n"
        "        type(o)._inspect_answer = lambda *_: ('forged', 'r')",
        *ANY,
    ),
    _attack("c28 a prompt without end", "llm_query('x' * (20 << 20))", "error", "timeout"),
    _attack(
        "c30 prompts that are kept",
        "for i in range(40):\n"
        "    try: llm_query(str(i) + 'x' * 3_000_000)\n"
        "    except Exception: pass",
        *ANY,
    ),
    _attack(
        "c31 one reply many times",
        "raw(frame(b'C', 1, b'l', b'', *[b'same'] * 9990)); time.sleep(0.1)\n"
        "print(len(llm_query_batched(['same'] * 1_000_000)))",
        *ANY,
    ),
    _attack("c29 empty frames", "raw(frame(b'C', 1))", "died"),
    _attack("c32 a call of no kind", "raw(frame(b'C', 1, b'x', b'', b'forged'))", "died"),
    _attack("c33 a call without a prompt", "raw(frame(b'C', 1, b'l', b''))", "died"),
    _attack(
        "c34 files of the host by another's name",
        "raw(frame(b'O', 9, b'context\\0../../etc/passwd')); raw(frame(b'O', 10, b'\\0/etc/passwd'))\n"
        "reply = os.read(3, 1 << 16)\n"
        "'root:' in reply.decode('utf8', 'replace') and got(reply)",
        *ANY,
    ),
]

ATTACKS: list[Attack] = [*FILES, *NETWORK, *PROCESSES, *RESOURCES, *CHANNEL]
