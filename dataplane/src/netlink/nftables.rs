//! The guard: a rule of nftables that drops what comes in by veths nobody has adopted.
//!
//! The first packets of a process that runs in a namespace before its interface is adopted
//! would pass unjudged. A chain at the earliest hook of each family drops packets of every
//! veth whose name and index are not in a set; a veth goes into the set when programs judge
//! on it. The rules stand without an agent, and whatever comes up then is dropped.
//!
//! ```text
//! table inet cofferdam_guard {
//!   set adopted { typeof iifname . iif }
//!   chain guard {
//!     type filter hook prerouting priority -500
//!     iifkind "veth" iifname . iif != @adopted counter drop
//!   }
//! }
//! ```
//!
//! The same stands in `bridge`, which sees frames between the ports of a bridge, and `arp`.
//! Index and name together: the kernel gives an index that has become free to another
//! interface. Source of the layout: `linux/netfilter/nf_tables.h`.

use std::{collections::BTreeSet, io};

use libc::{
    NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END, NFNL_SUBSYS_NFTABLES, NFPROTO_ARP, NFPROTO_BRIDGE,
    NFPROTO_INET, NFT_CMP_EQ, NFT_LOOKUP_F_INV, NFT_META_IIF, NFT_META_IIFNAME, NFT_MSG_DELSETELEM,
    NFT_MSG_DELTABLE, NFT_MSG_GETCHAIN, NFT_MSG_GETGEN, NFT_MSG_GETRULE, NFT_MSG_GETSETELEM,
    NFT_MSG_NEWCHAIN, NFT_MSG_NEWGEN, NFT_MSG_NEWRULE, NFT_MSG_NEWSET, NFT_MSG_NEWSETELEM,
    NFT_MSG_NEWTABLE, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST,
};
use nix::sys::socket::SockProtocol;

use super::{Request, attribute, attributes, word};

const TABLE: &[u8] = b"cofferdam_guard\0";
const CHAIN: &[u8] = b"guard\0";
const SET: &[u8] = b"adopted\0";

/// Families whose packets are dropped, with the hook that they meet first: prerouting, and
/// input for ARP.
const FAMILIES: [i32; 3] = [NFPROTO_INET, NFPROTO_BRIDGE, NFPROTO_ARP];
/// Before defragmentation (-400) and everything that others may put there.
const PRIORITY: i32 = -500;
/// `NFT_META_IIFKIND`.
const META_IIFKIND: i32 = 26;
/// Registers of 16 bytes: `NFT_REG_1`, `NFT_REG_2`.
const REGISTERS: [u32; 2] = [1, 2];
/// `IFNAMSIZ`.
const NAME_BYTES: usize = 16;
const KEY_BYTES: usize = NAME_BYTES + 4;
/// Type of the set's keys as nft(8) shows them: an interface's name, then its index.
const KEY_TYPE: u32 = 41 << 6 | 20;
/// Elements in one message: the length of an attribute is 16 bits.
const ELEMENTS_AT_ONCE: usize = 500;

/// Attributes, by what they describe.
mod nfta {
    pub(super) const LIST_ELEM: u16 = 1;
    pub(super) const DATA_VALUE: u16 = 1;
    pub(super) const DATA_VERDICT: u16 = 2;
    pub(super) const VERDICT_CODE: u16 = 1;

    pub(super) const TABLE_NAME: u16 = 1;

    pub(super) const CHAIN_TABLE: u16 = 1;
    pub(super) const CHAIN_NAME: u16 = 3;
    pub(super) const CHAIN_HOOK: u16 = 4;
    pub(super) const CHAIN_POLICY: u16 = 5;
    pub(super) const CHAIN_TYPE: u16 = 7;
    pub(super) const HOOK_NUMBER: u16 = 1;
    pub(super) const HOOK_PRIORITY: u16 = 2;

    pub(super) const SET_TABLE: u16 = 1;
    pub(super) const SET_NAME: u16 = 2;
    pub(super) const SET_FLAGS: u16 = 3;
    pub(super) const SET_KEY_TYPE: u16 = 4;
    pub(super) const SET_KEY_LEN: u16 = 5;
    pub(super) const SET_ID: u16 = 10;

