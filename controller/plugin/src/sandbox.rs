//! Addresses and MAC address of an interface inside a container.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::thread;

use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns};

/// Lists the addresses on the interfaces of a network namespace, with the names of the
/// interfaces.
///
/// # Errors
/// When the namespace cannot be entered or asked.
pub(crate) fn addresses(netns: &Path) -> io::Result<Vec<(String, IpAddr)>> {
    let namespace = File::open(netns)?;
    let look = || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        let found = getifaddrs()?.filter_map(|one| {
            let address = one.address?;
            let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
            let v6 = || address.as_sockaddr_in6().map(|v6| v6.ip().into());
            Some((one.interface_name, v4.or_else(v6)?))
        });
        Ok(found.collect())
    };
    // A thread of its own: this one stays where it is.
    thread::scope(|scope| match scope.spawn(look).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
