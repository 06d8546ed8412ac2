//! The order in which a packet meets the steps of a verdict.
//!
//! [`walk`] is the one place that knows it: the kernel programs and user space run it
//! over their own [`Steps`]. In the programs each step is a global function, which the
//! verifier checks by itself: without these cuts every way through the headers is
//! followed through every way through the tables, and a million instructions do not
//! suffice.
//!
//! 0. [`Steps::hurry`] passes plain packets of established flows; it comes before there is
//!    a case, and [`walk`] begins behind it.
//! 1. [`Steps::inspect`] reads the headers; many packets are decided by them.
//! 2. [`Steps::signal`] decides what hosts say to find each other.
//! 3. [`Steps::follow`] settles a later fragment by its first one.
//! 4. [`Steps::track`] settles a packet of a live flow.
//! 5. [`Steps::relate`] settles an ICMP error about a live flow. Where another processor
//!    changes the entry that one of these three needs, or the flow's partition grows, it is
//!    asked again.
//! 6. [`Steps::answer`] asks policy about the rest; about a TCP segment that opens
//!    nothing, [`Steps::adopt`] may have it asked about the other direction. Where policy
//!    denies, [`Steps::waive`] may have it asked about one end, or none.
//! 7. [`Steps::choose`] and [`Steps::remember`] make, renew or end the flow. About a packet
//!    whose flow finds no room, policy is asked about the other direction, too.
//! 8. [`Steps::hold`] remembers an allowed first fragment for the later ones.
//! 9. [`Steps::count`] counts the rules that decided, where policy was asked.
//!
//! A probe is judged by steps 1, 2 and 6 alone: it reads no flow and leaves no trace.

use crate::{
    bypass,
    case::{Case, Context, mark},
    checksum::PartialChecksum,
    counter::Hook,
    flow::{self, Aside, Glance},
    fragment, hits,
    judge::{self, Inspected},
    memory::FlowMemory,
    packet::{self, Frame},
    related, uplink,
};

/// Steps of a packet, in order. Each reads the case and writes its answer there.
pub trait Steps {
    /// Passes a plain packet of an established flow, and returns the stamp that it gets;
    /// `None` if the packet must go the long way. Never asked about probes.
    fn hurry(&self) -> Option<u32>;
    /// Reads the packet's headers into a blank case.
    fn inspect(&self, case: &mut Case) -> Inspected;
    /// Decides a packet that may be signalling, or leaves it open.
    fn signal(&self, case: &mut Case) -> Inspected;
    /// Looks for the first fragment of a later one.
    fn follow(&self, case: &mut Case);
    /// Looks for the packet's flow.
    fn track(&self, case: &mut Case);
    /// Looks for the flow of the packet that an ICMP error quotes.
    fn relate(&self, case: &mut Case);
    /// Asks policy.
    fn answer(&self, case: &mut Case);
    /// Marks the ends that policy may deny nothing; `false` when there are none.
    fn waive(&self, case: &mut Case) -> bool;
    /// Turns the case round, so that policy is asked about the other direction; `false`
    /// when nothing is to be asked.
    fn adopt(&self, case: &mut Case) -> bool;
    /// Chooses a place for a flow.
    fn choose(&self, case: &mut Case);
    /// Writes the flow down.
    fn remember(&self, case: &mut Case);
    /// Remembers an allowed first fragment.
    fn hold(&self, case: &mut Case);
    /// Counts the rules that decided.
    fn count(&self, case: &mut Case);
}

/// Judges a packet. Returns `true` if policy was asked.
#[inline(always)]
pub fn walk<S: Steps>(steps: &S, case: &mut Case, is_probe: bool) -> bool {
    if matches!(steps.inspect(case), Inspected::Decided) {
        return false;
    }
    if case.is(mark::SIGNALLING) && matches!(steps.signal(case), Inspected::Decided) {
        return false;
    }
    if !is_probe {
        let mut reads = 0;
        loop {
            if case.is(mark::LATER) {
                steps.follow(case);
            } else if case.is(mark::ERROR) {
                steps.relate(case);
            } else {
                steps.track(case);
            }
            reads += 1;
            if !case.reads_again(reads) {
                break;
            }
        }
    }
    let asked = !case.is_settled();
    if asked {
        steps.answer(case);
        if case.is_denied_by_policy() && !is_probe && steps.waive(case) {
            steps.answer(case);
        }
        if case.is_midstream() {
            ask_back(steps, case);
        }
        let mut attempt = 0;
        while case.is_tracked() && attempt < flow::ATTEMPTS {
            steps.choose(case);
            if case.asks_back() {
                ask_back(steps, case);
            }
            steps.remember(case);
            attempt += 1;
        }
        flow::give_up(case);
    }
    if case.is(mark::FIRST) && !is_probe && case.is_allowed() {
        steps.hold(case);
    }
    if asked && !is_probe {
        steps.count(case);
    }
    case.mark_undecided();
    asked
}