    pub(super) const ELEMENTS_TABLE: u16 = 1;
    pub(super) const ELEMENTS_SET: u16 = 2;
    pub(super) const ELEMENTS: u16 = 3;
    pub(super) const ELEMENT_KEY: u16 = 1;

    pub(super) const RULE_TABLE: u16 = 1;
    pub(super) const RULE_CHAIN: u16 = 2;
    pub(super) const RULE_EXPRESSIONS: u16 = 4;
    pub(super) const EXPRESSION_NAME: u16 = 1;
    pub(super) const EXPRESSION_DATA: u16 = 2;

    pub(super) const META_REGISTER: u16 = 1;
    pub(super) const META_KEY: u16 = 2;
    pub(super) const CMP_REGISTER: u16 = 1;
    pub(super) const CMP_OPERATION: u16 = 2;
    pub(super) const CMP_DATA: u16 = 3;
    pub(super) const LOOKUP_SET: u16 = 1;
    pub(super) const LOOKUP_REGISTER: u16 = 2;
    pub(super) const LOOKUP_FLAGS: u16 = 5;
    pub(super) const COUNTER_BYTES: u16 = 1;
    pub(super) const COUNTER_PACKETS: u16 = 2;
    pub(super) const IMMEDIATE_REGISTER: u16 = 1;
    pub(super) const IMMEDIATE_DATA: u16 = 2;

    pub(super) const GENERATION: u16 = 1;
}

/// A veth that may send.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AdoptedInterface {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
}

impl AdoptedInterface {
    fn key(&self) -> [u8; KEY_BYTES] {
        let mut key = [0; KEY_BYTES];
        let (name, index) = key.split_at_mut(NAME_BYTES);
        // The last byte stays 0, as the kernel's names have it.
        for (to, from) in name[..NAME_BYTES - 1].iter_mut().zip(self.name.bytes()) {
            *to = from;
        }
        index.copy_from_slice(&self.ifindex.to_ne_bytes());
        key
    }
}

/// An expression of a rule: its name, and its data but for counts.
type Expression = (Vec<u8>, Vec<u8>);

/// The rules that drop packets of veths nobody has adopted, in the caller's network namespace.
#[derive(Debug)]
pub struct Guard {
    adopted: BTreeSet<AdoptedInterface>,
    /// The kernel's account of the chains and rules when they had been put there.
    standing: Vec<Standing>,
    /// The kernel's number of all rules, when they were last looked at.
    generation: u32,
}

/// Chains and rules of one family.
#[derive(Debug, PartialEq, Eq)]
struct Standing {
    chains: Vec<Vec<u8>>,
    rules: Vec<Vec<Expression>>,
}

impl Guard {
    /// Puts the rules there at once, in place of what an agent before may have left.
    ///
    /// # Errors
    ///
    /// Fails if the kernel has no nftables in one of the families, or refuses.
    pub fn install(adopted: BTreeSet<AdoptedInterface>) -> io::Result<Self> {
        let mut batch = Batch::new();
        for family in FAMILIES {
            // Deleting what is not there fails: it is there after the first of these.
            batch.add(NFT_MSG_NEWTABLE, family, NLM_F_CREATE, table);
            batch.add(NFT_MSG_DELTABLE, family, 0, table);
            batch.add(NFT_MSG_NEWTABLE, family, NLM_F_CREATE, table);
            batch.add(NFT_MSG_NEWCHAIN, family, NLM_F_CREATE, chain);
            batch.add(NFT_MSG_NEWSET, family, NLM_F_CREATE, set);
            batch.elements(NFT_MSG_NEWSETELEM, family, adopted.iter());
            batch.add(NFT_MSG_NEWRULE, family, NLM_F_CREATE | NLM_F_APPEND, rule);
        }
        batch.send()?;
        let mut guard = Self {
            adopted,
            standing: Vec::new(),
            generation: 0,
        };
        guard.generation = generation()?;
        guard.standing = standing()?;
        Ok(guard)
    }

