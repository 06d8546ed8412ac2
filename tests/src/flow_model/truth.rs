//! The model: which packets may pass a hook.
//!
//! A *conversation* is what policy has let one end open with the other. A packet may
//! pass if policy lets its sender open a conversation by it, or if it belongs to one
//! that policy still allows in the conversation's own direction. There is no table of
//! bounded size, no state word and no revision here: conversations are a list, and
//! policy is asked anew about each packet.
//!
//! Every packet that policy allows by itself opens a conversation of its own. Where the
//! programs remember one conversation for both ends' packets on the same ports, the
//! model remembers two. It is the most that may pass; [`Tolerance`] names every case in
//! which the programs may let less pass.

use std::net::IpAddr;

use cofferdam_verdict::{flow::Idle, packet::protocol, reason::Reason};

use super::{
    memory::{Conversation, Datagram, Sender},
    node::{FRAGMENT_LIFETIME, IDLE},
    region::{PODS, Region, Service, Standing},
    sight::{Kind, Part, Quoted, Segment, Sight, Tolerance, Way},
};

/// Opinion of the model about a packet.
#[derive(Clone, Debug)]
pub(super) struct Opinion {
    /// Reason for which it may pass, or must not.
    pub(super) answer: Result<Way, &'static str>,
    /// Policy lets the sender open by it.
    permitted: bool,
    sender: Option<Sender>,
}

/// The node as it truly is.
#[derive(Clone, Debug)]
pub(super) struct Truth {
    pub(super) region: Region,
    pub(super) stamps: [u32; PODS],
    pub(super) adopt_until: [u32; PODS],
    /// Ports at which workloads took TCP connections before they were endpoints.
    pub(super) listeners: [Vec<u16>; PODS],
    pub(super) own_node_allowed: bool,
    /// Partitions have few sets.
    pub(super) is_small: bool,
    pub(super) revision: u32,
    pub(super) now: u32,
    conversations: Vec<Conversation>,
    datagrams: Vec<Datagram>,
}

impl Truth {
    pub(super) fn new(region: Region, own_node_allowed: bool, is_small: bool, now: u32) -> Self {
        Self {
            region,
            stamps: [0; PODS],
            adopt_until: [0; PODS],
            listeners: <_>::default(),
            own_node_allowed,
            is_small,
            revision: 0,
            now,
            conversations: Vec::new(),
            datagrams: Vec::new(),
        }
    }

    /// Another region is in force.
    pub(super) fn change(&mut self, region: Region, revision: u32) {
        for conversation in &mut self.conversations {
            if let Sender::Masqueraded(pod) = conversation.sender {
                conversation.sender_changed |= self.region.differs_in(&region, pod);
            }
        }
        self.region = region;
        self.revision = revision;
    }

    /// The workload has a new interface, with another stamp.
    pub(super) fn reincarnate(&mut self, pod: usize, stamp: u32) {
        self.stamps[pod] = stamp;
        self.conversations.retain(|one| one.pod != pod);
        self.datagrams.retain(|one| one.pod != pod);
        for datagram in &mut self.datagrams {
            datagram.peer_renewed |= datagram.peer == Some(pod);
        }
        for conversation in &mut self.conversations {
            conversation.sender_changed |= conversation.sender == Sender::Masqueraded(pod);
            conversation.peer_renewed |=
                self.region.standing(conversation.peer) == Standing::Pod(pod);
        }
    }

    fn is_own(&self, pod: usize, address: IpAddr) -> bool {
        self.region.standing(address) == Standing::Pod(pod)
    }

