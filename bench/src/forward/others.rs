//! Firewalls that Cofferdam is held against: rules of the kernel's own packet filters, put up
//! by the tools that users have.

use std::{
    fmt::Write as _,
    io::Write as _,
    net::IpAddr,
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};
use cofferdam_tests::world::Namespace;

use super::PORT;

/// Addresses of a large set.
const MANY: u32 = 100_000;

/// A firewall of the node. What is `tracked` lets packets of known connections pass first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Other {
    /// So many nftables rules that do not match, then one that does.
    NftLinear(u32),
    /// A map from source address to verdict.
    NftMap { tracked: bool },
    /// So many iptables rules that do not match, then one that does.
    IptablesLinear(u32),
    /// One iptables rule about a set of source addresses.
    Ipset { tracked: bool },
}

impl Other {
    /// Its name in results.
    pub(super) fn name(self) -> String {
        let suffix = |tracked| if tracked { "_ct" } else { "" };
        match self {
            Self::NftLinear(rules) => format!("nft_linear_{rules}"),
            Self::NftMap { tracked } => format!("nft_map_100k{}", suffix(tracked)),
            Self::IptablesLinear(rules) => format!("ipt_linear_{rules}"),
            Self::Ipset { tracked } => format!("ipset_100k{}", suffix(tracked)),
        }
    }

    /// Tries its tools and the kernel's part, in a namespace that is gone afterwards.
    pub(super) fn probe(self) -> anyhow::Result<()> {
        let small = match self {
            Self::NftLinear(_) => Self::NftLinear(1),
            Self::IptablesLinear(_) => Self::IptablesLinear(1),
            Self::NftMap { .. } | Self::Ipset { .. } => self,
        };
        let nobody = [1, 2].map(|last| IpAddr::from([127, 0, 0, last]));
        small.put_up(&Namespace::new()?, nobody, 1)
    }

    /// Puts it up in a node's namespace, so that these addresses may talk.
    pub(super) fn stand(self, node: &Namespace, ends: [IpAddr; 2]) -> anyhow::Result<()> {
        self.put_up(node, ends, MANY)
    }

    fn put_up(self, node: &Namespace, ends: [IpAddr; 2], many: u32) -> anyhow::Result<()> {
        match self {
            Self::NftLinear(rules) => {
                let mut chain = String::new();
                for source in others(rules) {
                    line(
                        &mut chain,
                        &format!("ip saddr {source} udp dport {PORT} drop"),
                    );
                }
                nft(node, "", &(chain + "accept\n"))
            }
            Self::NftMap { tracked } => {
                let mut map = String::from("map m { type ipv4_addr : verdict; elements = {");
                for source in others(many).chain(ends) {
                    write!(map, "{source} : accept, ").expect("writing to a string");
                }
                line(&mut map, "} }");
                let known = if tracked {
                    "ct state established accept\n"
                } else {
                    ""
                };
                nft(node, &map, &format!("{known}ip saddr vmap @m\n"))
            }
            Self::IptablesLinear(rules) => {
                let mut chain = String::new();
                for source in others(rules) {
                    let rule = format!("-A FORWARD -s {source} -p udp --dport {PORT} -j DROP");
                    line(&mut chain, &rule);
                }
                iptables(node, &(chain + "-A FORWARD -j ACCEPT\n"))
            }
            Self::Ipset { tracked } => {
                let mut set = String::from("create s hash:ip maxelem 131072\n");
                for source in others(many).chain(ends) {
                    line(&mut set, &format!("add s {source}"));
                }
                tell(node, "ipset", &["restore"], &set)?;
                let known = "-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT\n";
                let known = if tracked { known } else { "" };
                iptables(
                    node,
                    &format!("{known}-A FORWARD -m set --match-set s src -j ACCEPT\n"),
                )
            }
        }
    }
}

/// Addresses of nobody who sends.
fn others(number: u32) -> impl Iterator<Item = IpAddr> {
    (0..number).map(|n| {
        let [_, high, middle, low] = n.to_be_bytes();
        IpAddr::from([10, 100 + high, middle, low])
    })
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

/// A table whose one chain stands where packets are forwarded, and drops what it does not
/// accept.
fn nft(node: &Namespace, before: &str, rules: &str) -> anyhow::Result<()> {
    let chain = "type filter hook forward priority 0; policy drop;";
    let table = format!("table ip t {{\n{before}chain c {{\n{chain}\n{rules}}}\n}}\n");
    tell(node, "nft", &["-f", "-"], &table)
}

/// The same of iptables: the one whose rules the kernel itself walks, not the one that makes
/// nftables rules.
fn iptables(node: &Namespace, rules: &str) -> anyhow::Result<()> {
    let table = format!("*filter\n:FORWARD DROP\n{rules}COMMIT\n");
    tell(node, "iptables-legacy-restore", &[], &table)
}

/// Runs a tool in a namespace and gives it its orders.
fn tell(node: &Namespace, tool: &str, arguments: &[&str], orders: &str) -> anyhow::Result<()> {
    let mut child = {
        let _inside = node.enter()?;
        Command::new(tool)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {tool}"))?
    };
    let mut input = child.stdin.take().context("its input is a pipe")?;
    // A tool that gives up early says why on its error output.
    let told = input.write_all(orders.as_bytes());
    drop(input);
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    let said = text.lines().next().unwrap_or_default();
    ensure!(
        output.status.success(),
        "{tool} ended with {}: {said}",
        output.status
    );
    told.with_context(|| format!("cannot write to {tool}"))
}