    /// Lets these veths send, and no others.
    ///
    /// # Errors
    ///
    /// Fails if the kernel refuses: then the veths of before may send, and no others.
    pub fn adopt(&mut self, adopted: BTreeSet<AdoptedInterface>) -> io::Result<()> {
        if self.adopted == adopted {
            return Ok(());
        }
        let mut batch = Batch::new();
        for family in FAMILIES {
            let gone = self.adopted.difference(&adopted);
            batch.elements(NFT_MSG_DELSETELEM, family, gone);
            let new = adopted.difference(&self.adopted);
            batch.elements(NFT_MSG_NEWSETELEM, family, new);
        }
        batch.send()?;
        self.adopted = adopted;
        Ok(())
    }

    /// The veths that may send.
    #[must_use]
    pub fn adopted(&self) -> &BTreeSet<AdoptedInterface> {
        &self.adopted
    }

    /// Returns `true` if the rules are as they were put there. Nothing is read while nobody
    /// has changed any rule.
    ///
    /// # Errors
    ///
    /// Fails if the kernel does not tell.
    pub fn stands(&mut self) -> io::Result<bool> {
        let now = generation()?;
        if now == self.generation {
            return Ok(true);
        }
        if standing()? != self.standing {
            return Ok(false);
        }
        let expected: BTreeSet<_> = self.adopted.iter().map(AdoptedInterface::key).collect();
        for family in FAMILIES {
            if elements(family)? != expected {
                return Ok(false);
            }
        }
        self.generation = now;
        Ok(true)
    }