    /// Returns the sender of a packet towards a workload; `Err` where its source address is
    /// that of somebody else.
    fn sender(&self, sight: &Sight) -> Result<Sender, &'static str> {
        match self.region.standing(sight.source) {
            Standing::Pod(pod) if sight.stamp == self.stamps[pod] => Ok(Sender::Address),
            Standing::Pod(_) => Err("a workload's address without its stamp"),
            Standing::Remote | Standing::OtherNode if sight.stamp != 0 => {
                Err("a stamp on a packet that came from another node")
            }
            // Where the node has no permission of its own, it is an address like others.
            Standing::Node if sight.stamp == 0 => Ok(Sender::Node {
                own: sight.by_node && self.own_node_allowed,
            }),
            Standing::Node => {
                // A workload without addresses is subject to no policy that could be asked.
                let stamped = (0..PODS)
                    .find(|&pod| self.stamps[pod] == sight.stamp && self.region.has_addresses(pod));
                Ok(stamped.map_or(Sender::Unknown, Sender::Masqueraded))
            }
            _ => Ok(Sender::Address),
        }
    }

    /// Returns `true` if policy lets a sender open a conversation with a workload.
    fn lets_in(&self, sender: Sender, peer: IpAddr, pod: usize, service: Service) -> bool {
        let from = match sender {
            Sender::Address => self.region.standing(peer),
            Sender::Node { own: true } => return true,
            Sender::Node { .. } => Standing::Node,
            Sender::Masqueraded(sender) if sender == pod => return true,
            Sender::Masqueraded(sender) => Standing::Pod(sender),
            Sender::Unknown => return false,
        };
        self.region.permits(from, Standing::Pod(pod), service)
    }

    /// Returns `true` if policy lets a workload open a conversation with an address.
    fn lets_out(&self, pod: usize, peer: IpAddr, service: Service) -> bool {
        let to = self.region.standing(peer);
        self.region.permits(Standing::Pod(pod), to, service)
    }

    /// Returns `true` if policy allows a conversation now, in its own direction.
    fn is_agreed(&self, one: &Conversation) -> bool {
        if one.by_pod {
            self.lets_out(one.pod, one.peer, one.service())
        } else {
            self.lets_in(one.sender, one.peer, one.pod, one.service())
        }
    }

    fn is_alive(&self, one: &Conversation) -> bool {
        let idle = self.now.wrapping_sub(one.last_seen);
        one.most_idle().is_none_or(|most| idle <= most)
    }

    /// Live conversations on a packet's addresses and ports, in either direction.
    fn on(
        &self,
        pod: usize,
        ends: (IpAddr, IpAddr),
        protocol: u8,
        ports: (u16, u16),
    ) -> Vec<usize> {
        let is_same = |one: &Conversation| {
            one.pod == pod
                && (one.local, one.peer) == ends
                && one.protocol == protocol
                && one.ports == ports
        };
        let all = self.conversations.iter().enumerate();
        all.filter(|(_, one)| is_same(one) && self.is_alive(one))
            .map(|(at, _)| at)
            .collect()
    }

    /// Live conversations that a packet may belong to: those that its sender has opened,
    /// and those that it may answer.
    fn of(&self, sight: &Sight, sender: Option<Sender>) -> (Vec<usize>, Vec<usize>) {
        let (ends, ports) = sight.seen_by_pod();
        let protocol = sight.kind.protocol(sight.source.is_ipv4());
        let all = self.on(sight.pod, ends, protocol, ports);
        let (mut same, mut other): (Vec<usize>, Vec<usize>) = all
            .into_iter()
            .partition(|&at| self.conversations[at].by_pod == sight.sent);
        same.retain(|&at| {
            let known = self.conversations[at].sender;
            match sender {
                // Who uses the node's address without a stamp may be the node.
                Some(Sender::Node { own: true }) => matches!(known, Sender::Node { .. }),
                Some(sender) => known == sender,
                None => true,
            }
        });
        if let Kind::Echo { reply } = sight.kind {
            // Only a request opens, and only a reply answers.
            if reply {
                same.clear();
            } else {
                other.clear();
            }
        }
        (same, other)
    }

    fn service(sight: &Sight, port: u16) -> Service {
        Service {
            protocol: sight.kind.protocol(sight.source.is_ipv4()),
            port: sight.kind.has_ports().then_some(port),
        }
    }

    /// Judges a packet: tells if it may pass.
    pub(super) fn judge(&self, sight: &Sight) -> Opinion {
        let refused = |why| Opinion {
            answer: Err(why),
            permitted: false,
            sender: None,
        };
        let pod = sight.pod;
        let mut sender = None;
        if sight.sent {
            if !self.is_own(pod, sight.source) {
                return refused("a source that is not the workload's");
            }
            if self.is_own(pod, sight.destination) {
                return refused("a workload's packet to itself does not leave it");
            }
        } else {
            match self.sender(sight) {
                Ok(found) => sender = Some(found),
                Err(why) => return refused(why),
            }
            if !self.is_own(pod, sight.destination) {
                return refused("a destination that is not the receiver's");
            }
        }
        if let Part::Later { offset, .. } = sight.part {
            return match self.datagram(sight) {
                Some(first) if offset < self.datagrams[first].header => {
                    refused("a fragment that overlaps the header")
                }
                Some(_) => Opinion {
                    answer: Ok(Way::Fragment),
                    permitted: false,
                    sender,
                },
                None => refused("a fragment without its first"),
            };
        }
        let service = Self::service(sight, sight.ports.1);
        let permitted = match sender {
            None => self.lets_out(pod, sight.destination, service),
            Some(sender) => self.lets_in(sender, sight.source, pod, service),
        };
        let is_itself = !sight.sent && self.is_own(pod, sight.source)
            || sender == Some(Sender::Masqueraded(pod));
        let answer = if is_itself {
            Ok(Way::Itself)
        } else {
            self.way(sight, sender, permitted)
        };
        Opinion {
            answer,
            permitted,
            sender,
        }
    }

    fn way(
        &self,
        sight: &Sight,
        sender: Option<Sender>,
        permitted: bool,
    ) -> Result<Way, &'static str> {
        if let Kind::Error { quoted, long } = &sight.kind {
            return match self.related(sight, quoted) {
                Some(_) if !*long => Ok(Way::Related),
                _ if permitted => Ok(Way::ByItself),
                Some(_) => Err("an error longer than its RFC allows"),
                None => Err("an error about no conversation"),
            };
        }
        let (same, other) = self.of(sight, sender);
        let answers = (other.iter()).any(|&at| self.is_agreed(&self.conversations[at]));
        match sight.kind {
            Kind::Tcp(Segment::Syn) if permitted => Ok(Way::ByItself),
            Kind::Tcp(Segment::Syn) => Err("no policy lets it open"),
            Kind::Tcp(_) => {
                if answers || permitted && !same.is_empty() {
                    Ok(Way::Conversation)
                } else {
                    self.way_midstream(sight, sender, permitted)
                }
            }
            _ if permitted => Ok(Way::ByItself),
            _ if answers => Ok(Way::Conversation),
            _ => Err("policy does not allow it, and it answers nothing"),
        }
    }

    /// The verdicts that are possible about a TCP segment that opens nothing and belongs to no conversation.
    fn way_midstream(
        &self,
        sight: &Sight,
        sender: Option<Sender>,
        permitted: bool,
    ) -> Result<Way, &'static str> {
        let lets_back = self.lets_back(sight, sender);
        if self.is_adopting(sight.pod) && sender != Some(Sender::Unknown) {
            match self.is_openers(sight, sender) {
                Some(true) if permitted => Ok(Way::Adopted),
                Some(false) if lets_back => Ok(Way::Answer),
                None if permitted && lets_back => Ok(Way::Adopted),
                _ => Err("a segment of a connection that policy denies"),
            }
        } else if permitted && self.is_small && lets_back {
            Ok(Way::Adopted)
        } else {
            Err("a segment of no connection")
        }
    }

    /// The verdict about a segment of conversations that may all be forgotten, if they are.
    fn midstream<'a>(
        &self,
        sight: &Sight,
        opinion: &Opinion,
        mut known: impl Iterator<Item = &'a usize>,
    ) -> Option<Way> {
        let is_forgotten = |&at: &usize| self.excuse_forgotten(&self.conversations[at]).is_some();
        if !matches!(sight.kind, Kind::Tcp(_)) || !known.all(is_forgotten) {
            return None;
        }
        self.way_midstream(sight, opinion.sender, opinion.permitted)
            .ok()
    }

    /// Returns `true` if a segment's sender opened its connection, `false` if the receiver
    /// did, by who took connections; `None` if that does not tell.
    fn is_openers(&self, sight: &Sight, sender: Option<Sender>) -> Option<bool> {
        let ((_, peer), (own, others)) = sight.seen_by_pod();
        let is_behind_another = matches!(sender, Some(Sender::Masqueraded(_)));
        match self.region.standing(peer) {
            Standing::Pod(pod) if !is_behind_another && self.listeners[pod].contains(&others) => {
                Some(sight.sent)
            }
            _ if self.listeners[sight.pod].contains(&own) => Some(!sight.sent),
            _ => None,
        }
    }

    fn is_adopting(&self, pod: usize) -> bool {
        let left = self.adopt_until[pod].wrapping_sub(self.now);
        self.adopt_until[pod] != 0 && left != 0 && left < 1 << 31
    }

    /// Returns `true` if policy lets the receiver of a packet open a connection with its
    /// sender.
    fn lets_back(&self, sight: &Sight, sender: Option<Sender>) -> bool {
        let service = Self::service(sight, sight.ports.0);
        match sender {
            Some(_) => self.lets_out(sight.pod, sight.source, service),
            None => {
                let peer = sight.destination;
                let sender = match self.region.standing(peer) {
                    Standing::Node => Sender::Node {
                        own: self.own_node_allowed,
                    },
                    _ => Sender::Address,
                };
                self.lets_in(sender, peer, sight.pod, service)
            }
        }
    }

    /// The conversation that an ICMP error is about.
    fn related(&self, sight: &Sight, quoted: &Quoted) -> Option<usize> {
        if quoted.source != sight.destination {
            return None;
        }
        let (ends, ports) = if sight.sent {
            let ports = (quoted.ports.1, quoted.ports.0);
            ((quoted.destination, quoted.source), ports)
        } else {
            ((quoted.source, quoted.destination), quoted.ports)
        };
        let protocol = quoted.kind.protocol(sight.source.is_ipv4());
        let mut all = self.on(sight.pod, ends, protocol, ports).into_iter();
        all.find(|&at| {
            let one = &self.conversations[at];
            let is_of_direction = match quoted.kind {
                // The workload has sent the quoted packet, or received it.
                Kind::Echo { reply } => one.by_pod == (sight.sent == reply),
                _ => true,
            };
            is_of_direction && self.is_agreed(one)
        })
    }

    fn datagram(&self, sight: &Sight) -> Option<usize> {
        let (Part::First { id } | Part::Later { id, .. }) = sight.part else {
            return None;
        };
        let protocol = sight.kind.protocol(sight.source.is_ipv4());
        self.datagrams.iter().position(|one| {
            (one.pod, one.sent, one.id) == (sight.pod, sight.sent, id)
                && (one.source, one.destination) == (sight.source, sight.destination)
                && one.protocol == protocol
                && (sight.sent || one.stamp == sight.stamp)
                && one.revision == self.revision
                && self.now.wrapping_sub(one.began) <= FRAGMENT_LIFETIME
        })
    }

    /// Returns the excuse of the programs for denying a packet that the model would let pass.
    pub(super) fn excuse(
        &self,
        sight: &Sight,
        opinion: &Opinion,
        reason: Reason,
    ) -> Option<Tolerance> {
        let way = opinion.answer.as_ref().ok()?;
        if reason == Reason::FragmentTableFull || reason == Reason::FlowTableFull && self.is_small {
            return Some(Tolerance::NoRoom);
        }
        if *way == Way::Itself {
            let is_masqueraded = opinion.sender == Some(Sender::Masqueraded(sight.pod));
            return is_masqueraded.then_some(Tolerance::Hairpin);
        }
        if *way == Way::Fragment {
            let first = &self.datagrams[self.datagram(sight)?];
            if first.peer_renewed {
                return Some(Tolerance::FragmentOfFormerPeer);
            }
            // The oldest of a sender's two in a set gives way, or either of the same time.
            let is_forgotten =
                first.since > 0 && first.beside + first.since > u32::from(!first.done);
            return is_forgotten.then_some(Tolerance::FragmentForgotten);
        }
        if let Kind::Error { quoted, .. } = &sight.kind {
            return match reason {
                Reason::SignallingSize => Some(Tolerance::LongError),
                _ => self.excuse_related(sight, quoted),
            };
        }
        let (same, other) = self.of(sight, opinion.sender);
        if *way == Way::ByItself {
            let is_answer = !other.is_empty() && sight.kind != Kind::Tcp(Segment::Syn);
            return is_answer.then_some(Tolerance::SharedPorts);
        }
        if matches!(way, Way::Adopted | Way::Answer) {
            if !same.is_empty() || !other.is_empty() {
                return Some(Tolerance::SharedPorts);
            }
            let is_node = sight.sent && self.region.standing(sight.destination) == Standing::Node;
            if self.is_small && !self.is_adopting(sight.pod) {
                return Some(Tolerance::HadRoom);
            }
            return is_node.then_some(Tolerance::AdoptionTowardsNode);
        }
        let &at = same.first().or(other.first())?;
        self.excuse_forgotten(&self.conversations[at])
    }

    fn excuse_forgotten(&self, one: &Conversation) -> Option<Tolerance> {
        if matches!(one.sender, Sender::Masqueraded(sender) if sender == one.pod) {
            return Some(Tolerance::Hairpin);
        }
        if one.is_shared {
            return Some(Tolerance::SharedPorts);
        }
        if one.sender_changed {
            return Some(Tolerance::MasqueradeForgotten);
        }
        if one.is_doubtful || self.now.wrapping_sub(one.last_seen) > one.sure_idle() {
            return Some(Tolerance::SilentConnection);
        }
        self.is_small.then_some(Tolerance::GaveWay)
    }

    fn excuse_related(&self, sight: &Sight, quoted: &Quoted) -> Option<Tolerance> {
        let one = &self.conversations[self.related(sight, quoted)?];
        if one.revision != self.revision || one.peer_renewed {
            return Some(Tolerance::StaleRelated);
        }
        // It would go on with a packet of its own, which policy is asked about.
        let silence = self.now.wrapping_sub(one.last_seen);
        if one.protocol == protocol::TCP && silence > IDLE[Idle::TcpEstablished as usize] {
            return Some(Tolerance::SilentConnection);
        }
        self.excuse_forgotten(one)
    }

    /// Takes note of what became of a packet.
    ///
    /// A first fragment for which there was no room is dropped, but the conversation that
    /// it opened is remembered.
    pub(super) fn note(&mut self, sight: &Sight, opinion: &Opinion, passed: bool, reason: Reason) {
        let is_open = passed || reason == Reason::FragmentTableFull;
        if !is_open {
            self.end(sight, opinion);
            return;
        }
        let Ok(way) = &opinion.answer else {
            return;
        };
        if let Part::First { id } = sight.part
            && passed
        {
            self.hold(sight, opinion.sender, id);
        }
        match (way, sight.part) {
            (Way::Fragment, Part::Later { more, .. }) => {
                if let Some(first) = self.datagram(sight)
                    && !more
                {
                    self.datagrams[first].done = true;
                }
                return;
            }
            (Way::Itself, _) if opinion.sender == Some(Sender::Address) => return,
            _ => {}
        }
        if matches!(sight.kind, Kind::Error { .. }) {
            return;
        }
        let (same, other) = self.of(sight, opinion.sender);
        let midstream = match way {
            Way::Conversation => self.midstream(sight, opinion, same.iter().chain(&other)),
            way => Some(way.clone()),
        };
        if *way == Way::Conversation && midstream.is_some() {
            for &at in same.iter().chain(&other) {
                self.conversations[at].is_doubtful = true;
            }
        }
        for at in other {
            self.move_on(at, sight, false);
        }
        let opens = match sight.kind {
            Kind::Tcp(Segment::Syn) => true,
            // Who goes on with what another behind the same address has opened opens it anew.
            Kind::Tcp(_) => {
                let goes_on = *way == Way::Conversation && opinion.permitted && !same.is_empty();
                goes_on || matches!(midstream, Some(Way::Adopted | Way::Itself))
            }
            Kind::Echo { reply } => !reply,
            _ => opinion.permitted,
        };
        let is_known = (same.iter()).any(|&at| self.conversations[at].is_by(opinion.sender));
        for at in same {
            self.move_on(at, sight, true);
        }
        if opens && !is_known {
            self.open(sight, opinion.sender);
        }
        self.end(sight, opinion);
    }

    /// Ends conversations that a packet belongs to and that policy no longer allows.
    fn end(&mut self, sight: &Sight, opinion: &Opinion) {
        if matches!(sight.kind, Kind::Error { .. }) || matches!(sight.part, Part::Later { .. }) {
            return;
        }
        let is_of_pod = if sight.sent {
            self.is_own(sight.pod, sight.source)
        } else {
            self.is_own(sight.pod, sight.destination) && self.sender(sight).is_ok()
        };
        let is_itself =
            self.region.standing(sight.source) == self.region.standing(sight.destination);
        if !is_of_pod || is_itself {
            // Only policy ends a conversation: a packet with another address does not.
            return;
        }
        let (mut gone, other) = self.of(sight, opinion.sender);
        if sight.kind != Kind::Tcp(Segment::Syn) {
            gone.extend(other);
        }
        gone.retain(|&at| !self.is_agreed(&self.conversations[at]));
        gone.sort_unstable();
        for at in gone.into_iter().rev() {
            self.conversations.swap_remove(at);
        }
    }

    fn hold(&mut self, sight: &Sight, sender: Option<Sender>, id: u16) {
        let ((_, peer), _) = sight.seen_by_pod();
        let peer = match (sender, self.region.standing(peer)) {
            (Some(Sender::Masqueraded(pod)), _) | (_, Standing::Pod(pod)) => Some(pod),
            _ => None,
        };
        if let Some(before) = self.datagram(sight) {
            self.datagrams.swap_remove(before);
        }
        let mut beside = 0;
        for one in &mut self.datagrams {
            one.since += u32::from(one.pod == sight.pod);
            beside += u32::from(one.pod == sight.pod && one.began == self.now);
        }
        self.datagrams.push(Datagram {
            pod: sight.pod,
            sent: sight.sent,
            source: sight.source,
            destination: sight.destination,
            protocol: sight.kind.protocol(sight.source.is_ipv4()),
            stamp: sight.stamp,
            id,
            header: sight.kind.header(),
            began: self.now,
            revision: self.revision,
            peer,
            peer_renewed: false,
            done: false,
            beside,
            since: 0,
        });
    }

    fn open(&mut self, sight: &Sight, sender: Option<Sender>) {
        let ((local, peer), ports) = sight.seen_by_pod();
        self.conversations.retain(|one| {
            // Those that time has ended.
            let idle = self.now.wrapping_sub(one.last_seen);
            one.most_idle().is_none_or(|most| idle <= most)
        });
        let protocol = sight.kind.protocol(local.is_ipv4());
        let others = self.on(sight.pod, (local, peer), protocol, ports);
        for &other in &others {
            self.conversations[other].is_shared = true;
        }
        self.conversations.push(Conversation {
            pod: sight.pod,
            local,
            peer,
            protocol,
            ports,
            by_pod: sight.sent,
            sender: sender.unwrap_or(Sender::Address),
            last_seen: self.now,
            answered: false,
            answers: 0..=0,
            confirmed: false,
            finished: [false; 2],
            unsure: matches!(sight.kind, Kind::Tcp(Segment::Fin | Segment::Rst)),
            is_shared: !others.is_empty(),
            sender_changed: false,
            peer_renewed: false,
            is_doubtful: false,
            revision: self.revision,
        });
    }

    fn move_on(&mut self, at: usize, sight: &Sight, by_opener: bool) {
        if !self.is_agreed(&self.conversations[at]) {
            return;
        }
        let one = &mut self.conversations[at];
        if sight.kind == Kind::Tcp(Segment::Syn) && !by_opener {
            // The other end opens on the same ports, which is a conversation of its own.
            one.unsure = true;
            return;
        }
        one.last_seen = self.now;
        one.revision = self.revision;
        one.peer_renewed = false;
        let Kind::Tcp(segment) = sight.kind else {
            one.answered |= !by_opener;
            return;
        };
        if !matches!(segment, Segment::Syn | Segment::Rst) {
            let (sequence, acknowledged) = sight.numbers;
            if by_opener {
                one.confirmed |= one.answered && one.answers.contains(&acknowledged);
            } else {
                one.note_answer(segment, sequence);
            }
        }
        match segment {
            Segment::Syn => {
                one.is_doubtful = false;
                if !one.answered || one.finished == [true, true] && !one.unsure {
                    one.finished = [false; 2];
                    one.answered = false;
                    one.confirmed = false;
                } else {
                    one.unsure = true;
                }
            }
            Segment::Rst => one.unsure = true,
            Segment::Fin => one.finished[usize::from(!by_opener)] = true,
            Segment::SynAck | Segment::Ack => {}
        }
    }
}
