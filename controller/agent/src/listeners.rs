//! TCP ports at which the workload of a namespace takes connections.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};

use cofferdam_verdict::endpoint::{MAX_LISTENERS, listener};

/// Most bytes of a list that are read: a workload may have any number of sockets.
const MOST_BYTES: u64 = 1 << 18;

/// Lists of the calling thread's namespace, and the families that a socket in each takes.
/// Nothing says of one for IPv6 that it refuses IPv4.
const LISTS: [(&str, u32); 2] = [
    ("/proc/thread-self/net/tcp", listener::V4),
    ("/proc/thread-self/net/tcp6", listener::V4 | listener::V6),
];

/// Returns where sockets of the calling thread's namespace take connections, as the
/// programs have it. What cannot be read is none: connections from before are then adopted
/// by policy alone.
pub(crate) fn here() -> [u32; MAX_LISTENERS] {
    let mut ports = BTreeMap::new();
    for (path, families) in LISTS {
        let read = File::open(path).and_then(|file| read(file, families, &mut ports));
        match read {
            // Without IPv6 there is no list of its sockets.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!("cannot read {path} of a workload: {error}"),
            Ok(()) => {}
        }
    }
    let mut words = [0; MAX_LISTENERS];
    for (word, (port, families)) in words.iter_mut().zip(ports) {
        *word = u32::from(port) | families;
    }
    words
}

/// Takes in what a list says. The kernel lists sockets that take connections first.
fn read(list: impl io::Read, families: u32, ports: &mut BTreeMap<u16, u32>) -> io::Result<()> {
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
