//! Anonymous network namespaces and entering them.
//!
//! A namespace here has no name and no mount: it lives as long as a descriptor,
//! a socket or a thread holds it, so a test process that dies, however it dies,
//! leaves nothing behind.
//!
//! Invariant: a thread that entered a namespace for a while is back in its own
//! when the guard is gone, or the test stops.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns, unshare};

use super::Error;
use super::netlink::{self, Netlink, VethEnd};
use super::offloads;
use crate::packet::Mac;

/// The namespace of the calling thread. `/proc/self` would be that of the main
/// thread, whoever asks.
const OWN: &str = "/proc/thread-self/ns/net";
/// Third byte of the MAC addresses on a link between any two namespaces.
const JOINED: u8 = 0x22;

/// A network namespace, held by a descriptor.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// Makes a new one, with its loopback interface up.
    pub fn new() -> Result<Self, Error> {
        let made = on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
            File::open(OWN)
        })
        .map_err(|source| Error::Namespace {
            what: "make",
            source,
        })?;
        let namespace = Self { file: made };
        netlink::run(async || {
            let link = Netlink::open(&namespace)?;
            // The loopback interface is the first of every namespace.
            link.up(1).await
        })?;
        Ok(namespace)
    }

    /// The one the calling thread is in.
    pub fn current() -> Result<Self, Error> {
        Self::open(OWN.as_ref())
    }

    /// One that somebody else holds, by its path.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|source| Error::Namespace {
            what: "open",
            source,
        })?;
        Ok(Self { file })
    }

    /// Another descriptor of the same namespace.
    pub fn try_clone(&self) -> Result<Self, Error> {
        let file = self.file.try_clone().map_err(|source| Error::Namespace {
            what: "share",
            source,
        })?;
        Ok(Self { file })
    }

    /// Moves the calling thread into it until the guard is dropped. Sockets
    /// opened meanwhile stay in it; threads and processes started meanwhile are
    /// born in it.
    pub fn enter(&self) -> Result<Entered, Error> {
        let before = Self::current()?;
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| Error::Namespace {
            what: "enter",
            source: errno.into(),
        })?;
        Ok(Entered {
            before: before.file,
            stays_on_its_thread: PhantomData,
        })
    }

    /// Runs `work` inside, on a thread of its own.
    ///
    /// # Panics
    ///
    /// Panics if the namespace cannot be entered, and when `work` panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        on_own_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET).expect("an open namespace can be entered");
            work()
        })
    }

    /// Returns the path by which other processes find it, as long as this process holds it: the
    /// `PATH` of `--netns PATH` and of `nsenter --net=PATH`.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!(
            "/proc/{}/fd/{}",
            process::id(),
            self.file.as_raw_fd()
        ))
    }

    /// Sets a kernel parameter of this namespace: `net/ipv4/ip_forward`.
    pub fn set(&self, parameter: &str, value: &str) -> Result<(), Error> {
        let _inside = self.enter()?;
        set_here(parameter, value)
    }

    /// The index of an interface.
    pub fn ifindex(&self, interface: &str) -> Result<u32, Error> {
        let _inside = self.enter()?;
        if_nametoindex(interface).map_err(|errno| Error::Interface {
            interface: interface.into(),
            source: errno.into(),
        })
    }

    /// Joins it to another namespace by a veth pair, both ends up, without
    /// addresses: a second interface of a workload, say.
    pub fn join(&self, interface: &str, other: &Self, its_interface: &str) -> Result<(), Error> {
        let mac = |side| Mac::local(JOINED, side);
        let here = VethEnd {
            interface,
            mac: mac(1),
        };
        let there = VethEnd {
            interface: its_interface,
            mac: mac(2),
        };
        netlink::run(async || {
            let mut netlink = Netlink::open(self)?;
            netlink.veth(here, None, there, other, 1500).await?;
            Netlink::open(other)?
                .up(other.ifindex(its_interface)?)
                .await?;
            netlink.expect_up(self.ifindex(interface)?);
            netlink.settle().await
        })
    }

    /// Waits until an interface is gone. A veth goes with its other end: the end
    /// of a namespace, which the kernel clears away in its own time, shows in
    /// those it was joined to.
    pub fn wait_until_gone(&self, interface: &str, patience: Duration) -> Result<(), Error> {
        netlink::run(async || {
            let mut netlink = Netlink::open(self)?;
            // Only now, with the socket open: an interface found here cannot go
            // without an event.
            match self.ifindex(interface) {
                Ok(ifindex) => netlink.wait_until_gone(ifindex, patience).await,
                Err(_) => Ok(()),
            }
        })
    }

    /// Returns `true` if the kernel can make links of a kind: `vlan`, `macvlan`. To know, it
    /// may make one here, called `probe`.
    pub fn knows_link_kind(&self, kind: &str) -> Result<bool, Error> {
        netlink::run(async || Netlink::open(self)?.knows_kind(kind).await)
    }

    /// Gives an interface another address.
    pub fn add_address(
        &self,
        interface: &str,
        address: impl Into<IpAddr>,
        prefix: u8,
    ) -> Result<(), Error> {
        let ifindex = self.ifindex(interface)?;
        let address = address.into();
        netlink::run(async || {
            let mut netlink = Netlink::open(self)?;
            netlink.address(ifindex, address, prefix).await?;
            netlink.settle().await
        })
    }

    /// Changes an interface's MTU.
    pub fn set_mtu(&self, interface: &str, mtu: u32) -> Result<(), Error> {
        let ifindex = self.ifindex(interface)?;
        netlink::run(async || Netlink::open(self)?.set_mtu(ifindex, mtu).await)
    }

    /// Turns all offloads of an interface on or off: checksums, segmentation,
    /// scatter-gather, and putting arriving segments together.
    pub fn set_offloads(&self, interface: &str, on: bool) -> Result<(), Error> {
        let _inside = self.enter()?;
        offloads::set_here(interface, on).map_err(|source| Error::Offloads {
            interface: interface.into(),
            source,
        })
    }

    /// Lets an interface take VLAN tags off frames that arrive, or not.
    pub fn strip_tags(&self, interface: &str, on: bool) -> Result<(), Error> {
        let _inside = self.enter()?;
        offloads::strip_tags_here(interface, on).map_err(|source| Error::Offloads {
            interface: interface.into(),
            source,
        })
    }

    /// Makes an entry of the neighbour table that nothing arriving changes.
    pub fn pin_neighbour(
        &self,
        interface: &str,
        address: impl Into<IpAddr>,
        mac: Mac,
    ) -> Result<(), Error> {
        let ifindex = self.ifindex(interface)?;
        let address = address.into();
        netlink::run(async || {
            let netlink = Netlink::open(self)?;
            netlink.pin_neighbour(ifindex, address, mac).await
        })
    }

    /// Loses whatever this namespace would send or forward to an address,
    /// without a word to its sender.
    pub fn lose(&self, address: impl Into<IpAddr>) -> Result<(), Error> {
        let address = address.into();
        netlink::run(async || Netlink::open(self)?.blackhole(address).await)
    }

    /// The names of all interfaces, the loopback interface included.
    pub fn interfaces(&self) -> Result<Vec<String>, Error> {
        let _inside = self.enter()?;
        let list = nix::net::if_::if_nameindex().map_err(|errno| Error::Namespace {
            what: "list the links of",
            source: errno.into(),
        })?;
        Ok(list
            .iter()
            .map(|one| one.name().to_string_lossy().into_owned())
            .collect())
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Sets parameters of the namespace the calling thread is in. `/proc/sys/net`
/// shows each thread its own.
pub(super) fn set_here(parameter: &str, value: &str) -> Result<(), Error> {
    std::fs::write(format!("/proc/sys/{parameter}"), value).map_err(|source| Error::Parameter {
        parameter: parameter.into(),
        source,
    })
}

/// Runs `work` on a thread of its own, whose namespace nobody has to restore,
/// and hands its panic on.
pub(super) fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// The calling thread is in another namespace while this guard lives.
///
/// It cannot be sent to another thread: that one's namespace would be
/// "restored", and this one's never.
///
/// ```compile_fail
/// # let namespace = cofferdam_tests::world::Namespace::new().unwrap();
/// let inside = namespace.enter().unwrap();
/// std::thread::spawn(move || drop(inside));
/// ```
#[derive(Debug)]
#[must_use = "the thread leaves the namespace when the guard is dropped"]
pub struct Entered {
    before: File,
    stays_on_its_thread: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Err(errno) = setns(&self.before, CloneFlags::CLONE_NEWNET) {
            // A second panic would abort the process and hide the first.
            if thread::panicking() {
                eprintln!("cannot leave a network namespace: {errno}");
            } else {
                panic!("cannot leave a network namespace: {errno}");
            }
        }
    }
}
