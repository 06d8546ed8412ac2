//! Findings about documents, each with its place.
//!
//! A mistake in a policy is not an error of the program: it is reported with its
//! place, a code that never changes its meaning, and what was probably meant, and
//! the documents beside it stay. Nothing here knows what a document contains.
//!
//! Invariant: a code keeps its number for ever, and a number is never reused.

use std::{error::Error, fmt, iter, sync::Arc};

/// Weight of a finding: an error leaves its document out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The document, or all of its file, is not in force.
    Error,
    /// The document is in force; something in it is probably not as intended.
    Warning,
}

impl Severity {
    /// The word in JSON and in text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error in one line, with everything that caused it. A cause that its effect has named
/// already is said once.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let causes = iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |line, cause| {
        let cause = cause.to_string();
        if line.ends_with(&cause) {
            line
        } else {
            format!("{line}: {cause}")
        }
    })
}

/// A place in a file, or an object of an API server, which has no lines. Lines and columns
/// count from 1, columns in characters.
///
/// Ordered by file, then line, then column.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The file as the caller named it, or the object.
    pub file: Arc<str>,
    /// Line, from 1; 0 in an object.
    pub line: u32,
    /// Column, from 1; 0 where there is none.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        let numbers = [self.line, self.column].into_iter();
        for number in numbers.take_while(|number| *number != 0) {
            write!(f, ":{number}")?;
        }
        Ok(())
    }
}

/// One finding about one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// Place of the mistake.
    pub place: Place,
    /// Kind of the mistake.
    pub code: Code,
    /// Weight: `Error` if the document is left out because of it.
    pub severity: Severity,
    /// Description of the mistake, in lower case without a full stop.
    pub message: String,
    /// Guess at the intention, or advice.
    pub hint: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}[{}]: {}",
            self.place, self.severity, self.code, self.message
        )?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal,)+) => {
        /// The closed list of mistakes that are told apart.
        ///
        /// The first digit pair of the number is the subject: `01` the text, `02`
        /// policies, `03` what policies are about, `04` the configuration of the agent,
        /// `05` what policies mean for what there is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Code {
            /// Every code, for generated documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The code as it is printed, such as `CD0101`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)+
                }
            }

            /// Returns the meaning of the code, for any place.
            #[must_use]
            pub fn summary(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }
    };
}

