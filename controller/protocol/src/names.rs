//! The syntax of names that come from a container runtime.
//!
//! Invariant: what passes holds no slash and no control character and is bounded in
//! length, so that it may be printed, compared, and be part of a file's name.

use thiserror::Error;

/// Longest id of a container, in bytes: runtimes use 64 to 76. With the name of an
/// interface it is the name of a file.
pub const MAX_CONTAINER_ID: usize = 200;

/// Longest name of a workload, in bytes.
const MAX_WORKLOAD: usize = 253;

/// Longest name of a namespace, in bytes.
const MAX_NAMESPACE: usize = 63;

/// Longest name of a network, in bytes.
const MAX_NETWORK: usize = 253;

/// Expected form of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NameError {
    /// The namespace of a workload.
    #[error(
        "at most {MAX_NAMESPACE} lower-case letters, digits and `-`, a letter or digit at both \
         ends"
    )]
    Namespace,
    /// A workload.
    #[error("at most {MAX_WORKLOAD} letters, digits and _ . -, a letter or digit first")]
    Workload,
    /// An interface.
    #[error("1 to 15 characters, no space, slash or colon")]
    Interface,
    /// A network.
    #[error("at most {MAX_NETWORK} letters, digits and _ . -, a letter or digit first")]
    Network,
    /// The id of a container.
    #[error("at most {MAX_CONTAINER_ID} letters, digits and _ . -, a letter or digit first")]
    ContainerId,
}

/// Checks the name of a namespace: a DNS label, as Kubernetes has it.
///
/// # Errors
/// [`NameError::Namespace`].
pub fn namespace(text: &str) -> Result<(), NameError> {
    let is_end = |end: char| end.is_ascii_alphanumeric();
    let is_label = text.len() <= MAX_NAMESPACE
        && text.starts_with(is_end)
        && text.ends_with(is_end)
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    is_label.then_some(()).ok_or(NameError::Namespace)
}

/// Checks the name of a workload. Runtimes other than Kubernetes name containers with
/// capitals and underscores.
///
/// # Errors
/// [`NameError::Workload`].
pub fn workload(text: &str) -> Result<(), NameError> {
    let is_name = text.len() <= MAX_WORKLOAD && is_cni_name(text);
    is_name.then_some(()).ok_or(NameError::Workload)
}

/// Checks the name of an interface, by the kernel's rules.
///
/// # Errors
/// [`NameError::Interface`].
pub fn interface(text: &str) -> Result<(), NameError> {
    let is_name = (1..16).contains(&text.len())
        && !matches!(text, "." | "..")
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':'));
    is_name.then_some(()).ok_or(NameError::Interface)
}

/// Checks the id of a container: it is of the form that the CNI specification gives it.
///
/// # Errors
/// [`NameError::ContainerId`].
pub fn container_id(text: &str) -> Result<(), NameError> {
    let is_id = text.len() <= MAX_CONTAINER_ID && is_cni_name(text);
    is_id.then_some(()).ok_or(NameError::ContainerId)
}

/// Checks the name of a network, by the CNI specification.
///
/// # Errors
/// [`NameError::Network`].
pub fn network(text: &str) -> Result<(), NameError> {
    let is_name = text.len() <= MAX_NETWORK && is_cni_name(text);
    is_name.then_some(()).ok_or(NameError::Network)
}

fn is_cni_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric()) && text.bytes().all(is_of_a_name)
}

fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_runtimes_pass_and_paths_do_not() {
        assert!(workload("nostalgic_Turing.1").is_ok());
        assert!(container_id("0a-b_c.").is_ok());
        assert!(interface("eth0").is_ok() && interface("veth-1.2@x").is_ok());
        assert!(namespace("kube-system").is_ok());
        for text in ["", "..", "a/b", "../a", "a b", "a\n", "a\0", "é", "a:b"] {
            assert!(workload(text).is_err(), "{text:?}");
            assert!(container_id(text).is_err(), "{text:?}");
            assert!(namespace(text).is_err(), "{text:?}");
            assert!(interface(text).is_err() || text == "é", "{text:?}");
        }
        assert!(interface("é").is_err() && interface("sixteen-letters-").is_err());
        assert!(namespace("A").is_err() && namespace("a_b").is_err());
    }

    #[test]
    fn lengths_are_bounded_on_either_side() {
        let long = "a".repeat(MAX_WORKLOAD + 1);
        for (check, max) in [
            (namespace as fn(&str) -> _, MAX_NAMESPACE),
            (workload, MAX_WORKLOAD),
            (container_id, MAX_CONTAINER_ID),
            (interface, 15),
        ] {
            assert!(check(&long[..max]).is_ok(), "{max}");
            assert!(check(&long[..=max]).is_err(), "{max}");
        }
    }
}
