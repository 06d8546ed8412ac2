//! Ports as ranges, and what is said of each.
//!
//! Policies tell packets apart by the ports of TCP, UDP and SCTP, and otherwise not at
//! all. So all packets of two ends are four *lanes*: the ports from 1 to 65535 of these
//! protocols, and everything that has no ports.
//!
//! Invariant: a [`Partition`] covers every lane, in order and without overlap.

use std::fmt::Write as _;

use cofferdam_inventory::Protocol;
use cofferdam_reach::Probe;
use cofferdam_verdict::packet::protocol;
use cofferdam_verdict::table::row_key;

/// A protocol that has ports, or all that have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// A protocol with ports.
    Ports(Protocol),
    /// ICMP and every other protocol.
    Portless,
}

impl Lane {
    /// All lanes in order.
    pub const ALL: [Self; 4] = [
        Self::Ports(Protocol::Tcp),
        Self::Ports(Protocol::Udp),
        Self::Ports(Protocol::Sctp),
        Self::Portless,
    ];

    /// The word in JSON: `tcp`, `udp`, `sctp`, or `other` for what has no ports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ports(Protocol::Tcp) => "tcp",
            Self::Ports(Protocol::Udp) => "udp",
            Self::Ports(Protocol::Sctp) => "sctp",
            Self::Portless => "other",
        }
    }

    /// The first and last port; 0 where there are none.
    fn bounds(self) -> (u16, u16) {
        match self {
            Self::Ports(_) => (1, u16::MAX),
            Self::Portless => (0, 0),
        }
    }

    /// The key by which rows are searched.
    fn key(self, port: u16) -> u32 {
        match self {
            Self::Ports(protocol) => row_key(protocol.number(), port),
            // Rows treat all protocols without ports alike.
            Self::Portless => row_key(protocol::ICMP, 0),
        }
    }
}

/// Ports of one lane from first to last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortSpan {
    /// The lane.
    pub lane: Lane,
    /// The first port; 0 where there are none.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

impl PortSpan {
    /// Everything in a lane.
    #[must_use]
    pub fn whole(lane: Lane) -> Self {
        let (first, last) = lane.bounds();
        Self { lane, first, last }
    }

    /// The one port, or lane without ports, that a probe is about.
    #[must_use]
    pub fn of_probe(probe: Probe) -> Self {
        match probe.port() {
            Some((protocol, port)) => Self {
                lane: Lane::Ports(protocol),
                first: port,
                last: port,
            },
            None => Self::whole(Lane::Portless),
        }
    }

    /// Returns `true` if it is all of its lane.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        *self == Self::whole(self.lane)
    }

    /// Returns `true` if all of another lies in it.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.lane == other.lane && self.first <= other.first && other.last <= self.last
    }

    /// The part that lies in another, if there is one.
    #[must_use]
    pub fn within(&self, other: &Self) -> Option<Self> {
        let (first, last) = (self.first.max(other.first), self.last.min(other.last));
        let is_some = self.lane == other.lane && first <= last;
        is_some.then_some(Self {
            lane: self.lane,
            first,
            last,
        })
    }

    /// The ports in JSON: `80`, `8000-8080`, or `all`.
    #[must_use]
    pub fn ports(&self) -> String {
        match self {
            whole if whole.is_whole() => "all".to_owned(),
            Self { first, last, .. } if first == last => first.to_string(),
            Self { first, last, .. } => format!("{first}-{last}"),
        }
    }

    /// Returns `true` if another begins right behind it.
    fn touches(&self, next: &Self) -> bool {
        self.lane == next.lane && self.last.checked_add(1) == Some(next.first)
    }
}

/// Ports in words: `tcp/80, udp/53-60`, `tcp/all`, or `all`.
#[must_use]
pub fn words(spans: &[PortSpan]) -> String {
    let spans = joined(spans.iter().copied());
    if spans.len() == Lane::ALL.len() && spans.iter().all(PortSpan::is_whole) {
        return "all".to_owned();
    }
    let mut words = String::new();
    for span in &spans {
        let comma = if words.is_empty() { "" } else { ", " };
        let lane = span.lane.as_str();
        match span.lane {
            Lane::Ports(_) => write!(words, "{comma}{lane}/{}", span.ports()),
            Lane::Portless => write!(words, "{comma}{lane}"),
        }
        .expect("writing to a string");
    }
    words
}

/// Spans in order, those that touch or overlap as one.
#[must_use]
pub fn joined(spans: impl IntoIterator<Item = PortSpan>) -> Vec<PortSpan> {
    let mut spans: Vec<PortSpan> = spans.into_iter().collect();
    spans.sort_unstable();
    let mut joined: Vec<PortSpan> = Vec::with_capacity(spans.len());
    for span in spans {
        match joined.last_mut() {
            Some(last)
                if last.touches(&span) || last.lane == span.lane && span.first <= last.last =>
            {
                last.last = last.last.max(span.last);
            }
            _ => joined.push(span),
        }
    }
    joined
}

