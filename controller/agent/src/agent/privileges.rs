//! Gives up what the agent does not need: capabilities, new privileges, and system calls.
//!
//! An attacker inside the agent has no more than is kept here. Threads inherit all of it, so
//! that it is done before there are any.
//!
//! Invariant: nothing here is taken back. A change that needs more fails in the tests, which
//! run every agent this way.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use caps::{CapSet, Capability, CapsHashSet};
use nix::libc;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// Capabilities that the agent cannot do without, each with its use.
pub(super) const NEEDED: [Capability; 4] = [
    // Interfaces, their filters, and XDP.
    Capability::CAP_NET_ADMIN,
    // Namespaces of workloads, and programs and links of others by their ids.
    Capability::CAP_SYS_ADMIN,
    // Programs that read the kernel's packet buffer.
    Capability::CAP_PERFMON,
    // Maps and programs.
    Capability::CAP_BPF,
];

/// Capabilities that are kept where the agent has them.
const USEFUL: [Capability; 2] = [
    // Namespaces of processes of other users: `/proc/PID/ns/net`.
    Capability::CAP_SYS_PTRACE,
    // Documents of other users.
    Capability::CAP_DAC_READ_SEARCH,
];

/// System calls that fail with `EPERM`: those that start programs, look into processes, change
/// mounts, modules, clocks or the machine, and interfaces of the kernel that the agent does not
/// use and that have been ways into it. A BPF file system that nobody else sees is made with
/// `fsopen`, `fsconfig` and `fsmount`; without `move_mount` it stays unseen.
const REFUSED: [libc::c_long; 43] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_personality,
];

/// Gives up all that this thread, and the threads it starts, do not need.
///
/// # Errors
/// When the kernel refuses; some of it may be given up then.
pub(super) fn give_up() -> Result<()> {
    let had = caps::read(None, CapSet::Permitted).context("cannot read own capabilities")?;
    let kept: CapsHashSet = (NEEDED.iter().chain(&USEFUL).copied())
        .filter(|capability| had.contains(capability))
        .collect();
    // The bounding set first: it takes CAP_SETPCAP, which is not kept. Without that, new
    // programs could have more; there are none.
    if had.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::all() {
            if !kept.contains(&capability) {
                // A kernel that does not know the capability has nothing to take.
                _ = caps::drop(None, CapSet::Bounding, capability);
            }
        }
    }
    caps::clear(None, CapSet::Ambient).context("cannot clear ambient capabilities")?;
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        let wanted = match set {
            CapSet::Inheritable => CapsHashSet::new(),
            _ => kept.clone(),
        };
        caps::set(None, set, &wanted).context("cannot give up capabilities")?;
    }
    nix::sys::prctl::set_no_new_privs().context("cannot give up new privileges")?;
    let program = refusing().context("cannot write a filter of system calls")?;
    seccompiler::apply_filter(&program).context("cannot filter system calls")
}

/// A filter that refuses [`REFUSED`] system calls.
fn refusing() -> Result<BpfProgram> {
    let refused = REFUSED.map(|call| (call, Vec::new()));
    let filter = SeccompFilter::new(
        BTreeMap::from(refused),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        std::env::consts::ARCH.try_into()?,
    )?;
    Ok(filter.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The agent cannot give back what the service manager has not given it.
    #[test]
    fn the_unit_gives_what_the_agent_keeps_and_no_more() {
        let unit = include_str!("../../../../xtask/shipped/cofferdam.service");
        let mut lines = unit.lines();
        let given = lines.find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
        let given: CapsHashSet = (given.expect("a set of capabilities"))
            .split_whitespace()
            .map(|name| name.parse().expect("a capability"))
            .collect();
        assert_eq!(given, NEEDED.into_iter().chain(USEFUL).collect());
    }

    #[test]
    fn a_filter_can_be_written() {
        assert!(!refusing().expect("a filter").is_empty());
    }
}
