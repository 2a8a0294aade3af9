//! The system calls that each kind of thread makes. Nothing else is permitted.
//!
//! `ci/system-calls culvertd` runs tests, and compares: a call that a kind of thread makes and that is not in its list fails it, and so
//! does one that is in the list and that no test makes. The lists [`RUNTIME`], [`UNKNOWN`] and [`NEVER`] are exempt from the latter, and
//! what cannot be tried on a test machine, with the reason: [`PCI_UNTRIED`], [`AF_XDP_UNTRIED`], [`DPDK_UNTRIED`].

/// A system call that is permitted.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Its number.
    pub number: i64,
    /// What an argument must be.
    pub test: Option<Test>,
}

/// An argument that must have, in the bits of a mask, one of some values.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    /// Which argument, from 0.
    pub argument: u8,
    /// The bits.
    pub mask: u64,
    /// The values.
    pub values: &'static [u64],
}

const fn any(number: i64) -> Call {
    Call { number, test: None }
}

const fn only(number: i64, argument: u8, mask: u64, values: &'static [u64]) -> Call {
    Call { number, test: Some(Test { argument, mask, values }) }
}

/// Threads, memory, time, log: what the runtime, the allocator and the kernel itself need for all kinds, some in cases that cannot be
/// brought about at will. No memory becomes executable.
pub const RUNTIME: &[Call] = &[
    any(libc::SYS_brk),
    any(libc::SYS_clock_gettime),
    any(libc::SYS_clock_nanosleep),
    // A thread, in the namespaces of this process: CLONE_THREAD and none of CLONE_NEW*.
    only(libc::SYS_clone, 0, 0x7e03_0000, &[0x0001_0000]),
    any(libc::SYS_close),
    any(libc::SYS_exit),
    any(libc::SYS_exit_group),
    any(libc::SYS_futex),
    any(libc::SYS_getpid),
    any(libc::SYS_getrandom),
    any(libc::SYS_gettid),
    any(libc::SYS_madvise),
    only(libc::SYS_mmap, 2, PROT_EXEC, &[0]),
    only(libc::SYS_mprotect, 2, PROT_EXEC, &[0]),
    any(libc::SYS_mremap),
    any(libc::SYS_munmap),
    only(libc::SYS_prctl, 0, !0, &[PR_SET_NAME]),
    any(libc::SYS_read),
    any(libc::SYS_restart_syscall),
    any(libc::SYS_rseq),
    any(libc::SYS_rt_sigaction),
    any(libc::SYS_rt_sigprocmask),
    any(libc::SYS_rt_sigreturn),
    any(libc::SYS_sched_getaffinity),
    any(libc::SYS_sched_yield),
    // tokio's signal handler wakes the thread that waits for signals so, on whichever thread a signal comes to.
    any(libc::SYS_sendto),
    any(libc::SYS_set_robust_list),
    any(libc::SYS_sigaltstack),
    // To itself: abort().
    any(libc::SYS_tgkill),
    any(libc::SYS_write),
];

/// Writes lines to standard error; and asks, once, whether that is a terminal.
pub const LOG: &[Call] = &[
    // What it asks for has 32 bits.
    only(libc::SYS_ioctl, 1, 0xffff_ffff, &[TCGETS]),
];

/// Moves frames, by whatever device; and makes its thread known to DPDK.
pub const WORKER: &[Call] = &[
    any(libc::SYS_access),
    any(libc::SYS_epoll_create1),
    any(libc::SYS_epoll_ctl),
    any(libc::SYS_epoll_wait),
    any(libc::SYS_eventfd2),
    any(libc::SYS_fcntl),
    any(libc::SYS_poll),
    any(libc::SYS_ppoll),
    any(libc::SYS_readv),
    any(libc::SYS_recvfrom),
    any(libc::SYS_sched_setaffinity),
    any(libc::SYS_writev),
];