codes! {
    /// The text is not YAML.
    Syntax = "CD0101",
    /// The file cannot be read, is too large or is not UTF-8.
    File = "CD0102",
    /// The document is nested too deeply or has too many nodes, or the file has too many
    /// documents or findings.
    Bounds = "CD0103",
    /// An alias is unknown, refers to itself or expands to too much.
    Alias = "CD0104",
    /// A key stands twice in one mapping.
    DuplicateKey = "CD0105",
    /// A key is not known here.
    UnknownKey = "CD0106",
    /// A value has the wrong type, or means different things to different YAML readers.
    Type = "CD0107",
    /// Something required is missing.
    Missing = "CD0108",
    /// The document is a policy of a kind or version that is not supported, or its kind is
    /// misspelt, hence it is not in force.
    Unsupported = "CD0109",
    /// Two documents have the same kind, namespace and name.
    DuplicateDocument = "CD0110",
    /// A name is not one that Kubernetes accepts.
    Name = "CD0201",
    /// A label, or a key or value of a selector, is not valid.
    Label = "CD0202",
    /// A selector's operator and values do not fit together.
    Selector = "CD0203",
    /// `policyTypes` is not valid.
    PolicyTypes = "CD0204",
    /// A section has no effect because `policyTypes` does not list its direction.
    UnusedSection = "CD0205",
    /// A peer names nothing, or an address block together with a selector.
    Peer = "CD0206",
    /// A CIDR does not parse.
    Cidr = "CD0207",
    /// A CIDR has host bits set, or can match nothing.
    CidrMeaning = "CD0208",
    /// `except` is not a strict subset of its block.
    Except = "CD0209",
    /// A port is not valid.
    Port = "CD0210",
    /// `endPort` is not valid.
    EndPort = "CD0211",
    /// A protocol is not valid.
    Protocol = "CD0212",
    /// A `cofferdam.dev/` annotation is not known or has no such value.
    Annotation = "CD0213",
    /// A policy has no `spec`, so it selects every pod of its namespace and denies.
    NoSpec = "CD0214",
    /// A tier is not valid.
    Tier = "CD0215",
    /// A priority is not valid.
    Priority = "CD0216",
    /// A rule's action is not valid.
    Action = "CD0217",
    /// A subject names nothing, or two things.
    Subject = "CD0218",
    /// A list has too few or too many entries, or a name is too long.
    Count = "CD0219",
    /// A value stands twice in a list in which each stands once.
    Duplicate = "CD0220",
    /// A domain name is not valid, or stands in a rule that does not accept.
    DomainName = "CD0221",
    /// Domain names are not resolved, so the peer matches nothing.
    DomainNamesIdle = "CD0222",
    /// A peer is of no known kind, so the rule fails closed.
    UnknownPeer = "CD0223",
    /// A port by name stands in a rule with peers that have no such names.
    NamedPortPeer = "CD0224",
    /// A document names a namespace, though its kind lies in none.
    Namespaced = "CD0225",
    /// An address is not valid.
    Address = "CD0301",
    /// Two workloads, or a workload and a node, have the same address; or a Service has a
    /// workload's.
    AddressConflict = "CD0302",
    /// The type of a Service, a family, or the type of a slice's addresses is not valid.
    ServiceType = "CD0303",
    /// A setting of the agent has no such value.
    Setting = "CD0401",
    /// The documents of now are not in force: they do not fit, or the kernel refuses them.
    NotInForce = "CD0402",
    /// An endpoint's flow table is nearly full.
    FlowTableFills = "CD0403",
    /// A Service is denied to workloads that policy allows some of its backends: no hook sees
    /// what is translated to one of the others.
    ServiceUndecided = "CD0404",
    /// A policy selects no workload.
    SubjectEmpty = "CD0501",
    /// A peer selects nothing: no workload, or no node.
    PeerEmpty = "CD0502",
    /// A peer or a rule can match no packet, whatever workloads there are.
    NeverMatches = "CD0503",
    /// A rule changes nothing, because others cover all of it.
    Hidden = "CD0504",
    /// An allow never counts, because a higher tier denies all of it.
    Overruled = "CD0505",
    /// No workload that a rule is about has a port of this name and protocol.
    NoSuchPort = "CD0506",
    /// An address block covers addresses of workloads.
    BlockCoversWorkloads = "CD0507",
    /// `policyTypes` is absent, and what that means is probably not what is intended.
    ImpliedTypes = "CD0508",
    /// A workload is isolated in a direction in which no policy allows it anything.
    IsolatedWithoutRule = "CD0509",
    /// No policy is about the workloads of a namespace.
    NotIsolated = "CD0510",
    /// A rule has the port of a Service, where that of the workload behind it counts.
    ServicePort = "CD0511",
    /// Two policies of equal priority decide differently about the same packets.
    PriorityTie = "CD0512",
    /// A setting of ours stands where it has no effect.
    MisplacedSetting = "CD0513",
    /// An address block is the address of a Service, and the workloads behind it are not
    /// covered: those are judged.
    ServiceAddress = "CD0514",
    /// A Service selects no workload.
    ServiceEmpty = "CD0515",
    /// A Service leads to a port by a name that no workload behind it has.
    ServiceTarget = "CD0516",
    /// The template of a workload cannot be read, so nothing is known of its pods.
    WorkloadUnusable = "CD0517",
    /// A workload is isolated for egress, may reach others, and may not look names up.
    NoLookups = "CD0518",
    /// A workload may look names up over TCP alone.
    LookupsOverTcp = "CD0519",
    /// No policy is about a workload, and most of its namespace is isolated.
    OpenDirection = "CD0520",
    /// A namespace is selected by a label of its own that it does not have, where the label of
    /// its name would fit.
    NamespaceByName = "CD0521",
    /// A peer, or a list without peers, means everybody, and that is probably not intended.
    EverybodyMeant = "CD0522",
    /// A Service, an Ingress or a route leads from outside to workloads that are closed to it.
    ClosedBackend = "CD0523",
    /// A rule lets connections through at one end, and the other end is closed to all of them.
    HalfPath = "CD0524",
    /// An address block holds no address of a host.
    SenselessBlock = "CD0525",
    /// A namespace is on audit: policies deny its workloads nothing.
    AuditedNamespace = "CD0526",
    /// A statement of a `PolicyTest` cannot be understood.
    Expectation = "CD0601",
    /// A statement of a `PolicyTest` is about nothing that there is.
    ExpectsNothing = "CD0602",
    /// An allowance of a finding has ended, is about nothing, or cannot be understood.
    Allowance = "CD0603",
}

impl Code {
    /// Returns the subject that mistakes with numbers like this one share.
    #[must_use]
    pub fn subject(self) -> &'static str {
        match self.as_str().as_bytes() {
            [_, _, b'0', b'1', ..] => "The text",
            [_, _, b'0', b'2', ..] => "Policies",
            [_, _, b'0', b'3', ..] => "What policies are about",
            [_, _, b'0', b'4', ..] => "The agent",
            [_, _, b'0', b'6', ..] => "Expectations",
            _ => "What policies mean for what there is",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An effect, with what it says of itself and its cause.
    #[derive(Debug)]
    struct Effect(&'static str, Option<Box<Effect>>);

    impl fmt::Display for Effect {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Effect {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            let cause = self.1.as_deref();
            cause.map(|cause| cause as &(dyn Error + 'static))
        }
    }

    /// A lost map was logged as "cannot read: gone: gone".
    #[test]
    fn each_cause_is_said_once() {
        let cause = |text, of| Some(Box::new(Effect(text, of)));
        let gone = || cause("gone", None);
        let apart = Effect("no table", cause("cannot read", gone()));
        assert_eq!(chain(&apart), "no table: cannot read: gone");
        let named_by_its_effect = Effect("no table", cause("cannot read: gone", gone()));
        assert_eq!(chain(&named_by_its_effect), "no table: cannot read: gone");
        assert_eq!(chain(&Effect("gone", None)), "gone");
    }

    #[test]
    fn codes_are_distinct_and_in_order() {
        for pair in Code::ALL.windows(2) {
            assert!(pair[0].as_str() < pair[1].as_str());
        }
    }

    #[test]
    fn a_diagnostic_prints_place_code_message_and_hint() {
        let diagnostic = Diagnostic {
            place: Place {
                file: Arc::from("a.yaml"),
                line: 3,
                column: 5,
            },
            code: Code::Syntax,
            severity: Severity::Error,
            message: "a tab indents".to_owned(),
            hint: Some("use spaces".to_owned()),
        };
        assert_eq!(
            diagnostic.to_string(),
            "a.yaml:3:5: error[CD0101]: a tab indents (use spaces)"
        );
    }
}
