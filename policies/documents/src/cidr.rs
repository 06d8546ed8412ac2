//! CIDRs in policies.
//!
//! Written more strictly than old parsers read them: `010.0.0.0/8` is eight to some
//! and ten to others.

use std::net::IpAddr;

use cofferdam_syntax::diagnostic::Code;
use cofferdam_syntax::yaml::{Node, Value};
use ipnet::IpNet;

use super::reader::{Reader, Shown};

/// Reads a CIDR; host bits that are set are cleared, with a warning.
pub(super) fn block(reader: &mut Reader, node: &Node<'_>) -> Option<IpNet> {
    let text = reader.string(node, "a CIDR")?;
    let Some(written) = parse_cidr(text) else {
        let hint = match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => format!("did you mean `{text}/32`?"),
            Ok(IpAddr::V6(_)) => format!("did you mean `{text}/128`?"),
            Err(_) => "such as 10.0.0.0/8 or 2001:db8::/32".to_owned(),
        };
        reader.error_hint(
            node.mark,
            Code::Cidr,
            format!("`{}` is not a CIDR", Shown(text)),
            hint,
        );
        return None;
    };
    let block = written.trunc();
    if block != written {
        reader.warning(
            node.mark,
            Code::CidrMeaning,
            format!("`{text}` has host bits set"),
            format!("it is read as {block}"),
        );
    }
    if let IpNet::V6(v6) = block
        && v6.prefix_len() >= 96
        && v6.network().to_ipv4_mapped().is_some()
    {
        reader.warning(
            node.mark,
            Code::CidrMeaning,
            format!("`{text}` matches no packet: IPv4-mapped addresses do not appear in one"),
            "write the IPv4 block",
        );
    }
    Some(block)
}

/// Longest CIDR of a `ClusterNetworkPolicy`, in characters.
const MAX_NETWORK: usize = 43;

/// Reads a CIDR of a `ClusterNetworkPolicy`, which its API holds to more rules.
pub(super) fn network(reader: &mut Reader, node: &Node<'_>) -> Option<IpNet> {
    if let Value::Text(text) = &node.value
        && let Some(IpNet::V6(written)) = parse_cidr(text)
    {
        if written.addr().to_ipv4_mapped().is_some() {
            reader.error_hint(
                node.mark,
                Code::Cidr,
                format!("`{}` is IPv4 mapped into IPv6", Shown(text)),
                "write the IPv4 block",
            );
            return None;
        }
        if text.len() > MAX_NETWORK {
            reader.error_hint(
                node.mark,
                Code::Cidr,
                format!("`{}` has more than {MAX_NETWORK} characters", Shown(text)),
                format!("write {}", written.trunc()),
            );
            return None;
        }
    }
    block(reader, node)
}

/// An address and a prefix length in plain decimal, without sign, leading zeros
/// or zone.
pub(super) fn parse_cidr(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let plain =
        length.bytes().all(|b| b.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
    if !plain {
        return None;
    }
    IpNet::new(address.parse().ok()?, length.parse().ok()?).ok()
}