/// All packets, cut into spans, and what is said of each.
pub(super) type Partition<T> = Vec<(PortSpan, T)>;

/// The same of everything.
pub(super) fn uniform<T: Clone>(said: &T) -> Partition<T> {
    let lanes = Lane::ALL.into_iter();
    lanes
        .map(|lane| (PortSpan::whole(lane), said.clone()))
        .collect()
}

/// Cuts the intervals of a row, each by its first key, into spans.
pub(super) fn of_row<T: Clone + PartialEq>(intervals: &[(u32, T)]) -> Partition<T> {
    let mut spans = Vec::new();
    for lane in Lane::ALL {
        let (first, last) = lane.bounds();
        let (low, high) = (lane.key(first), lane.key(last));
        let from = intervals.partition_point(|(key, _)| *key <= low) - 1;
        let mut here = intervals[from..]
            .iter()
            .take_while(|(key, _)| *key <= high)
            .peekable();
        while let Some((key, said)) = here.next() {
            let start = (*key).max(low) - low;
            let end = here.peek().map_or(high, |(next, _)| next - 1) - low;
            let port = |offset: u32| first + u16::try_from(offset).expect("one lane's ports");
            let span = PortSpan {
                lane,
                first: port(start),
                last: port(end),
            };
            push(&mut spans, span, said.clone());
        }
    }
    spans
}

/// Adds a span behind the others; one of which the same is said as of the last is part
/// of it.
pub(super) fn push<T: PartialEq>(spans: &mut Partition<T>, span: PortSpan, said: T) {
    match spans.last_mut() {
        Some((last, before)) if last.touches(&span) && *before == said => last.last = span.last,
        _ => spans.push((span, said)),
    }
}

/// Puts two partitions on top of each other.
pub(super) fn overlay<T, U, V: PartialEq>(
    one: &[(PortSpan, T)],
    other: &[(PortSpan, U)],
    join: impl Fn(&T, &U) -> V,
) -> Partition<V> {
    let mut spans = Vec::with_capacity(one.len().max(other.len()));
    let (mut ones, mut others) = (one.iter().peekable(), other.iter().peekable());
    while let (Some((a, of_a)), Some((b, of_b))) = (ones.peek(), others.peek()) {
        if let Some(both) = a.within(b) {
            push(&mut spans, both, join(of_a, of_b));
        }
        let (a, b) = ((a.lane, a.last), (b.lane, b.last));
        if a <= b {
            ones.next();
        }
        if b <= a {
            others.next();
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(first: u16, last: u16) -> PortSpan {
        PortSpan {
            lane: Lane::Ports(Protocol::Tcp),
            first,
            last,
        }
    }

    #[test]
    fn a_row_is_cut_at_the_ends_of_lanes_and_of_intervals() {
        let first = row_key(6, 80);
        let row = [(0, 'a'), (first, 'b'), (first + 2, 'a')];
        let spans = of_row(&row);
        assert_eq!(
            spans[..3],
            [(tcp(1, 79), 'a'), (tcp(80, 81), 'b'), (tcp(82, 65535), 'a')]
        );
        let rest: Vec<_> = spans[3..].iter().map(|(span, _)| *span).collect();
        assert_eq!(
            rest,
            Lane::ALL[1..]
                .iter()
                .map(|l| PortSpan::whole(*l))
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn port_0_is_no_port() {
        // A rule that names all ports by number, and one that names none.
        let by_number = [(0, 'a'), (row_key(6, 1), 'b'), (row_key(7, 0), 'a')];
        let all = [(0, 'a'), (row_key(6, 0), 'b'), (row_key(7, 0), 'a')];
        assert_eq!(of_row(&by_number), of_row(&all));
    }

    #[test]
    fn partitions_on_top_of_each_other_are_cut_where_either_is() {
        let one = of_row(&[(0, 1), (row_key(6, 80), 2), (row_key(6, 90), 1)]);
        let other = of_row(&[(0, 10), (row_key(6, 85), 20)]);
        let both = overlay(&one, &other, |a, b| a + b);
        assert_eq!(
            both[..4],
            [
                (tcp(1, 79), 11),
                (tcp(80, 84), 12),
                (tcp(85, 89), 22),
                (tcp(90, 65535), 21)
            ]
        );
        assert_eq!(both.len(), 7);
    }

    #[test]
    fn spans_are_written_as_ranges() {
        let whole: Vec<PortSpan> = Lane::ALL.into_iter().map(PortSpan::whole).collect();
        assert_eq!(words(&whole), "all");
        assert_eq!(words(&whole[..1]), "tcp/all");
        assert_eq!(
            words(&[tcp(81, 90), tcp(80, 80), whole[3]]),
            "tcp/80-90, other"
        );
        assert_eq!(words(&[tcp(8080, 8080), tcp(80, 80)]), "tcp/80, tcp/8080");
    }
}
