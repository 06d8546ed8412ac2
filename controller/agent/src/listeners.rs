//! TCP ports at which the workload of a namespace takes connections.
//!
//! The kernel is asked for sockets in that state alone (`sock_diag`, some 20 µs a family). The
//! lists of `/proc`, where it cannot be asked, go over the hash table of all connections of
//! the machine: 3 ms each with 262 144 places, which a machine with 32 GiB has.

use cofferdam_syntax::diagnostic::chain;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cofferdam_verdict::endpoint::{MAX_LISTENERS, listener};
use nix::libc;
use nix::sys::socket::{AddressFamily, SockProtocol};

use crate::netlink::socket::{Asks, Socket};

/// Most bytes of a list that are read: a workload may have any number of sockets.
const MOST_BYTES: u64 = 1 << 18;

/// A list of the calling thread's namespace.
struct List {
    family: AddressFamily,
    /// Its place in `/proc`.
    path: &'static str,
    /// Families that a socket of the list takes.
    takes: u32,
}

/// Both lists. One of IPv6 may refuse IPv4: that is not looked at.
const LISTS: [List; 2] = [
    List {
        family: AddressFamily::Inet,
        path: "/proc/thread-self/net/tcp",
        takes: listener::V4,
    },
    List {
        family: AddressFamily::Inet6,
        path: "/proc/thread-self/net/tcp6",
        takes: listener::V4 | listener::V6,
    },
];

/// Ports with the families that sockets there take.
type Ports = BTreeMap<u16, u32>;

/// Returns where sockets of the calling thread's namespace take connections, as the
/// programs have it. What cannot be read is none: connections from before are then adopted
/// by policy alone.
pub(crate) fn here() -> [u32; MAX_LISTENERS] {
    let mut ports = Ports::new();
    for list in LISTS {
        let List {
            family,
            path,
            takes,
        } = list;
        // A kernel without `inet_diag`, or one that lost patience.
        let asked = ask(family, takes, &mut ports)
            .or_else(|_| File::open(path).and_then(|file| read(file, takes, &mut ports)));
        match asked {
            // Without IPv6 there is no list of its sockets.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!("cannot read {path} of a workload: {}", chain(&error)),
            Ok(()) => {}
        }
    }
    let mut words = [0; MAX_LISTENERS];
    for (word, (port, families)) in words.iter_mut().zip(ports) {
        *word = u32::from(port) | families;
    }
    words
}

/// `SOCK_DIAG_BY_FAMILY` (linux/sock_diag.h).
const BY_FAMILY: u16 = 20;
/// States that are asked for: `1 << TCP_LISTEN` (net/tcp_states.h).
const LISTENING: u32 = 1 << 10;
/// Bytes of a `struct inet_diag_req_v2` behind its first two words: any socket.
const ANY_SOCKET_BYTES: usize = 48;

/// Asks the kernel for the sockets of a family that take connections.
fn ask(family: AddressFamily, takes: u32, ports: &mut Ports) -> io::Result<()> {
    let request = [
        &[family as u8, libc::IPPROTO_TCP as u8, 0, 0][..],
        &LISTENING.to_ne_bytes(),
        &[0; ANY_SOCKET_BYTES],
    ]
    .concat();
    let mut bytes = 0;
    let take = |_, message: &[u8]| {
        bytes += message.len() as u64;
        if let Some((port, is_loopback)) = socket_of(message)
            && !is_loopback
        {
            *ports.entry(port).or_default() |= takes;
        }
        bytes < MOST_BYTES
    };
    let mut socket = Socket::open(SockProtocol::NetlinkSockDiag)?;
    // A socket that comes or goes meanwhile was there, or was not.
    socket.ask(BY_FAMILY, Asks::List, &request, take).map(drop)
}

/// The port of a socket by its `struct inet_diag_msg`, and whether nobody else can connect to
/// it.
fn socket_of(message: &[u8]) -> Option<(u16, bool)> {
    const PORT: usize = 4;
    const SOURCE: usize = 8;
    let port = u16::from_be_bytes(*message.get(PORT..)?.first_chunk()?);
    let source: [u8; 16] = *message.get(SOURCE..)?.first_chunk()?;
    let address: IpAddr = match i32::from(*message.first()?) {
        libc::AF_INET => Ipv4Addr::from(*source.first_chunk::<4>()?).into(),
        _ => Ipv6Addr::from(source).into(),
    };
    Some((port, address.is_loopback()))
}

