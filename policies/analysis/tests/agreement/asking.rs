//! Asks both sides the same questions.

use std::collections::BTreeSet;
use std::net::IpAddr;

use cofferdam_compiler::{Compiled, Input, PolicyKind, RuleEntry, SlotEntry, SlotPlan, compile};
use cofferdam_documents as documents;
use cofferdam_inventory::{Inventory, Mode, ObjectName, Workload};
use cofferdam_oracle::{self as oracle, End, Oracle, Payload, Query, RuleName};
use cofferdam_syntax::diagnostic::Severity;
use cofferdam_verdict::capacity::Limits;
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::table::row_key;
use cofferdam_verdict::verdict::{Action, Direction, Verdict};

/// Step through the payloads for questions about outside addresses.
const OUTSIDE_STEP: usize = 5;

/// One world as either side sees it.
pub(crate) struct Sides {
    oracle: Oracle,
    inventory: Inventory,
    plan: SlotPlan,
    compiled: Compiled,
    /// An address that came after the table was made, and whose slot was then filled.
    late: Option<Late>,
    /// Selects the workloads that the table has as subjects.
    is_local: fn(&Workload) -> bool,
    texts: Vec<String>,
}

/// An address that came late.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Late {
    address: IpAddr,
    is_local: bool,
}

/// A workload's or another address, as policies see it on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// A workload of this node.
    Subject,
    /// A workload elsewhere: what it takes in from this node's is known.
    Elsewhere,
    /// A peer alone.
    Peer,
}

/// An end that is asked about.
#[derive(Clone, Debug)]
struct Asked {
    end: End,
    address: IpAddr,
    role: Role,
}

/// Half of the workloads.
pub(crate) fn even(workload: &Workload) -> bool {
    workload.name.name.ends_with(['0', '2', '4'])
}

/// The other half.
pub(crate) fn odd(workload: &Workload) -> bool {
    !even(workload)
}

impl Sides {
    pub(crate) fn new(texts: &[String]) -> Self {
        Self::of_node(texts, |_| true)
    }

    /// The table of a node that has some of the workloads.
    pub(crate) fn of_node(texts: &[String], is_local: fn(&Workload) -> bool) -> Self {
        Self::misread(texts, texts, is_local).expect("the documents are good")
    }

    /// The table of a node that is configured to enforce no policy.
    pub(crate) fn on_audit(texts: &[String]) -> Self {
        let mut sides = Self::new(texts);
        sides.inventory.set_enforcement(Mode::Audit);
        sides.compiled = table(&sides.inventory, &sides.plan, sides.is_local);
        sides.oracle = sides.oracle.on_audit();
        sides
    }

    /// The table of documents that somebody has misread, beside the oracle of what
    /// they say; `None` when some of them would have been refused.
    pub(crate) fn misread(
        texts: &[String],
        as_read: &[String],
        is_local: fn(&Workload) -> bool,
    ) -> Option<Self> {
        let inventory = assemble(texts).expect("the documents are good");
        let read = assemble(as_read)?;
        let plan = SlotPlan::assign(&read);
        let compiled = table(&read, &plan, is_local);
        Some(Self {
            oracle: Oracle::new(texts).unwrap(),
            inventory,
            plan,
            compiled,
            late: None,
            is_local,
            texts: texts.to_vec(),
        })
    }

    /// The same world for each address of a workload, where the table was made
    /// without that workload, if the table has a place for it, here or elsewhere; once
    /// with all and once with half of the others on this node.
    pub(crate) fn with_late_comers(&self) -> Vec<Self> {
        let localities: [fn(&Workload) -> bool; 2] = [|_| true, even];
        let mut worlds = Vec::new();
        for (name, workload) in self.inventory.workloads() {
            let mut before = self.inventory.clone();
            before.remove_workload(name);
            let plan = SlotPlan::assign(&before);
            let next = plan.successor(&self.inventory);
            for is_local in localities {
                let compiled = table(&before, &plan, is_local);
                let addresses = workload.own_addresses().iter();
                let late = addresses.flat_map(|address| {
                    [true, false].map(|is_local| Late {
                        address: *address,
                        is_local,
                    })
                });
                for late in late {
                    let Late {
                        address,
                        is_local: here,
                    } = late;
                    let place = compiled.place(&self.inventory, workload, address, here);
                    let Some((profile, _)) = place else {
                        continue;
                    };
                    let mut compiled = compiled.clone();
                    let slot = next.of(address).expect("the plan is of the inventory");
                    assert!(compiled.fill(SlotEntry { slot, profile }), "it is spare");
                    worlds.push(Self {
                        oracle: self.oracle.clone(),
                        inventory: self.inventory.clone(),
                        plan: next.clone(),
                        compiled,
                        late: Some(late),
                        is_local,
                        texts: self.texts.clone(),
                    });
                }
            }
        }
        worlds
    }

    pub(crate) fn compiled(&self) -> &Compiled {
        &self.compiled
    }

