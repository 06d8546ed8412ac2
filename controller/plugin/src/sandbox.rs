//! Interfaces and addresses inside a container.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::thread;

use nix::ifaddrs::{InterfaceAddressIterator, getifaddrs};
use nix::net::if_::InterfaceFlags;
use nix::sched::{CloneFlags, setns};

/// Lists the addresses on the interfaces of a network namespace, with the names of the
/// interfaces.
///
/// # Errors
/// When the namespace cannot be entered or asked.
pub(crate) fn addresses(netns: &Path) -> io::Result<Vec<(String, IpAddr)>> {
    look(netns, |found| {
        let found = found.filter_map(|one| {
            let address = one.address?;
            let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
            let v6 = || address.as_sockaddr_in6().map(|v6| v6.ip().into());
            Some((one.interface_name, v4.or_else(v6)?))
        });
        found.collect()
    })
}

/// Lists the interfaces of a network namespace that are up, without the loopback interface.
///
/// # Errors
/// When the namespace cannot be entered or asked.
pub(crate) fn interfaces(netns: &Path) -> io::Result<BTreeSet<String>> {
    look(netns, |found| {
        let up = found.filter(|one| {
            one.flags.contains(InterfaceFlags::IFF_UP)
                && !one.flags.contains(InterfaceFlags::IFF_LOOPBACK)
        });
        up.map(|one| one.interface_name).collect()
    })
}

fn look<T: Send>(
    netns: &Path,
    read: impl FnOnce(InterfaceAddressIterator) -> T + Send,
) -> io::Result<T> {
    let namespace = File::open(netns)?;
    let look = || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        Ok(read(getifaddrs()?))
    };
    // A thread of its own: this one stays where it is.
    thread::scope(|scope| match scope.spawn(look).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
