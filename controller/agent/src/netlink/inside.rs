//! Looks into the network namespaces of workloads.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::{Inner, LinkError, Netlink, own_namespace};
use crate::listeners;

/// A workload's interface, looked at from within its namespace.
#[derive(Debug)]
pub struct Looked {
    pub(super) namespace: File,
    pub(super) inner: Inner,
}

/// Most threads that look into namespaces at a time.
const LOOKING: usize = 8;

/// Looks at interfaces from within their namespaces, each by its path and name: on threads
/// that end there, as many as there are processors.
pub fn look_inside(asked: &[(&Path, &str)]) -> Vec<Result<Looked, LinkError>> {
    if asked.is_empty() {
        return Vec::new();
    }
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let workers = asked.len().min(processors).min(LOOKING);
    let own = own_namespace();
    let next = AtomicUsize::new(0);
    let looked: Vec<_> = asked.iter().map(|_| Mutex::new(None)).collect();
    let look = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some((place, (path, name))) = looked.get(i).zip(asked.get(i)) else {
                return;
            };
            let found = look_into(path, name, &own);
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        }
    };
    let mut refused = None;
    thread::scope(|scope| {
        for _ in 0..workers {
            if let Err(error) = thread::Builder::new().spawn_scoped(scope, look) {
                refused = Some(error);
            }
        }
    });
    let results = looked.into_iter().map(|place| {
        let found = place.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.unwrap_or_else(|| {
            let code = refused.as_ref().and_then(io::Error::raw_os_error);
            let source = code.map_or(io::ErrorKind::Other.into(), io::Error::from_raw_os_error);
            Err(LinkError::Thread { source })
        })
    });
    results.collect()
}

/// Looks at an interface from within its namespace, where the calling thread stays.
fn look_into(path: &Path, name: &str, own: &io::Result<u64>) -> Result<Looked, LinkError> {
    let entering = |source| LinkError::Namespace {
        path: path.to_owned(),
        source,
    };
    let namespace = File::open(path).map_err(entering)?;
    let inode = namespace.metadata().map_err(entering)?.ino();
    match own {
        Ok(own) if *own != inode => {}
        Ok(_) => {
            return Err(LinkError::OwnNamespace {
                path: path.to_owned(),
            });
        }
        Err(error) => return Err(entering(error.kind().into())),
    }
    setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| entering(errno.into()))?;
    let listeners = listeners::here();
    let mut netlink = Netlink::open()?;
    let links = netlink.links()?.into_iter();
    let interface =
        links
            .rev()
            .find(|link| link.name == name)
            .ok_or_else(|| LinkError::NoInterface {
                interface: name.to_owned(),
                path: path.to_owned(),
            })?;
    let (addresses, link_local) = netlink.addresses(Some(interface.ifindex))?;
    let inner = Inner {
        inode,
        interface,
        addresses: addresses.into_iter().map(|(address, _)| address).collect(),
        link_local: link_local.first().map(|(address, _)| *address),
        listeners,
    };
    Ok(Looked { namespace, inner })
}