    /// The first question on which the sides do not agree.
    pub(crate) fn disagreement(&self) -> Option<String> {
        let ends = self.ends();
        let payloads = self.payloads();
        let pairs = ends.iter().flat_map(|s| ends.iter().map(move |d| (s, d)));
        for (number, (source, destination)) in pairs.enumerate() {
            let one_family = source.address.is_ipv4() == destination.address.is_ipv4();
            let same = source.end == destination.end && source.end != End::External;
            let is_judged = [source.role, destination.role].contains(&Role::Subject);
            if !one_family || same || !is_judged {
                continue;
            }
            if let Some(Late { address, .. }) = self.late {
                let pair = [source, destination];
                let is_late = |end: &&Asked| end.address == address;
                if !pair.iter().any(is_late) {
                    continue;
                }
                if !pair
                    .iter()
                    .all(|end| is_late(end) || self.knows(end.address))
                {
                    continue;
                }
            }
            // Outside addresses are many, and most of them alike: each is asked about
            // some of the payloads, and all of them about each.
            let outside = [source, destination].map(|asked| asked.end == End::External);
            let (first, step) = match outside.contains(&true) {
                true => (number % OUTSIDE_STEP, OUTSIDE_STEP),
                false => (0, 1),
            };
            for payload in payloads.iter().skip(first).step_by(step) {
                let query = Query {
                    source: source.end.clone(),
                    destination: destination.end.clone(),
                    source_address: source.address,
                    destination_address: destination.address,
                    payload: *payload,
                    own_node_allowed: false,
                };
                let answer = self.oracle.evaluate(&query);
                for direction in [Direction::Ingress, Direction::Egress] {
                    let found = self.compare(source, destination, direction, *payload, &answer);
                    if let Err(difference) = found {
                        return Some(format!("{query:?}, {direction:?}: {difference}"));
                    }
                }
            }
        }
        None
    }

    fn role(&self, workload: &Workload, address: IpAddr) -> Role {
        if workload.host_network || workload.finished {
            return Role::Peer;
        }
        let late = self.late.filter(|late| late.address == address);
        match late.map_or_else(|| (self.is_local)(workload), |late| late.is_local) {
            true => Role::Subject,
            false => Role::Elsewhere,
        }
    }

    /// Returns `true` if the table knows the owner of this address, or it has none.
    fn knows(&self, address: IpAddr) -> bool {
        let slot = self.plan.of(address);
        slot.is_none_or(|slot| self.compiled.profile(slot).is_some())
    }

    fn compare(
        &self,
        source: &Asked,
        destination: &Asked,
        direction: Direction,
        payload: Payload,
        answer: &oracle::Answer,
    ) -> Result<(), String> {
        let (subject, peer) = match direction {
            Direction::Ingress => (destination, source),
            Direction::Egress => (source, destination),
        };
        let is_decided = match subject.role {
            Role::Subject => true,
            Role::Elsewhere => direction == Direction::Ingress && peer.role == Role::Subject,
            Role::Peer => false,
        };
        if !is_decided {
            return Ok(());
        }
        let key = match payload {
            Payload::Port(protocol, port) => row_key(protocol, port),
            Payload::Icmp(protocol, kind, code) => {
                row_key(protocol, u16::from(kind) << 8 | u16::from(code))
            }
            Payload::Bare(protocol) => row_key(protocol, 0),
        };
        let profile = |asked: &Asked| {
            (self.compiled.slot_of(&self.plan, asked.address))
                .map(|(_, profile)| profile)
                .ok_or("an address without a slot")
        };
        let decision = self
            .compiled
            .decide(profile(subject)?, direction, profile(peer)?, key)
            .ok_or("the table contradicts itself")?;
        let side = |judgement: &oracle::Judgement| match direction {
            Direction::Ingress => judgement.ingress.clone(),
            Direction::Egress => judgement.egress.clone(),
        };
        self.compare_verdict(decision.enforced, &side(&answer.enforced))?;
        self.compare_verdict(decision.audited, &side(&answer.audited))
            .map_err(|difference| format!("audited: {difference}"))
    }

    fn compare_verdict(&self, verdict: Verdict, side: &oracle::Side) -> Result<(), String> {
        let rules = &self.compiled.rules;
        let expected = match side.reason {
            oracle::Reason::NotIsolated => (Action::Allow, Reason::NotIsolated, None),
            oracle::Reason::Rule => (action_of(side), Reason::Rule, side.rule.clone()),
            oracle::Reason::Isolated => (Action::Deny, Reason::Isolated, None),
            other => return Err(format!("the oracle says {other:?}")),
        };
        let rule = match verdict.reason {
            Reason::Rule => rules.rule(verdict.rule).map(name_of),
            _ => None,
        };
        let found = (verdict.action, verdict.reason, rule);
        if found != expected {
            return Err(format!("table {found:?}, oracle {expected:?}"));
        }
        let isolating: BTreeSet<RuleName> = match verdict.reason {
            Reason::Isolated => rules
                .isolated_by(verdict.rule)
                .map(|(_, e)| name_of(e))
                .collect(),
            _ => return Ok(()),
        };
        if isolating != side.isolating {
            return Err(format!("table {isolating:?}, oracle {:?}", side.isolating));
        }
        Ok(())
    }

