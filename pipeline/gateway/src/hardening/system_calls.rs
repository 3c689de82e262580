//! System calls: which are left, by seccomp.
//!
//! Two filters, because a refused call may be two things. What no part of Bulkhead ever calls, but whoever
//! took the process over would (another program, another process's memory, kernel modules, mounts), ends
//! the process: fail closed, and the kernel logs it. Everything else that is not listed fails with `EPERM`: a
//! library that tries something new after an update of the system must not cut a plant's wires.

use std::collections::BTreeMap;

use libc::*;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

/// The system calls that a thread keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Calls {
    /// Those of a process that reads and writes files and sockets.
    Service,
    /// Also those that DPDK, its drivers and libxdp make.
    Gateway,
    /// Those of a worker's loop, and of its end.
    Worker,
    /// Also what brings a queue back after an error where DPDK works beside the kernel's driver (mlx5):
    /// the thread that polls it commands the driver over a descriptor that is open.
    WorkerBesideDriver,
}

/// Refuses all but `calls` to the calling thread and what it starts. Returns what is in force.
///
/// # Errors
///
/// What the kernel, or the architecture, does not offer.
pub(super) fn refuse(calls: Calls) -> Result<String, String> {
    let failed = |error: seccompiler::Error| format!("seccomp does not refuse any: {error}");
    let kept: Vec<c_long> = match calls {
        Calls::Service => [COMMON, FILES].concat(),
        Calls::Gateway => [COMMON, FILES, DEVICES].concat(),
        Calls::Worker => COMMON.to_vec(),
        Calls::WorkerBesideDriver => [COMMON, &[SYS_ioctl]].concat(),
    };
    let deadly = program(DEADLY, SeccompAction::Allow, SeccompAction::KillProcess)?;
    apply_filter(&deadly).map_err(failed)?;
    let eperm = SeccompAction::Errno(EPERM.unsigned_abs());
    apply_filter(&program(&kept, eperm, SeccompAction::Allow)?).map_err(failed)?;
    Ok(format!("{} are left; {} end the process", kept.len(), DEADLY.len()))
}