/// Talks vhost-user: sockets by their names, messages, guests' memory.
pub const VHOST: &[Call] = &[
    any(libc::SYS_accept4),
    any(libc::SYS_bind),
    any(libc::SYS_connect),
    any(libc::SYS_epoll_create1),
    any(libc::SYS_epoll_ctl),
    any(libc::SYS_epoll_wait),
    any(libc::SYS_eventfd2),
    // Where packed rings stand.
    any(libc::SYS_fallocate),
    any(libc::SYS_fchmod),
    any(libc::SYS_fchmodat),
    any(libc::SYS_fchownat),
    any(libc::SYS_fcntl),
    any(libc::SYS_fstat),
    any(libc::SYS_fstatfs),
    any(libc::SYS_ftruncate),
    any(libc::SYS_geteuid),
    any(libc::SYS_getsockopt),
    any(libc::SYS_inotify_add_watch),
    any(libc::SYS_inotify_init1),
    any(libc::SYS_inotify_rm_watch),
    any(libc::SYS_listen),
    any(libc::SYS_memfd_create),
    any(libc::SYS_mkdirat),
    any(libc::SYS_newfstatat),
    any(libc::SYS_open),
    any(libc::SYS_openat),
    any(libc::SYS_openat2),
    any(libc::SYS_ppoll),
    any(libc::SYS_pread64),
    any(libc::SYS_readlinkat),
    any(libc::SYS_recvmsg),
    any(libc::SYS_sendmsg),
    any(libc::SYS_setxattr),
    any(libc::SYS_shutdown),
    only(libc::SYS_socket, 0, !0, &[AF_UNIX]),
    any(libc::SYS_statx),
    any(libc::SYS_timer_create),
    any(libc::SYS_timer_delete),
    any(libc::SYS_timer_settime),
    any(libc::SYS_unlinkat),
];

/// The metrics process: answers by TCP, and asks at the control socket.
pub const METRICS: &[Call] = &[
    any(libc::SYS_accept4),
    any(libc::SYS_connect),
    any(libc::SYS_epoll_create1),
    any(libc::SYS_epoll_ctl),
    any(libc::SYS_epoll_wait),
    any(libc::SYS_eventfd2),
    any(libc::SYS_fcntl),
    any(libc::SYS_getsockname),
    any(libc::SYS_getsockopt),
    any(libc::SYS_ioctl),
    any(libc::SYS_recvfrom),
    any(libc::SYS_setsockopt),
    any(libc::SYS_shutdown),
    only(libc::SYS_socket, 0, !0, &[AF_UNIX]),
    any(libc::SYS_socketpair),
    any(libc::SYS_writev),
];

/// The migration proxy: carries bytes between Unix sockets and TCP, with TLS; reads its certificates again and again.
pub const MIGRATION: &[Call] = &[
    any(libc::SYS_accept4),
    any(libc::SYS_bind),
    any(libc::SYS_chmod),
    any(libc::SYS_connect),
    any(libc::SYS_epoll_create1),
    any(libc::SYS_epoll_ctl),
    any(libc::SYS_epoll_wait),
    any(libc::SYS_eventfd2),
    any(libc::SYS_fchmod),
    any(libc::SYS_fchmodat),
    any(libc::SYS_fchownat),
    any(libc::SYS_fcntl),
    any(libc::SYS_flock),
    any(libc::SYS_fstat),
    any(libc::SYS_geteuid),
    any(libc::SYS_getsockname),
    any(libc::SYS_getsockopt),
    any(libc::SYS_ioctl),
    any(libc::SYS_listen),
    any(libc::SYS_newfstatat),
    any(libc::SYS_open),
    any(libc::SYS_openat),
    any(libc::SYS_recvfrom),
    any(libc::SYS_recvmsg),
    any(libc::SYS_renameat),
    any(libc::SYS_setsockopt),
    any(libc::SYS_shutdown),
    only(libc::SYS_socket, 0, !0, &[AF_UNIX, AF_INET, AF_INET6, AF_NETLINK]),
    any(libc::SYS_socketpair),
    any(libc::SYS_statx),
    any(libc::SYS_unlink),
    any(libc::SYS_unlinkat),
    any(libc::SYS_writev),
];

/// Starts DPDK, which loads its drivers; then waits for their interrupts and timers.
pub const DPDK: &[Call] = &[
    any(libc::SYS_access),
    any(libc::SYS_connect),
    any(libc::SYS_epoll_create),
    any(libc::SYS_epoll_ctl),
    any(libc::SYS_epoll_wait),
    any(libc::SYS_ftruncate),
    any(libc::SYS_getdents64),
    any(libc::SYS_getuid),
    // A bond looks now and then at the links of its members; a PCI card's interrupt is enabled again.
    any(libc::SYS_ioctl),
    any(libc::SYS_iopl),
    any(libc::SYS_memfd_create),
    any(libc::SYS_mkdir),
    any(libc::SYS_mmap),
    any(libc::SYS_mprotect),
    any(libc::SYS_newfstatat),
    any(libc::SYS_openat),
    any(libc::SYS_pipe2),
    any(libc::SYS_prlimit64),
    // A library of a driver's asks which capabilities there are.
    only(libc::SYS_prctl, 0, !0, &[PR_CAPBSET_READ]),
    any(libc::SYS_readlink),
    any(libc::SYS_sched_setaffinity),
    only(libc::SYS_socket, 0, !0, &[AF_UNIX, AF_NETLINK]),
    any(libc::SYS_statx),
    any(libc::SYS_sysinfo),
    any(libc::SYS_timerfd_create),
    any(libc::SYS_timerfd_settime),
    // Hugepages, from here on.
    any(libc::SYS_fallocate),
    any(libc::SYS_fcntl),
    any(libc::SYS_lseek),
    any(libc::SYS_get_mempolicy),
    any(libc::SYS_set_mempolicy),
];