    /// Every address of every workload and node, and outside addresses at both ends
    /// of every block.
    fn ends(&self) -> Vec<Asked> {
        let mut ends = Vec::new();
        for (name, workload) in self.inventory.workloads() {
            for address in &workload.addresses {
                if workload.finished && self.inventory.owner(*address).is_some() {
                    // Somebody else has it now, and is asked about.
                    continue;
                }
                ends.push(Asked {
                    end: if workload.finished {
                        End::External
                    } else {
                        pod(name)
                    },
                    address: *address,
                    role: self.role(workload, *address),
                });
            }
        }
        for (name, node) in self.inventory.nodes() {
            for address in &node.addresses {
                ends.push(Asked {
                    end: End::Node {
                        name: name.to_string(),
                    },
                    address: *address,
                    role: Role::Peer,
                });
            }
        }
        for address in self.outside_addresses() {
            if self.inventory.owner(address).is_none() {
                ends.push(Asked {
                    end: End::External,
                    address,
                    role: Role::Peer,
                });
            }
        }
        ends
    }

    fn outside_addresses(&self) -> BTreeSet<IpAddr> {
        let mut addresses: BTreeSet<IpAddr> = [
            "0.0.0.0",
            "255.255.255.255",
            "::",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ]
        .iter()
        .map(|a| a.parse().unwrap())
        .collect();
        let text = self.texts.join(" ");
        for word in text.split([' ', ',', '[', ']', '{', '}', '\'']) {
            let Ok(block) = word.parse::<ipnet::IpNet>() else {
                continue;
            };
            let (first, last) = (block.network(), block.broadcast());
            addresses.extend([before(first), first, last, after(last)]);
        }
        addresses
    }

    /// Every port that a document names with its neighbours, and what has no port.
    fn payloads(&self) -> Vec<Payload> {
        let text = self.texts.join(" ");
        let mut ports = BTreeSet::from([0, 65535]);
        for word in ["ort: ", "number: ", "start: ", "end: "] {
            for (before, _) in text.match_indices(word) {
                let digits: String = text[before + word.len()..]
                    .chars()
                    .take_while(char::is_ascii_digit)
                    .collect();
                if let Ok(port) = digits.parse::<u16>() {
                    ports.extend([port.saturating_sub(1), port, port.saturating_add(1)]);
                }
            }
        }
        let mut payloads: Vec<Payload> = ports
            .iter()
            .flat_map(|port| [6, 17, 132].map(|protocol| Payload::Port(protocol, *port)))
            .collect();
        payloads.extend([
            Payload::Icmp(1, 8, 0),
            Payload::Icmp(58, 128, 0),
            Payload::Bare(0),
            Payload::Bare(5),
            Payload::Bare(255),
        ]);
        payloads
    }
}

/// The desired state of files; `None` when one of their documents is refused.
fn assemble(files: &[String]) -> Option<Inventory> {
    let mut documents = Vec::new();
    for (i, text) in files.iter().enumerate() {
        let parsed = documents::parse(&format!("{i}.yaml"), text.as_bytes());
        let mut diagnostics = parsed.diagnostics.iter();
        if diagnostics.any(|d| d.severity == Severity::Error) {
            return None;
        }
        documents.extend(parsed.documents);
    }
    let assembled = documents::assemble(documents);
    assembled.rejected.is_empty().then_some(assembled.inventory)
}

fn pod(name: &ObjectName) -> End {
    End::Pod {
        namespace: name.namespace.to_string(),
        name: name.name.to_string(),
    }
}

fn action_of(side: &oracle::Side) -> Action {
    match side.action {
        oracle::Action::Allow => Action::Allow,
        oracle::Action::Deny => Action::Deny,
    }
}

fn name_of(entry: &RuleEntry) -> RuleName {
    RuleName {
        namespace: match entry.key.kind {
            PolicyKind::NetworkPolicy => Some(entry.key.policy.namespace.to_string()),
            PolicyKind::ClusterNetworkPolicy => None,
        },
        name: entry.key.policy.name.to_string(),
        direction: match entry.key.direction {
            Direction::Ingress => oracle::Direction::Ingress,
            Direction::Egress => oracle::Direction::Egress,
        },
        index: entry.key.index.map(|index| index as usize),
    }
}

fn table(inventory: &Inventory, plan: &SlotPlan, is_local: fn(&Workload) -> bool) -> Compiled {
    compile(&Input {
        inventory,
        slots: plan,
        is_local: &is_local,
        own_node: None,
        limits: Limits {
            slots: 256,
            ..Limits::default()
        },
        revision: 1,
    })
    .unwrap()
}

/// The address before, from the first to the last.
fn before(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4(u32::from(v4).wrapping_sub(1).into()),
        IpAddr::V6(v6) => IpAddr::V6(u128::from(v6).wrapping_sub(1).into()),
    }
}

/// The address after, from the last to the first.
fn after(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4(u32::from(v4).wrapping_add(1).into()),
        IpAddr::V6(v6) => IpAddr::V6(u128::from(v6).wrapping_add(1).into()),
    }
}
