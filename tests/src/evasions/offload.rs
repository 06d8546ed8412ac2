//! Headers outside the linear part, and work that the kernel is left to do.

use cofferdam_verdict::reason::Reason;

use super::{Isolation, Row, Scenario, cast::SHUT_PORT, scenario};

pub(super) const SCENARIOS: &[Scenario] = &[scenario(
    "headers outside the linear part are read",
    Row::NotLinear,
    Isolation::CLOSED,
    |cast| {
        // Of a frame over 4 KiB from a packet socket, programs see 14 bytes at first.
        (cast.setup.mtu >= 9000).then_some(())?;
        let payload = [cast.mark(), vec![0x55; 8000]].concat();
        let syn = cast.syn().dport(SHUT_PORT).payload(&payload);
        let datagram = cast.udp().dport(SHUT_PORT).payload(&payload);
        let attack = cast.attack(syn).then(datagram);
        Some(attack.denied(cast.deciding_hook(), Reason::Isolated))
    },
)];