/// Serves kubelet, and makes the folders that containers get.
pub const DEVICE_PLUGIN: &[Call] = &[
    any(libc::SYS_accept4),
    any(libc::SYS_bind),
    any(libc::SYS_connect),
    any(libc::SYS_epoll_create1),
    any(libc::SYS_epoll_ctl),
    any(libc::SYS_epoll_wait),
    any(libc::SYS_eventfd2),
    any(libc::SYS_fchmod),
    any(libc::SYS_fchmodat),
    any(libc::SYS_fchown),
    any(libc::SYS_fcntl),
    any(libc::SYS_flock),
    any(libc::SYS_fsetxattr),
    any(libc::SYS_fstat),
    any(libc::SYS_getdents64),
    any(libc::SYS_geteuid),
    any(libc::SYS_getsockopt),
    any(libc::SYS_inotify_add_watch),
    any(libc::SYS_inotify_init1),
    any(libc::SYS_ioctl),
    any(libc::SYS_listen),
    any(libc::SYS_mkdir),
    any(libc::SYS_mkdirat),
    any(libc::SYS_newfstatat),
    any(libc::SYS_open),
    any(libc::SYS_openat),
    any(libc::SYS_openat2),
    any(libc::SYS_readlink),
    any(libc::SYS_recvfrom),
    any(libc::SYS_renameat),
    any(libc::SYS_renameat2),
    any(libc::SYS_shutdown),
    only(libc::SYS_socket, 0, !0, &[AF_UNIX]),
    any(libc::SYS_statx),
    any(libc::SYS_symlink),
    any(libc::SYS_symlinkat),
    any(libc::SYS_unlink),
    any(libc::SYS_unlinkat),
    any(libc::SYS_writev),
];

/// Serves clients, opens and closes devices (some drivers have threads of their own), keeps the journal, reads the configuration
/// again, helps pods.
pub const CONTROL: &[Call] = &[
    // net_vhost's own thread, as listen().
    any(libc::SYS_accept),
    any(libc::SYS_accept4),
    any(libc::SYS_access),
    any(libc::SYS_bind),
    any(libc::SYS_connect),
    any(libc::SYS_dup),
    any(libc::SYS_epoll_create1),
    any(libc::SYS_epoll_ctl),
    any(libc::SYS_epoll_wait),
    any(libc::SYS_eventfd2),
    any(libc::SYS_fcntl),
    any(libc::SYS_fstat),
    any(libc::SYS_fsync),
    any(libc::SYS_ftruncate),
    any(libc::SYS_getdents64),
    any(libc::SYS_getsockname),
    any(libc::SYS_getsockopt),
    any(libc::SYS_ioctl),
    any(libc::SYS_listen),
    any(libc::SYS_memfd_create),
    any(libc::SYS_newfstatat),
    any(libc::SYS_open),
    any(libc::SYS_openat),
    any(libc::SYS_openat2),
    any(libc::SYS_pipe2),
    any(libc::SYS_poll),
    any(libc::SYS_pread64),
    // Addresses for the next daemon; and a PCI card's configuration.
    any(libc::SYS_pwrite64),
    any(libc::SYS_readlink),
    any(libc::SYS_readlinkat),
    any(libc::SYS_recvfrom),
    any(libc::SYS_recvmsg),
    any(libc::SYS_rename),
    any(libc::SYS_renameat),
    any(libc::SYS_sched_setaffinity),
    any(libc::SYS_sendmsg),
    any(libc::SYS_setsockopt),
    any(libc::SYS_shutdown),
    any(libc::SYS_socket),
    any(libc::SYS_statx),
    any(libc::SYS_timerfd_settime),
    any(libc::SYS_unlink),
    any(libc::SYS_unlinkat),
    // DPDK asks for memory near the cores.
    any(libc::SYS_get_mempolicy),
    any(libc::SYS_set_mempolicy),
];

/// What control does for net_af_xdp besides.
pub const AF_XDP: &[Call] = &[
    any(libc::SYS_bpf),
    any(libc::SYS_faccessat2),
    any(libc::SYS_flock),
    any(libc::SYS_mkdir),
    any(libc::SYS_statfs),
    any(libc::SYS_uname),
];