/// Takes in what a list says. The kernel lists sockets that take connections first.
fn read(list: impl io::Read, families: u32, ports: &mut Ports) -> io::Result<()> {
    for line in BufReader::new(list.take(MOST_BYTES)).lines().skip(1) {
        let line = line?;
        let Some((port, is_loopback)) = listening(&line) else {
            break;
        };
        if !is_loopback {
            *ports.entry(port).or_default() |= families;
        }
    }
    Ok(())
}

/// The port of a line, and whether nobody else can connect to it; `None` if the socket
/// takes no connections.
fn listening(line: &str) -> Option<(u16, bool)> {
    const LISTEN: &str = "0A";
    const LOOPBACK_V6: &str = "00000000000000000000000001000000";
    let mut fields = line.split_ascii_whitespace();
    let (_, local, _, state) = (
        fields.next()?,
        fields.next()?,
        fields.next()?,
        fields.next()?,
    );
    if state != LISTEN {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    // Words of the host's order: the first byte of 127.0.0.1 stands last.
    let is_loopback_v4 = address.len() == 8 && address.ends_with("7F");
    Some((
        u16::from_str_radix(port, 16).ok()?,
        is_loopback_v4 || address == LOOPBACK_V6,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_sockets_that_take_connections_from_elsewhere_are_read() {
        let list = "  sl  local_address rem_address   st tx_queue
   0: 00000000:1538 00000000:0000 0A 00000000:00000000
   1: 0100007F:0050 00000000:0000 0A 00000000:00000000
   2: 0200000A:0016 00000000:0000 0A 00000000:00000000
   3: 0200000A:0017 0300000A:9C40 01 00000000:00000000
   4: 00000000:0018 00000000:0000 0A 00000000:00000000
";
        let mut ports = BTreeMap::new();
        read(list.as_bytes(), listener::V4, &mut ports).unwrap();
        let six = "  sl
   0: 00000000000000000000000000000000:1538 00000000000000000000000000000000:0000 0A
   1: 00000000000000000000000001000000:0051 00000000000000000000000000000000:0000 0A
";
        read(six.as_bytes(), listener::V6, &mut ports).unwrap();
        let expected = [(22, listener::V4), (5432, listener::V4 | listener::V6)];
        assert_eq!(ports, BTreeMap::from(expected));
    }

    /// Both ways of asking, of the same sockets.
    #[test]
    fn the_kernel_names_the_listeners_that_its_lists_name() {
        use std::net::{TcpListener, TcpStream};

        let listening = ["127.0.0.1:0", "0.0.0.0:0", "[::]:0", "[::1]:0"]
            .map(|address| TcpListener::bind(address).unwrap());
        let ports = listening
            .each_ref()
            .map(|one| one.local_addr().unwrap().port());
        let client = TcpStream::connect(listening[0].local_addr().unwrap()).unwrap();
        for list in LISTS {
            let asked = || {
                let mut asked = Ports::new();
                ask(list.family, list.takes, &mut asked).unwrap();
                asked.retain(|port, _| ports.contains(port));
                asked
            };
            let mut named = Ports::new();
            read(File::open(list.path).unwrap(), list.takes, &mut named).unwrap();
            named.retain(|port, _| ports.contains(port));
            assert_eq!(asked(), named, "{}", list.path);
            let own = if list.family == AddressFamily::Inet {
                1
            } else {
                2
            };
            assert_eq!(named, Ports::from([(ports[own], list.takes)]));
            assert!(!asked().contains_key(&client.local_addr().unwrap().port()));
        }
    }

    #[test]
    fn a_line_that_is_none_ends_the_list() {
        for line in [
            "",
            "0:",
            "0: x:y z:w 0A",
            "0: 00000000:zz 0:0 0A",
            "0: 0 0 0A",
        ] {
            assert_eq!(listening(line), None, "{line}");
        }
    }
}