/// Asks policy about the other direction of a packet, if the answer counts.
#[inline(always)]
fn ask_back<S: Steps>(steps: &S, case: &mut Case) {
    let aside = Aside::of(case);
    if steps.adopt(case) {
        steps.answer(case);
        aside.restore(case);
    }
}

/// The steps over ordinary memory: what the host runs.
#[derive(Debug)]
pub struct Host<'a, M, F> {
    /// The shared memory.
    pub memory: &'a M,
    /// The packet.
    pub frame: &'a F,
    /// Context that the kernel would give with the packet.
    pub context: &'a Context,
    /// The hook that it is on.
    pub hook: Hook,
}

/// Most words that the short way reads at once: an IPv6 header.
const MAX_GLANCE: usize = 10;

/// Words of a frame in user space.
#[derive(Debug)]
pub struct HostWords([u32; MAX_GLANCE]);

impl flow::Words for HostWords {
    fn word(&self, number: usize) -> u32 {
        self.0.get(number).copied().unwrap_or_default()
    }
}

impl<M: FlowMemory, F: Frame> Glance for Host<'_, M, F> {
    type Words = HostWords;

    fn words<const N: usize>(&self, offset: u32) -> Option<Self::Words> {
        let mut words = [0; MAX_GLANCE];
        for (at, word) in (offset..).step_by(4).zip(words.iter_mut().take(N)) {
            *word = u32::from_be_bytes(self.frame.read(at)?);
        }
        Some(HostWords(words))
    }

    fn length(&self) -> u32 {
        self.frame.length()
    }

    fn is_gso(&self) -> bool {
        self.frame.is_gso()
    }

    fn partial_checksum(&self) -> Option<PartialChecksum> {
        self.frame.partial_checksum()
    }

    fn ifindex(&self) -> u32 {
        self.context.ifindex
    }

    fn ingress_ifindex(&self) -> u32 {
        self.context.ingress_ifindex
    }

    fn stamp(&self) -> u32 {
        self.context.stamp
    }

    fn is_tagged(&self) -> bool {
        self.context.tagged
    }

    fn has_socket(&self) -> bool {
        self.context.has_socket
    }
}

impl<M: FlowMemory, F: Frame> Steps for Host<'_, M, F> {
    fn hurry(&self) -> Option<u32> {
        match self.hook {
            Hook::UplinkEgress => None,
            hook => flow::hurry(self.memory, self, hook),
        }
    }

    fn inspect(&self, case: &mut Case) -> Inspected {
        if !matches!(self.hook, Hook::UplinkEgress) {
            return judge::inspect(self.memory, self.frame, self.context, self.hook, case);
        }
        let ethertype = packet::ethernet(self.frame).map_or(0, |ethernet| ethernet.ethertype);
        uplink::inspect(self.memory, self.frame, ethertype, self.context.stamp, case)
    }

    fn signal(&self, case: &mut Case) -> Inspected {
        judge::signal(self.memory, self.frame, case)
    }

    fn follow(&self, case: &mut Case) {
        fragment::follow(self.memory, case);
    }

    fn track(&self, case: &mut Case) {
        flow::track(self.memory, case);
    }

    fn relate(&self, case: &mut Case) {
        related::relate(self.memory, self.frame, case);
    }

    fn answer(&self, case: &mut Case) {
        match self.hook {
            Hook::UplinkEgress => uplink::answer(self.memory, case),
            _ => judge::answer(self.memory, case),
        }
    }

    fn waive(&self, case: &mut Case) -> bool {
        bypass::is_any(self.memory) && bypass::waive(self.memory, case)
    }

    fn adopt(&self, case: &mut Case) -> bool {
        flow::adopt(self.memory, case)
    }

    fn choose(&self, case: &mut Case) {
        flow::choose(self.memory, case);
    }

    fn remember(&self, case: &mut Case) {
        flow::remember(self.memory, case);
    }

    fn hold(&self, case: &mut Case) {
        fragment::hold(self.memory, case);
    }

    fn count(&self, case: &mut Case) {
        hits::count(self.memory, case, self.hook);
    }
}

/// Judges a frame as the programs do: what belongs to an allowed flow passes, and
/// what is allowed becomes a flow.
pub fn judge_flow<M: FlowMemory, F: Frame>(
    memory: &M,
    frame: &F,
    context: &Context,
    hook: Hook,
) -> Case {
    let mut case = Case::blank(hook, frame.length());
    let steps = Host {
        memory,
        frame,
        context,
        hook,
    };
    let hurried = if context.is_probe() {
        None
    } else {
        steps.hurry()
    };
    if let Some(stamp) = hurried {
        case.pass_hurried(stamp);
    } else {
        walk(&steps, &mut case, context.is_probe());
    }
    case
}