/// A filter that does `matched` to `listed` calls, and `other` to all others.
fn program(
    listed: &[c_long],
    other: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, String> {
    let failed = |error| format!("no filter of system calls: {error}");
    let arch = std::env::consts::ARCH.try_into().map_err(failed)?;
    let rules: BTreeMap<i64, Vec<_>> = listed.iter().map(|&call| (call, Vec::new())).collect();
    SeccompFilter::new(rules, other, matched, arch).and_then(TryInto::try_into).map_err(failed)
}

/// What only an intruder would call.
const DEADLY: &[c_long] = &[
    SYS_execve,
    SYS_execveat,
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_kexec_load,
    SYS_kexec_file_load,
    SYS_reboot,
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_setns,
    SYS_unshare,
    SYS_open_by_handle_at,
    SYS_swapon,
    SYS_swapoff,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_sethostname,
    SYS_setdomainname,
    SYS_keyctl,
    SYS_add_key,
    SYS_request_key,
    SYS_userfaultfd,
];

/// What every thread calls: memory, time, waiting, signals, its own end, and open descriptors.
const COMMON: &[c_long] = &[
    SYS_brk,
    SYS_mmap,
    SYS_munmap,
    SYS_mremap,
    SYS_mprotect,
    SYS_madvise,
    SYS_membarrier,
    SYS_futex,
    SYS_sched_yield,
    SYS_clock_gettime,
    SYS_clock_getres,
    SYS_clock_nanosleep,
    SYS_nanosleep,
    SYS_gettimeofday,
    SYS_restart_syscall,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_sigaltstack,
    SYS_tgkill,
    SYS_getpid,
    SYS_gettid,
    SYS_getcpu,
    SYS_getrandom,
    SYS_rseq,
    SYS_set_robust_list,
    SYS_exit,
    SYS_exit_group,
    SYS_close,
    SYS_read,
    SYS_readv,
    SYS_write,
    SYS_writev,
    SYS_sendto,
    SYS_sendmsg,
    SYS_sendmmsg,
    SYS_recvfrom,
    SYS_recvmsg,
    SYS_recvmmsg,
    SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    SYS_poll,
    SYS_getsockopt,
    // Asked about itself: which core, which filters.
    SYS_sched_getaffinity,
    SYS_prctl,
    SYS_seccomp,
    SYS_capget,
    SYS_capset,
];

/// What threads of a service call besides: files, sockets, threads, and questions about themselves.
const FILES: &[c_long] = &[
    SYS_openat,
    SYS_openat2,
    SYS_newfstatat,
    SYS_fstat,
    SYS_statx,
    SYS_statfs,
    SYS_fstatfs,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_readlinkat,
    SYS_getdents64,
    SYS_getcwd,
    SYS_lseek,
    SYS_pread64,
    SYS_preadv,
    SYS_pwrite64,
    SYS_pwritev,
    SYS_fcntl,
    SYS_flock,
    SYS_fsync,
    SYS_fdatasync,
    SYS_syncfs,
    SYS_sync_file_range,
    SYS_fallocate,
    SYS_fadvise64,
    SYS_ftruncate,
    SYS_truncate,
    SYS_copy_file_range,
    SYS_sendfile,
    SYS_mkdirat,
    SYS_unlinkat,
    SYS_renameat,
    SYS_renameat2,
    SYS_linkat,
    SYS_symlinkat,
    SYS_fchmod,
    SYS_fchmodat,
    SYS_fchown,
    SYS_fchownat,
    SYS_utimensat,
    SYS_umask,
    SYS_dup,
    SYS_dup3,
    SYS_pipe2,
    SYS_eventfd2,
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_epoll_pwait2,
    SYS_pselect6,
    SYS_inotify_init1,
    SYS_inotify_add_watch,
    SYS_inotify_rm_watch,
    SYS_signalfd4,
    SYS_timerfd_create,
    SYS_timerfd_settime,
    SYS_timerfd_gettime,
    SYS_memfd_create,
    SYS_msync,
    SYS_mlock,
    SYS_mlock2,
    SYS_munlock,
    SYS_socket,
    SYS_socketpair,
    SYS_bind,
    SYS_listen,
    SYS_accept4,
    SYS_accept,
    SYS_connect,
    SYS_shutdown,
    SYS_getsockname,
    SYS_getpeername,
    SYS_setsockopt,
    SYS_ioctl,
    SYS_clone,
    SYS_clone3,
    SYS_set_tid_address,
    SYS_sched_setaffinity,
    SYS_sched_getparam,
    SYS_sched_getscheduler,
    SYS_getpriority,
    SYS_setpriority,
    SYS_kill,
    SYS_rt_sigtimedwait,
    SYS_rt_sigpending,
    SYS_rt_sigsuspend,
    SYS_wait4,
    SYS_waitid,
    SYS_getppid,
    SYS_getuid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getegid,
    SYS_getresuid,
    SYS_getresgid,
    SYS_getgroups,
    SYS_getrusage,
    SYS_prlimit64,
    SYS_getrlimit,
    SYS_uname,
    SYS_sysinfo,
    SYS_times,
    // To read whether the clock is synchronised; to set it takes a capability that nobody here has.
    SYS_adjtimex,
    SYS_clock_adjtime,
    #[cfg(target_arch = "x86_64")]
    SYS_open,
    #[cfg(target_arch = "x86_64")]
    SYS_stat,
    #[cfg(target_arch = "x86_64")]
    SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    SYS_access,
    #[cfg(target_arch = "x86_64")]
    SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    SYS_getdents,
    #[cfg(target_arch = "x86_64")]
    SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    SYS_link,
    #[cfg(target_arch = "x86_64")]
    SYS_symlink,
    #[cfg(target_arch = "x86_64")]
    SYS_rename,
    #[cfg(target_arch = "x86_64")]
    SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    SYS_chown,
    #[cfg(target_arch = "x86_64")]
    SYS_lchown,
    #[cfg(target_arch = "x86_64")]
    SYS_dup2,
    #[cfg(target_arch = "x86_64")]
    SYS_pipe,
    #[cfg(target_arch = "x86_64")]
    SYS_select,
    #[cfg(target_arch = "x86_64")]
    SYS_epoll_create,
    #[cfg(target_arch = "x86_64")]
    SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    SYS_eventfd,
    #[cfg(target_arch = "x86_64")]
    SYS_time,
    #[cfg(target_arch = "x86_64")]
    SYS_getpgrp,
    #[cfg(target_arch = "x86_64")]
    SYS_arch_prctl,
];

/// What DPDK and its drivers call besides: memory on nodes, pages locked, programs in the kernel.
const DEVICES: &[c_long] = &[
    SYS_bpf,
    SYS_mbind,
    SYS_get_mempolicy,
    SYS_set_mempolicy,
    SYS_move_pages,
    SYS_mlockall,
    SYS_munlockall,
    SYS_setrlimit,
    SYS_sched_setscheduler,
    SYS_sched_setparam,
    SYS_sched_get_priority_max,
    SYS_sched_get_priority_min,
];

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn a_worker_computes_and_opens_nothing() {
        let (said, opened, sum) = std::thread::spawn(|| {
            let file = std::fs::File::open("/proc/self/status");
            let said = refuse(Calls::Worker);
            let sum: u64 = std::hint::black_box(vec![1_u64; 1 << 16]).iter().sum();
            drop(file);
            let opened = std::fs::File::open("/proc/self/status").map(drop);
            (said, opened.map_err(|error| error.kind()), sum)
        })
        .join()
        .unwrap();
        let Ok(said) = said else {
            println!("SKIPPED: hardening::system_calls: {said:?}");
            return;
        };
        assert_eq!((opened, sum), (Err(ErrorKind::PermissionDenied), 1 << 16), "{said}");
    }

    #[test]
    fn a_worker_commands_a_driver_only_beside_one() {
        let asked = |calls| {
            std::thread::spawn(move || {
                let (reader, mut writer) = std::io::pipe()?;
                std::io::Write::write_all(&mut writer, b"1234")?;
                if let Err(why) = refuse(calls) {
                    println!("SKIPPED: hardening::system_calls: {why}");
                    return Ok(None);
                }
                let waiting = rustix::io::ioctl_fionread(&reader);
                std::io::Result::Ok(Some(waiting.map_err(|error| error.raw_os_error())))
            })
            .join()
            .unwrap()
            .unwrap()
        };
        let (alone, beside) = (asked(Calls::Worker), asked(Calls::WorkerBesideDriver));
        if alone.is_some() {
            assert_eq!((alone, beside), (Some(Err(EPERM)), Some(Ok(4))));
        }
    }

    #[test]
    fn a_service_works_with_files_and_sockets_and_starts_threads() {
        let done = std::thread::spawn(|| -> std::io::Result<()> {
            if let Err(why) = refuse(Calls::Service) {
                println!("SKIPPED: hardening::system_calls: {why}");
                return Ok(());
            }
            let folder = tempfile::tempdir()?;
            std::fs::write(folder.path().join("a"), "1")?;
            std::fs::rename(folder.path().join("a"), folder.path().join("b"))?;
            let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("s"))?;
            std::thread::spawn(|| {}).join().map_err(|_| std::io::Error::other("no thread"))?;
            let reader = std::fs::read_dir(folder.path())?;
            assert_eq!(reader.count(), 2);
            Ok(())
        });
        done.join().unwrap().unwrap();
    }

    #[test]
    fn nothing_that_is_kept_ends_the_process() {
        for kept in [COMMON, FILES, DEVICES].concat() {
            assert!(!DEADLY.contains(&kept), "{kept}");
        }
    }
}