/// What control does for PCI cards besides. No test uses it: there is no card.
pub const PCI_UNTRIED: &[Call] = &[
    // Their drivers load libraries.
    any(libc::SYS_mmap),
    any(libc::SYS_mprotect),
];

/// As [`AF_XDP`]; no test uses it.
pub const AF_XDP_UNTRIED: &[Call] = &[
    // Kernels before 5.11 count the memory of BPF programs as locked memory: the limit is raised.
    any(libc::SYS_prlimit64),
];

/// As [`DPDK`]; no test uses it.
pub const DPDK_UNTRIED: &[Call] = &[
    // C libraries that are newer than Debian 12's ask so for what newfstatat() tells as well.
    any(libc::SYS_fstat),
];

/// What the first thread does once, while it starts the others.
pub const START: &[Call] = &[
    any(libc::SYS_bind),
    any(libc::SYS_connect),
    any(libc::SYS_epoll_create1),
    any(libc::SYS_epoll_ctl),
    any(libc::SYS_eventfd2),
    any(libc::SYS_fchmod),
    any(libc::SYS_fchmodat),
    any(libc::SYS_flock),
    any(libc::SYS_listen),
    any(libc::SYS_mkdir),
    only(libc::SYS_prctl, 0, !0, &[PR_SET_NO_NEW_PRIVS]),
    any(libc::SYS_pread64),
    // Its process id into the file that tells another culvertd that the journal is taken.
    any(libc::SYS_pwrite64),
    any(libc::SYS_seccomp),
    any(libc::SYS_socketpair),
];

/// Answered as by a kernel that does not know them: the C library takes older ones instead, whose arguments can be tested.
pub const UNKNOWN: &[Call] = &[any(libc::SYS_clone3), any(libc::SYS_io_uring_setup)];

/// No part of culvertd, of DPDK or of the C library makes them: who does is not us any more.
pub const NEVER: &[Call] = &[
    any(libc::SYS_add_key),
    any(libc::SYS_chroot),
    any(libc::SYS_delete_module),
    any(libc::SYS_execve),
    any(libc::SYS_execveat),
    any(libc::SYS_finit_module),
    any(libc::SYS_fork),
    any(libc::SYS_init_module),
    any(libc::SYS_kexec_file_load),
    any(libc::SYS_kexec_load),
    any(libc::SYS_keyctl),
    any(libc::SYS_mount),
    any(libc::SYS_move_mount),
    any(libc::SYS_open_by_handle_at),
    any(libc::SYS_open_tree),
    any(libc::SYS_pivot_root),
    any(libc::SYS_process_vm_readv),
    any(libc::SYS_process_vm_writev),
    any(libc::SYS_ptrace),
    any(libc::SYS_reboot),
    any(libc::SYS_request_key),
    any(libc::SYS_setns),
    any(libc::SYS_swapon),
    any(libc::SYS_umount2),
    any(libc::SYS_unshare),
    any(libc::SYS_userfaultfd),
    any(libc::SYS_vfork),
];

const AF_UNIX: u64 = 1;
const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;
const AF_NETLINK: u64 = 16;
const PROT_EXEC: u64 = 4;
const PR_CAPBSET_READ: u64 = 23;
const PR_SET_NAME: u64 = 15;
const PR_SET_NO_NEW_PRIVS: u64 = 38;
const TCGETS: u64 = 0x5401;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_both_permitted_and_refused() {
        let untried = [PCI_UNTRIED, AF_XDP_UNTRIED, DPDK_UNTRIED];
        let lists =
            [RUNTIME, LOG, WORKER, VHOST, DPDK, DEVICE_PLUGIN, CONTROL, AF_XDP, START].into_iter().chain(untried);
        for call in lists.flatten() {
            assert!(!NEVER.iter().chain(UNKNOWN).any(|other| other.number == call.number), "{call:?}");
        }
    }

    /// Without it, a SIGTERM that came right after another signal was lost: the kernel hands it to any thread, that of the log as well.
    #[test]
    fn every_thread_can_pass_on_a_signal() {
        assert!(RUNTIME.iter().any(|call| call.number == libc::SYS_sendto && call.test.is_none()));
    }

    #[test]
    fn no_list_has_a_call_twice() {
        for list in [RUNTIME, LOG, WORKER, VHOST, DPDK, DEVICE_PLUGIN, CONTROL, AF_XDP, START, UNKNOWN, NEVER] {
            let mut numbers: Vec<_> = list.iter().map(|call| call.number).collect();
            let before = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), before);
        }
    }
}
