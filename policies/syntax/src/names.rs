//! The syntax of names, labels and port names, as Kubernetes validates them.
//!
//! Every rule is a function from text to `Ok` or the sentence that says what is
//! expected. Labels that come from elsewhere than a document (a container runtime,
//! a command line) are held to the same rules.
//!
//! Invariant: what passes holds no control character, no slash but a label key's
//! own, and is bounded in length, so it may be printed and compared as it is.

use thiserror::Error;

/// Rule that a name breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NameError {
    /// Names of most objects.
    #[error(
        "expected at most 253 characters: lower-case letters, digits, `-` and `.`, \
         beginning and ending with a letter or digit"
    )]
    Subdomain,
    /// Names of namespaces.
    #[error(
        "expected at most 63 characters: lower-case letters, digits and `-`, \
         beginning and ending with a letter or digit"
    )]
    DnsLabel,
    /// Keys of labels.
    #[error(
        "expected a label key: letters, digits, `-`, `_` and `.`, at most 63 characters, \
         beginning and ending with a letter or digit, with at most a DNS name and `/` in front"
    )]
    LabelKey,
    /// Values of labels.
    #[error(
        "expected a label value: empty, or at most 63 letters, digits, `-`, `_` and `.`, \
         beginning and ending with a letter or digit"
    )]
    LabelValue,
    /// Names of ports.
    #[error(
        "expected a port name: at most 15 lower-case letters, digits and `-`, at least one \
         letter, no `-` at either end or doubled"
    )]
    PortName,
    /// Names in the domain name system, with a wildcard in front or without.
    #[error(
        "expected a domain name: at least two labels of letters, digits, `-` and `_`, \
         with at most `*.` in front and `.` behind"
    )]
    DomainPattern,
}

/// Checks a DNS subdomain (RFC 1123), the name of most objects.
///
/// # Errors
/// [`NameError::Subdomain`].
pub fn subdomain(text: &str) -> Result<(), NameError> {
    if text.len() <= 253 && text.split('.').all(is_lower_label) {
        Ok(())
    } else {
        Err(NameError::Subdomain)
    }
}

/// Checks a DNS label (RFC 1123), the name of a namespace.
///
/// # Errors
/// [`NameError::DnsLabel`].
pub fn dns_label(text: &str) -> Result<(), NameError> {
    if text.len() <= 63 && is_lower_label(text) {
        Ok(())
    } else {
        Err(NameError::DnsLabel)
    }
}

/// Checks a label key: a name of at most 63 characters with an optional DNS prefix.
///
/// # Errors
/// [`NameError::LabelKey`].
pub fn label_key(text: &str) -> Result<(), NameError> {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    if is_qualified(name) && prefix.is_none_or(|prefix| subdomain(prefix).is_ok()) {
        Ok(())
    } else {
        Err(NameError::LabelKey)
    }
}

/// Checks a label value, which may be empty.
///
/// # Errors
/// [`NameError::LabelValue`].
pub fn label_value(text: &str) -> Result<(), NameError> {
    if text.is_empty() || is_qualified(text) {
        Ok(())
    } else {
        Err(NameError::LabelValue)
    }
}

/// Checks a port name (RFC 6335, in lower case).
///
/// # Errors
/// [`NameError::PortName`].
pub fn port_name(text: &str) -> Result<(), NameError> {
    let bytes = text.as_bytes();
    let fits = (1..=15).contains(&bytes.len())
        && bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        && bytes.iter().any(u8::is_ascii_lowercase)
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--");
    if fits {
        Ok(())
    } else {
        Err(NameError::PortName)
    }
}

/// Checks a domain name with at most a wildcard in front, as `ClusterNetworkPolicy`
/// has them.
///
/// # Errors
/// [`NameError::DomainPattern`].
pub fn domain_pattern(text: &str) -> Result<(), NameError> {
    // The first character's range is the upstream pattern's, `A-z`: it takes in what
    // stands between the two cases.
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        let inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        match bytes {
            [] => false,
            [first, rest @ ..] => {
                (first.is_ascii_digit() || (b'A'..=b'z').contains(first))
                    && rest.iter().all(inner)
                    && rest.last().is_none_or(u8::is_ascii_alphanumeric)
            }
        }
    };
    let base = text.strip_prefix("*.").unwrap_or(text);
    let name = base.strip_suffix('.').unwrap_or(base);
    if name.contains('.') && name.split('.').all(is_label) {
        Ok(())
    } else {
        Err(NameError::DomainPattern)
    }
}

fn is_lower_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|b| alphanumeric(b) || *b == b'-')
}

fn is_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subdomains_have_lower_case_parts() {
        for good in ["a", "a.b", "a-1.b", "0"] {
            assert!(subdomain(good).is_ok(), "{good}");
        }
        for bad in ["", "A", "a..b", "-a", "a-", "a_b", "a/b", "..", "a\n", "é"] {
            assert!(subdomain(bad).is_err(), "{bad}");
        }
        assert!(subdomain(&"a".repeat(253)).is_ok());
        assert!(subdomain(&"a".repeat(254)).is_err());
    }

    #[test]
    fn namespaces_have_no_dots_and_63_characters() {
        assert!(dns_label("a-b").is_ok());
        assert!(dns_label("a.b").is_err());
        assert!(dns_label(&"a".repeat(63)).is_ok());
        assert!(dns_label(&"a".repeat(64)).is_err());
    }

    #[test]
    fn label_keys_may_have_one_dns_prefix() {
        for good in ["app", "App_1.x", "kubernetes.io/metadata.name", "a/b"] {
            assert!(label_key(good).is_ok(), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "A/b", "a b", "-a", "a-", "a\0"] {
            assert!(label_key(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn label_values_may_be_empty_and_have_63_characters() {
        assert!(label_value("").is_ok());
        assert!(label_value(&"v".repeat(63)).is_ok());
        for bad in [&"v".repeat(64), "_a", "a b", "a\u{430}", "x\n"] {
            assert!(label_value(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn domain_names_have_two_labels_and_one_wildcard() {
        for good in [
            "a.b",
            "*.a.b",
            "a.b.",
            "Blog.Kubernetes.io",
            "_dmarc.a-b.c",
            "0.1",
            "a_b.c",
        ] {
            assert!(domain_pattern(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a",
            "*",
            "*.",
            "*.a",
            "*.*.a.b",
            "a.*.b",
            "a..b",
            ".a.b",
            "a.b..",
            "-a.b",
            "a-.b",
            "a.b_",
            "a b.c",
            "a.b\n",
            "é.a",
            "http://a.b",
            "a.b:80",
        ] {
            assert!(domain_pattern(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn port_names_hold_a_letter_and_15_characters() {
        for good in ["http", "serve-80-tcp", "a", "1a", "exactly-15-char"] {
            assert!(port_name(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "80",
            "a--b",
            "-a",
            "a-",
            "HTTP",
            "exactly-16-chars",
            "a_b",
        ] {
            assert!(port_name(bad).is_err(), "{bad}");
        }
    }
}
