"""Which system calls a session may make, and their numbers. Standard library only.

What CPython needs to compute, wait, run threads and talk over one socket, and nothing that names
a file, a peer or another process. Found by running the standard library under the list; a sweep
over all numbers confirms it (tests/attacks). Numbers: the kernel's tables for each machine.
"""

from __future__ import annotations

# No open, stat, socket, connect, sendmsg, exec, fork, ptrace: they do not exist in a session.
PLAIN = (
    "read write futex munmap brk clock_gettime mremap poll ppoll getrandom rt_sigaction "
    "rt_sigprocmask rt_sigreturn close fstat lseek pread64 readv writev select pselect6 "
    "sched_yield pause nanosleep clock_nanosleep getitimer setitimer alarm getpid gettid getppid "
    "exit exit_group uname getcwd gettimeofday time getrlimit getrusage sysinfo times getuid "
    "getgid geteuid getegid sigaltstack sched_getaffinity restart_syscall clock_getres "
    "set_robust_list getcpu rseq shutdown epoll_wait epoll_ctl epoll_pwait eventfd2 "
    "epoll_create1"
).split()
# More of them where a session has files; what it may open is Landlock's to say.
FILES = (
    "open openat stat lstat newfstatat access faccessat readlink readlinkat getdents getdents64 "
    "dup dup2 dup3 pipe2 ftruncate fsync fdatasync fadvise64 pwrite64 rename renameat renameat2 "
    "mkdir mkdirat rmdir unlink unlinkat umask"
).split()
# Denied as "no such call", so that libraries fall back to an older one.
UNKNOWN = "clone3 openat2 statx faccessat2".split()
# Denied as "permission denied", which Python turns into PermissionError on a path.
NO_FILES = (
    "open openat stat lstat newfstatat access faccessat readlink readlinkat unlink unlinkat mkdir "
    "mkdirat rename renameat renameat2 getdents64"
).split()

_X86_64 = (
    "read=0 write=1 open=2 close=3 stat=4 fstat=5 lstat=6 poll=7 lseek=8 mmap=9 mprotect=10 "
    "munmap=11 brk=12 rt_sigaction=13 rt_sigprocmask=14 rt_sigreturn=15 ioctl=16 pread64=17 "
    "pwrite64=18 readv=19 writev=20 access=21 select=23 sched_yield=24 mremap=25 madvise=28 "
    "dup=32 dup2=33 pause=34 nanosleep=35 getitimer=36 alarm=37 setitimer=38 getpid=39 sendto=44 "
    "recvfrom=45 shutdown=48 socketpair=53 clone=56 exit=60 kill=62 uname=63 fcntl=72 fsync=74 "
    "fdatasync=75 ftruncate=77 getdents=78 getcwd=79 rename=82 mkdir=83 rmdir=84 unlink=87 "
    "readlink=89 umask=95 gettimeofday=96 getrlimit=97 getrusage=98 sysinfo=99 times=100 "
    "getuid=102 getgid=104 geteuid=107 getegid=108 getppid=110 sigaltstack=131 prctl=157 "
    "gettid=186 time=201 futex=202 sched_getaffinity=204 getdents64=217 restart_syscall=219 "
    "fadvise64=221 clock_gettime=228 clock_getres=229 clock_nanosleep=230 exit_group=231 "
    "epoll_wait=232 epoll_ctl=233 tgkill=234 openat=257 mkdirat=258 newfstatat=262 unlinkat=263 "
    "renameat=264 readlinkat=267 faccessat=269 pselect6=270 ppoll=271 set_robust_list=273 "
    "epoll_pwait=281 eventfd2=290 epoll_create1=291 dup3=292 pipe2=293 prlimit64=302 getcpu=309 "
    "seccomp=317 getrandom=318 renameat2=316 statx=332 rseq=334 clone3=435 openat2=437 "
    "faccessat2=439"
)
_AARCH64 = (
    "getcwd=17 eventfd2=19 epoll_create1=20 epoll_ctl=21 epoll_pwait=22 dup=23 dup3=24 fcntl=25 "
    "ioctl=29 mkdirat=34 unlinkat=35 renameat=38 ftruncate=46 faccessat=48 openat=56 close=57 "
    "pipe2=59 getdents64=61 lseek=62 read=63 write=64 readv=65 writev=66 pread64=67 pwrite64=68 "
    "pselect6=72 ppoll=73 readlinkat=78 newfstatat=79 fstat=80 fsync=82 fdatasync=83 exit=93 "
    "exit_group=94 futex=98 set_robust_list=99 nanosleep=101 getitimer=102 setitimer=103 "
    "clock_gettime=113 clock_getres=114 clock_nanosleep=115 sched_getaffinity=123 sched_yield=124 "
    "restart_syscall=128 kill=129 tgkill=131 sigaltstack=132 rt_sigaction=134 rt_sigprocmask=135 "
    "rt_sigreturn=139 times=153 uname=160 getrusage=165 umask=166 prctl=167 getcpu=168 "
    "gettimeofday=169 getpid=172 getppid=173 getuid=174 geteuid=175 getgid=176 getegid=177 "
    "gettid=178 sysinfo=179 socketpair=199 sendto=206 recvfrom=207 shutdown=210 brk=214 munmap=215 "
    "mremap=216 clone=220 mmap=222 fadvise64=223 mprotect=226 madvise=233 prlimit64=261 "
    "renameat2=276 seccomp=277 getrandom=278 statx=291 rseq=293 clone3=435 openat2=437 "
    "faccessat2=439"
)


def _table(text: str) -> dict[str, int]:
    return {name: int(number) for name, number in (pair.split("=") for pair in text.split())}


NUMBERS = {"x86_64": _table(_X86_64), "aarch64": _table(_AARCH64)}
# How the kernel names a machine to a filter (linux/audit.h).
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
