"""The system calls that a program may make, with their numbers on each kind of machine.

The numbers come from the kernel's headers asm/unistd_64.h and asm-generic/unistd.h. No call is listed that reaches
beyond the program's process and folder: starting processes and programs, sockets, signals to others, changing an
owner, mode, time or attribute of a file, mounting, tracing, keys, shared memory and queues, and memory that no limit
counts. The calls of `Restricted` are allowed with some arguments only.
"""

from __future__ import annotations

from typing import NamedTuple


class Restricted(NamedTuple):
    """The numbers of the calls that are allowed with some arguments only."""

    clone: int
    clone3: int
    kill: int
    tgkill: int
    ioctl: int
    fcntl: int
    prctl: int
    prlimit64: int
    socketpair: int
    sendto: int


class Machine(NamedTuple):
    """A kind of machine: its number in a filter, the allowed calls, and the calls allowed with some arguments."""

    audit: int
    allowed: tuple[int, ...]
    restricted: Restricted


NEWEST_KNOWN = 450
"""The newest call in the tables. The filter calls a newer one unknown, so that libraries do without it."""


def _parse(table: str) -> tuple[int, ...]:
    return tuple(int(each.partition("=")[2]) for each in table.split())


_X86_64 = """
read=0 write=1 open=2 close=3 stat=4 fstat=5 lstat=6 poll=7 lseek=8 mmap=9 mprotect=10 munmap=11 brk=12
rt_sigaction=13 rt_sigprocmask=14 rt_sigreturn=15 pread64=17 pwrite64=18 readv=19 writev=20 access=21 pipe=22
select=23 sched_yield=24 mremap=25 msync=26 mincore=27 madvise=28 dup=32 dup2=33 pause=34 nanosleep=35
getitimer=36 alarm=37 setitimer=38 getpid=39 sendfile=40 recvfrom=45 recvmsg=47 shutdown=48 getsockname=51
getpeername=52 setsockopt=54 getsockopt=55 exit=60 wait4=61 uname=63 flock=73 fsync=74 fdatasync=75
ftruncate=77 getdents=78 getcwd=79 chdir=80 fchdir=81 rename=82 mkdir=83 rmdir=84 creat=85 link=86 unlink=87
symlink=88 readlink=89 umask=95 gettimeofday=96 getrlimit=97 getrusage=98 sysinfo=99 times=100 getuid=102
getgid=104 geteuid=107 getegid=108 getppid=110 getpgrp=111 getgroups=115 getresuid=118 getresgid=120
getpgid=121 getsid=124 capget=125 rt_sigpending=127 rt_sigtimedwait=128 rt_sigsuspend=130 sigaltstack=131
statfs=137 fstatfs=138 getpriority=140 sched_getparam=143 sched_getscheduler=145 sched_get_priority_max=146
sched_get_priority_min=147 arch_prctl=158 gettid=186 readahead=187 getxattr=191 lgetxattr=192 fgetxattr=193
listxattr=194 llistxattr=195 flistxattr=196 time=201 futex=202 sched_getaffinity=204 getdents64=217
set_tid_address=218 restart_syscall=219 fadvise64=221 timer_create=222 timer_settime=223 timer_gettime=224
timer_getoverrun=225 timer_delete=226 clock_gettime=228 clock_getres=229 clock_nanosleep=230 exit_group=231
epoll_create=213 epoll_wait=232 epoll_ctl=233 waitid=247 get_mempolicy=239 openat=257 mkdirat=258
newfstatat=262 unlinkat=263 renameat=264 linkat=265 symlinkat=266 readlinkat=267 faccessat=269 pselect6=270
ppoll=271 set_robust_list=273 get_robust_list=274 splice=275 tee=276 epoll_pwait=281 timerfd_create=283
timerfd_settime=286 timerfd_gettime=287 fallocate=285 eventfd=284 eventfd2=290 epoll_create1=291 dup3=292
pipe2=293 preadv=295 pwritev=296 getcpu=309 sched_getattr=315 renameat2=316 getrandom=318 membarrier=324
copy_file_range=326 preadv2=327 pwritev2=328 statx=332 rseq=334 close_range=436 faccessat2=439
epoll_pwait2=441 futex_waitv=449
"""

_AARCH64 = """
read=63 write=64 close=57 fstat=80 lseek=62 mmap=222 mprotect=226 munmap=215 brk=214 rt_sigaction=134
rt_sigprocmask=135 rt_sigreturn=139 pread64=67 pwrite64=68 readv=65 writev=66 sched_yield=124 mremap=216
msync=227 mincore=232 madvise=233 dup=23 nanosleep=101 getitimer=102 setitimer=103 getpid=172 sendfile=71
recvfrom=207 recvmsg=212 shutdown=210 getsockname=204 getpeername=205 setsockopt=208 getsockopt=209 exit=93
wait4=260 uname=160 flock=32 fsync=82 fdatasync=83 ftruncate=46 getcwd=17 chdir=49 fchdir=50 umask=166
gettimeofday=169 getrlimit=163 getrusage=165 sysinfo=179 times=153 getuid=174 getgid=176 geteuid=175
getegid=177 getppid=173 getgroups=158 getresuid=148 getresgid=150 getpgid=155 getsid=156 capget=90
rt_sigpending=136 rt_sigtimedwait=137 rt_sigsuspend=133 sigaltstack=132 statfs=43 fstatfs=44 getpriority=141
sched_getparam=121 sched_getscheduler=120 sched_get_priority_max=125 sched_get_priority_min=126 gettid=178
readahead=213 getxattr=8 lgetxattr=9 fgetxattr=10 listxattr=11 llistxattr=12 flistxattr=13 futex=98
sched_getaffinity=123 getdents64=61 set_tid_address=96 restart_syscall=128 fadvise64=223 timer_create=107
timer_settime=110 timer_gettime=108 timer_getoverrun=109 timer_delete=111 clock_gettime=113 clock_getres=114
clock_nanosleep=115 exit_group=94 epoll_ctl=21 waitid=95 get_mempolicy=236 openat=56 mkdirat=34 newfstatat=79
unlinkat=35 renameat=38 linkat=37 symlinkat=36 readlinkat=78 faccessat=48 pselect6=72 ppoll=73
set_robust_list=99 get_robust_list=100 splice=76 tee=77 epoll_pwait=22 timerfd_create=85 timerfd_settime=86
timerfd_gettime=87 fallocate=47 eventfd2=19 epoll_create1=20 dup3=24 pipe2=59 preadv=69 pwritev=70 getcpu=168
sched_getattr=275 renameat2=276 getrandom=278 membarrier=283 copy_file_range=285 preadv2=286 pwritev2=287
statx=291 rseq=293 close_range=436 faccessat2=439 epoll_pwait2=441 futex_waitv=449
"""

MACHINES = {
    "x86_64": Machine(0xC000003E, _parse(_X86_64), Restricted(56, 435, 62, 234, 16, 72, 157, 302, 53, 44)),
    "aarch64": Machine(0xC00000B7, _parse(_AARCH64), Restricted(220, 435, 129, 131, 29, 25, 167, 261, 199, 206)),
}
