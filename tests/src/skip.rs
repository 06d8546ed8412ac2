//! Tests that this kernel cannot run say so, and are counted.
//!
//! A test begins with what it needs, `skip_unless!(Feature::LinkKind("vlan"))`.
//! The feature is probed, never guessed from a version. Where it is missing the
//! test prints so and returns, and when `COFFERDAM_SKIPS` names a file, one line
//! is added to it: feature, tab, test. Whoever runs the tests can then tell
//! "passed" from "passed over".

use cofferdam_syntax::diagnostic::chain;
use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;

use socket2::{Domain, Protocol, Socket, Type};

use crate::world::Namespace;

/// The environment variable that names the file.
const SKIPS_FILE: &str = "COFFERDAM_SKIPS";

/// Something that not every kernel has, or not everyone may use.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Feature {
    /// Making network namespaces and links in them.
    NetworkNamespaces,
    /// A kind of virtual link: `vlan`, `macvlan`, `ipip`.
    LinkKind(&'static str),
    /// SCTP in the kernel.
    SctpSockets,
    /// Anything else: its name, and a probe that says what is missing.
    Other(&'static str, fn() -> Result<(), String>),
}

impl Feature {
    /// Tries it; says what is missing.
    pub fn probe(&self) -> Result<(), String> {
        match self {
            Self::NetworkNamespaces => link_kind("veth"),
            Self::LinkKind(kind) => link_kind(kind),
            Self::SctpSockets => Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::SCTP))
                .map(drop)
                .map_err(|error| error.to_string()),
            Self::Other(_, probe) => probe(),
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NetworkNamespaces => f.write_str("network-namespaces"),
            Self::LinkKind(kind) => write!(f, "link-kind-{kind}"),
            Self::SctpSockets => f.write_str("sctp-sockets"),
            Self::Other(name, _) => f.write_str(name),
        }
    }
}

fn link_kind(kind: &str) -> Result<(), String> {
    let namespace = Namespace::new().map_err(|error| chain(&error))?;
    match namespace.knows_link_kind(kind) {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("the kernel has no links of kind {kind}")),
        Err(error) => Err(chain(&error)),
    }
}

/// Returns from the test, and counts it as skipped, unless the kernel has the
/// [`Feature`].
#[macro_export]
macro_rules! skip_unless {
    ($feature:expr) => {
        if let Err(reason) = $feature.probe() {
            fn here() {}
            $crate::skip::skip(&$feature, $crate::skip::enclosing(&here), &reason);
            return;
        }
    };
}

/// Prints that a test is skipped, and adds it to the file of skipped tests. The
/// test then returns; usually [`skip_unless!`](crate::skip_unless) does both.
///
/// # Panics
///
/// Panics if the file cannot be written: a skip that nobody counts looks like a test that
/// passed.
pub fn skip(feature: &dyn fmt::Display, test: &str, reason: &str) {
    println!("skipped {test}: no {feature}: {reason}");
    let Some(file) = std::env::var_os(SKIPS_FILE) else {
        return;
    };
    let line = format!("{feature}\t{test}\n");
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(&file)
        // One write: tests that are skipped at once do not mix their lines.
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .unwrap_or_else(|error| panic!("cannot add a skipped test to {}: {error}", file.display()));
}

/// The path of the function around a function.
#[doc(hidden)]
pub fn enclosing<F>(_: &F) -> &'static str {
    let own = std::any::type_name::<F>();
    let path = own.rsplit_once("::").map_or(own, |(around, _)| around);
    path.trim_end_matches("::{{closure}}")
}
