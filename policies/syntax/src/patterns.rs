//! Syntax of names and addresses as regular expressions, for JSON Schemas.
//!
//! Readers do not use them: they say the same in code, with better words about mistakes.

/// A DNS subdomain, the name of most objects; [`crate::names::subdomain`] bounds its length.
pub const SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// An IPv4 address, as a part of an expression.
pub const IPV4: &str = r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(\.(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])){3}";
/// An IPv6 address, roughly, as a part of an expression.
pub const IPV6: &str = r"(?=[^/]*:[^/]*:)[0-9A-Fa-f:.]+";

/// An address of either family.
#[must_use]
pub fn address() -> String {
    format!("^({IPV4}|{IPV6})$")
}
