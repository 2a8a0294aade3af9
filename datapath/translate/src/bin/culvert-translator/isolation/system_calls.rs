//! The system calls that are made once everything is open. Nothing else is permitted then.
//!
//! ci/system-calls runs the tests that start the program and compares: a call that is made there and not listed, or
//! listed in [`TRANSLATOR`] or [`ANSWERED_NO_ENTRY`] and not made, fails it.

/// What the translator asks of the kernel.
pub const TRANSLATOR: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_close,
    libc::SYS_connect,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_ftruncate,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_ioctl,
    libc::SYS_listen,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_socket,
    libc::SYS_write,
];

/// What the allocator, the runtime and the kernel itself need in cases that cannot be brought about at will.
pub const RUNTIME: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
];

/// Calls for names, made where a vhost-user frontend's descriptors are looked at in /proc: answered as if there were
/// nothing of the name, as in an empty root, also where there is none. `openat` is the allocator's, which wants to know how
/// memory of threads beside the first one is given back (/proc/sys/vm/overcommit_memory), and does without.
pub const ANSWERED_NO_ENTRY: &[i64] = &[libc::SYS_open, libc::SYS_openat, libc::SYS_readlinkat];