    /// Takes the rules away, whoever put them there; nothing if there are none.
    ///
    /// # Errors
    ///
    /// Fails if the kernel refuses.
    pub fn remove() -> io::Result<()> {
        for family in FAMILIES {
            let mut batch = Batch::new();
            batch.add(NFT_MSG_DELTABLE, family, 0, table);
            match batch.send() {
                // There is no such table, or no nftables.
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(
                            libc::ENOENT | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EINVAL
                        )
                    ) => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// Packets that the rules have dropped since they were put there.
    ///
    /// # Errors
    ///
    /// Fails if the kernel does not tell.
    pub fn dropped() -> io::Result<u64> {
        let mut dropped = 0;
        for family in FAMILIES {
            list(NFT_MSG_GETRULE, NFT_MSG_NEWRULE, family, |attributes| {
                for (name, data) in expressions(attributes) {
                    let packets = attribute(data, nfta::COUNTER_PACKETS);
                    if name == b"counter\0"
                        && let Some(packets) = packets.and_then(|packets| packets.first_chunk())
                    {
                        dropped += u64::from_be_bytes(*packets);
                    }
                }
            })?;
        }
        Ok(dropped)
    }
}

fn table(request: &mut Request) {
    request.attribute(nfta::TABLE_NAME, TABLE);
}

fn chain(request: &mut Request) {
    // `NF_INET_PRE_ROUTING`, `NF_BR_PRE_ROUTING` and `NF_ARP_IN` are all 0.
    const FIRST_HOOK: u32 = 0;
    const NF_ACCEPT: u32 = 1;
    request.attribute(nfta::CHAIN_TABLE, TABLE);
    request.attribute(nfta::CHAIN_NAME, CHAIN);
    request.nested(nfta::CHAIN_HOOK, |hook| {
        hook.number(nfta::HOOK_NUMBER, FIRST_HOOK);
        hook.number(nfta::HOOK_PRIORITY, PRIORITY.cast_unsigned());
    });
    request.number(nfta::CHAIN_POLICY, NF_ACCEPT);
    request.attribute(nfta::CHAIN_TYPE, b"filter\0");
}

fn set(request: &mut Request) {
    request.attribute(nfta::SET_TABLE, TABLE);
    request.attribute(nfta::SET_NAME, SET);
    request.number(nfta::SET_FLAGS, 0);
    request.number(nfta::SET_KEY_TYPE, KEY_TYPE);
    request.number(nfta::SET_KEY_LEN, KEY_BYTES as u32);
    request.number(nfta::SET_ID, 1);
}

fn rule(request: &mut Request) {
    const NF_DROP: u32 = 0;
    const NFT_REG_VERDICT: u32 = 0;
    let [first, second] = REGISTERS;
    let mut kind = [0; NAME_BYTES];
    kind[..4].copy_from_slice(b"veth");
    let expression = |list: &mut Request, name: &[u8], data: &dyn Fn(&mut Request)| {
        list.nested(nfta::LIST_ELEM, |element| {
            element.attribute(nfta::EXPRESSION_NAME, name);
            element.nested(nfta::EXPRESSION_DATA, data);
        });
    };
    let meta = |list: &mut Request, key: i32, register: u32| {
        expression(list, b"meta\0", &|data| {
            data.number(nfta::META_REGISTER, register);
            data.number(nfta::META_KEY, key.cast_unsigned());
        });
    };
    request.attribute(nfta::RULE_TABLE, TABLE);
    request.attribute(nfta::RULE_CHAIN, CHAIN);
    request.nested(nfta::RULE_EXPRESSIONS, |list| {
        meta(list, META_IIFKIND, first);
        expression(list, b"cmp\0", &|data| {
            data.number(nfta::CMP_REGISTER, first);
            data.number(nfta::CMP_OPERATION, NFT_CMP_EQ.cast_unsigned());
            data.nested(nfta::CMP_DATA, |value| {
                value.attribute(nfta::DATA_VALUE, &kind);
            });
        });
        meta(list, NFT_META_IIFNAME, first);
        meta(list, NFT_META_IIF, second);
        expression(list, b"lookup\0", &|data| {
            data.attribute(nfta::LOOKUP_SET, SET);
            data.number(nfta::LOOKUP_REGISTER, first);
            data.number(nfta::LOOKUP_FLAGS, NFT_LOOKUP_F_INV.cast_unsigned());
        });
        expression(list, b"counter\0", &|data| {
            data.attribute(nfta::COUNTER_BYTES, &[0; 8]);
            data.attribute(nfta::COUNTER_PACKETS, &[0; 8]);
        });
        expression(list, b"immediate\0", &|data| {
            data.number(nfta::IMMEDIATE_REGISTER, NFT_REG_VERDICT);
            data.nested(nfta::IMMEDIATE_DATA, |value| {
                value.nested(nfta::DATA_VERDICT, |verdict| {
                    verdict.number(nfta::VERDICT_CODE, NF_DROP);
                });
            });
        });
    });
}

/// Expressions of a rule, in order: names and data.
fn expressions(rule: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let list = attribute(rule, nfta::RULE_EXPRESSIONS).unwrap_or_default();
    attributes(list).map(|(_, element)| {
        let part = |kind| attribute(element, kind).unwrap_or_default();
        (part(nfta::EXPRESSION_NAME), part(nfta::EXPRESSION_DATA))
    })
}

/// The kernel's number of all rules of the namespace: it moves with each change.
fn generation() -> io::Result<u32> {
    let mut request = Request::new(SockProtocol::NetlinkNetFilter, kind(NFT_MSG_GETGEN), 0);
    request.put(&family_header(0, 0));
    let mut generation = None;
    request.send()?.each(|message| {
        if message.kind == kind(NFT_MSG_NEWGEN) {
            let attributes = message.body.get(HEADER_BYTES..).unwrap_or_default();
            let number = attribute(attributes, nfta::GENERATION);
            generation = number.and_then(word).map(u32::from_be);
        }
    })?;
    generation.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

fn standing() -> io::Result<Vec<Standing>> {
    let of_family = |family| {
        let (mut chains, mut rules) = (Vec::new(), Vec::new());
        list(NFT_MSG_GETCHAIN, NFT_MSG_NEWCHAIN, family, |attributes| {
            chains.push(attributes.to_vec());
        })?;
        list(NFT_MSG_GETRULE, NFT_MSG_NEWRULE, family, |attributes| {
            let expressions = expressions(attributes).map(|(name, data)| {
                let counts = name == b"counter\0";
                let data = if counts { Vec::new() } else { data.to_vec() };
                (name.to_vec(), data)
            });
            rules.push(expressions.collect());
        })?;
        Ok(Standing { chains, rules })
    };
    FAMILIES.into_iter().map(of_family).collect()
}

/// Keys of the set.
fn elements(family: i32) -> io::Result<BTreeSet<[u8; KEY_BYTES]>> {
    let mut keys = BTreeSet::new();
    let mut request = dump(NFT_MSG_GETSETELEM, family);
    request.attribute(nfta::ELEMENTS_TABLE, TABLE);
    request.attribute(nfta::ELEMENTS_SET, SET);
    let listed = request.send()?.each(|message| {
        let body = message.body.get(HEADER_BYTES..).unwrap_or_default();
        let list = attribute(body, nfta::ELEMENTS).unwrap_or_default();
        keys.extend(attributes(list).filter_map(|(_, element)| {
            let key = attribute(element, nfta::ELEMENT_KEY)?;
            let key: Option<&[u8; KEY_BYTES]> = attribute(key, nfta::DATA_VALUE)?.first_chunk();
            key.copied()
        }));
    });
    match listed {
        // The set has gone.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(BTreeSet::new()),
        listed => listed.map(|()| keys),
    }
}

/// Hands over the attributes of all our chains or rules in a family.
fn list(question: i32, answer: i32, family: i32, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    dump(question, family).send()?.each(|message| {
        let body = message.body.get(HEADER_BYTES..).unwrap_or_default();
        // Of chains and rules alike the first attribute names the table.
        if message.kind == kind(answer) && attribute(body, nfta::RULE_TABLE) == Some(TABLE) {
            take(body);
        }
    })
}

fn dump(question: i32, family: i32) -> Request {
    let mut request = Request::new(SockProtocol::NetlinkNetFilter, kind(question), NLM_F_DUMP);
    request.put(&family_header(family, 0));
    request
}

/// Bytes of a `struct nfgenmsg`.
const HEADER_BYTES: usize = 4;

fn family_header(family: i32, resource: u16) -> [u8; HEADER_BYTES] {
    let [high, low] = resource.to_be_bytes();
    [family as u8, 0, high, low]
}

/// The message's type within netfilter's.
fn kind(message: i32) -> u16 {
    (NFNL_SUBSYS_NFTABLES << 8 | message) as u16
}

/// Changes that take effect together or not at all.
struct Batch {
    request: Request,
    /// Number of the last message; the kernel answers each by its number.
    sequence: u32,
}

impl Batch {
    fn new() -> Self {
        let mut batch = Self {
            request: Request {
                protocol: SockProtocol::NetlinkNetFilter,
                bytes: Vec::with_capacity(4096),
            },
            sequence: 0,
        };
        batch.bound(NFNL_MSG_BATCH_BEGIN);
        batch
    }

    /// Begins or ends the batch.
    fn bound(&mut self, message: i32) {
        let start = self.request.bytes.len();
        (self.request).header(message as u16, NLM_F_REQUEST as u16, self.sequence);
        let resource = NFNL_SUBSYS_NFTABLES as u16;
        self.request.put(&family_header(0, resource));
        self.request.close(start);
    }

    fn add(&mut self, message: i32, family: i32, flags: i32, content: impl FnOnce(&mut Request)) {
        let start = self.request.bytes.len();
        self.sequence += 1;
        let flags = (flags | NLM_F_REQUEST | NLM_F_ACK) as u16;
        self.request.header(kind(message), flags, self.sequence);
        self.request.put(&family_header(family, 0));
        content(&mut self.request);
        self.request.close(start);
    }

    fn elements<'a>(
        &mut self,
        message: i32,
        family: i32,
        interfaces: impl Iterator<Item = &'a AdoptedInterface>,
    ) {
        let keys: Vec<_> = interfaces.map(AdoptedInterface::key).collect();
        let flags = match message {
            NFT_MSG_NEWSETELEM => NLM_F_CREATE,
            _ => 0,
        };
        for keys in keys.chunks(ELEMENTS_AT_ONCE) {
            self.add(message, family, flags, |request| {
                request.attribute(nfta::ELEMENTS_TABLE, TABLE);
                request.attribute(nfta::ELEMENTS_SET, SET);
                request.nested(nfta::ELEMENTS, |list| {
                    for key in keys {
                        list.nested(nfta::LIST_ELEM, |element| {
                            element.nested(nfta::ELEMENT_KEY, |value| {
                                value.attribute(nfta::DATA_VALUE, key);
                            });
                        });
                    }
                });
            });
        }
    }

    fn send(mut self) -> io::Result<()> {
        if self.sequence == 0 {
            return Ok(());
        }
        self.bound(NFNL_MSG_BATCH_END);
        let last = self.sequence;
        let answer = self.request.send_closed()?;
        answer.each_until(last)
    }
}
