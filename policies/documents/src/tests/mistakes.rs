//! Every code about documents: one text that provokes it, and one that nearly does.
//!
//! The table fails for a code that has no line, so that no diagnostic is without a
//! test that sees it and one that sees where it ends.

use super::*;

const NP: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n";
const CNP: &str = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n";
const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\n";
const POD: &str = "apiVersion: v1\nkind: Pod\n";

/// A code with the texts of two files that differ in little.
struct Mistake {
    code: Code,
    provokes: Vec<u8>,
    does_not: Vec<u8>,
}

fn mistake(code: Code, provokes: impl Into<Vec<u8>>, does_not: impl Into<Vec<u8>>) -> Mistake {
    Mistake {
        code,
        provokes: provokes.into(),
        does_not: does_not.into(),
    }
}

/// Two NetworkPolicies by their `spec`.
fn policies(code: Code, provokes: &str, does_not: &str) -> Mistake {
    let policy = |spec: &str| format!("{NP}metadata: {{name: p}}\nspec: {spec}\n");
    mistake(code, policy(provokes), policy(does_not))
}

/// Two ClusterNetworkPolicies by their `spec`.
fn cluster(code: Code, provokes: &str, does_not: &str) -> Mistake {
    let policy = |spec: &str| format!("{CNP}metadata: {{name: p}}\nspec: {spec}\n");
    mistake(code, policy(provokes), policy(does_not))
}

/// Two rules for egress of ClusterNetworkPolicies.
fn egress(code: Code, provokes: &str, does_not: &str) -> Mistake {
    let spec = |rule: &str| {
        format!("{{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, egress: [{{{rule}}}]}}")
    };
    cluster(code, &spec(provokes), &spec(does_not))
}

fn texts() -> Vec<Mistake> {
    let nested = |depth: usize| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\na: {}{}\n",
            "[".repeat(depth),
            "]".repeat(depth)
        )
    };
    vec![
        policies(Code::Syntax, "{podSelector: {]}", "{podSelector: {}}"),
        mistake(Code::File, b"# \xff\n", "# \u{ff}\n"),
        mistake(Code::Bounds, nested(128), nested(127)),
        mistake(
            Code::Alias,
            format!("{NP}metadata: {{name: p}}\nspec: *a\n"),
            format!(
                "{NP}metadata: {{name: &a p}}\nspec: {{podSelector: {{matchLabels: {{a: *a}}}}}}\n"
            ),
        ),
        policies(
            Code::DuplicateKey,
            "{podSelector: {matchLabels: {a: b, a: c}}}",
            "{podSelector: {matchLabels: {a: b, A: c}}}",
        ),
        policies(Code::UnknownKey, "{podSelektor: {}}", "{podSelector: {}}"),
        policies(
            Code::Type,
            "{podSelector: {matchLabels: {a: no}}}",
            "{podSelector: {matchLabels: {a: 'no'}}}",
        ),
        policies(
            Code::Missing,
            "{ingress: [{from: [{ipBlock: {except: []}}]}]}",
            "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: []}}]}]}",
        ),
        mistake(
            Code::Unsupported,
            "apiVersion: networking.k8s.io/v1beta1\nkind: NetworkPolicy\n",
            "apiVersion: networking.k8s.io/v1beta1\nkind: Ingress\n",
        ),
        mistake(
            Code::DuplicateDocument,
            format!(
                "{NP}metadata: {{name: p}}\nspec: {{}}\n---\n{NP}metadata: {{name: p}}\nspec: {{}}\n"
            ),
            format!(
                "{NP}metadata: {{name: p}}\nspec: {{}}\n---\n{NP}metadata: {{name: p, namespace: x}}\nspec: {{}}\n"
            ),
        ),
    ]
}

fn network_policies() -> Vec<Mistake> {
    let block = |block: &str| format!("{{ingress: [{{from: [{{ipBlock: {{{block}}}}}]}}]}}");
    let port = |port: &str| format!("{{ingress: [{{ports: [{{{port}}}]}}]}}");
    let annotated = |annotation: &str| {
        format!("{NP}metadata: {{name: p, annotations: {{{annotation}}}}}\nspec: {{}}\n")
    };
    vec![
        mistake(
            Code::Name,
            format!("{NP}metadata: {{name: P}}\nspec: {{}}\n"),
            format!("{NP}metadata: {{name: p.0}}\nspec: {{}}\n"),
        ),
        policies(
            Code::Label,
            "{podSelector: {matchLabels: {a: -b}}}",
            "{podSelector: {matchLabels: {a: b-c}}}",
        ),
        policies(
            Code::Selector,
            "{podSelector: {matchExpressions: [{key: a, operator: In, values: []}]}}",
            "{podSelector: {matchExpressions: [{key: a, operator: Exists, values: []}]}}",
        ),
        policies(
            Code::PolicyTypes,
            "{policyTypes: [Ingress, Egress, Ingress]}",
            "{policyTypes: [Ingress, Ingress]}",
        ),
        policies(
            Code::UnusedSection,
            "{policyTypes: [Ingress], egress: [{}]}",
            "{policyTypes: [Ingress], egress: []}",
        ),
        policies(
            Code::Peer,
            "{ingress: [{from: [{}]}]}",
            "{ingress: [{from: [{podSelector: {}}]}]}",
        ),
        policies(
            Code::Cidr,
            &block("cidr: 10.0.0.0/33"),
            &block("cidr: 10.0.0.0/32"),
        ),
        policies(
            Code::CidrMeaning,
            &block("cidr: 10.0.0.1/31"),
            &block("cidr: 10.0.0.2/31"),
        ),
        policies(
            Code::Except,
            &block("cidr: 10.0.0.0/8, except: [10.0.0.0/8]"),
            &block("cidr: 10.0.0.0/8, except: [10.0.0.0/9]"),
        ),
        policies(Code::Port, &port("port: 65536"), &port("port: 65535")),
        policies(
            Code::EndPort,
            &port("port: 80, endPort: 79"),
            &port("port: 80, endPort: 80"),
        ),
        policies(
            Code::Protocol,
            &port("protocol: ICMP"),
            &port("protocol: SCTP"),
        ),
        mistake(
            Code::Annotation,
            annotated("cofferdam.dev/mode: log"),
            annotated("example.com/mode: log"),
        ),
        mistake(
            Code::NoSpec,
            format!("{NP}metadata: {{name: p}}\n"),
            format!("{NP}metadata: {{name: p}}\nspec: {{}}\n"),
        ),
    ]
}

fn cluster_policies() -> Vec<Mistake> {
    let spec = |tier: &str, priority: &str, subject: &str| {
        format!("{{tier: {tier}, priority: {priority}, subject: {subject}}}")
    };
    let all = "{namespaces: {}}";
    vec![
        cluster(
            Code::Tier,
            &spec("baseline", "1", all),
            &spec("Baseline", "1", all),
        ),
        cluster(
            Code::Priority,
            &spec("Admin", "1001", all),
            &spec("Admin", "1000", all),
        ),
        egress(
            Code::Action,
            "action: Allow, to: [{namespaces: {}}]",
            "action: Accept, to: [{namespaces: {}}]",
        ),
        cluster(
            Code::Subject,
            &spec("Admin", "1", "{}"),
            &spec("Admin", "1", all),
        ),
        egress(
            Code::Count,
            "action: Deny, to: []",
            "action: Deny, to: [{namespaces: {}}]",
        ),
        egress(
            Code::Duplicate,
            "action: Deny, to: [{networks: [10.0.0.0/8, 10.0.0.0/8]}]",
            "action: Deny, to: [{networks: [10.0.0.0/8, 10.0.0.0/9]}]",
        ),
        egress(
            Code::DomainName,
            "action: Accept, to: [{domainNames: ['*.com']}]",
            "action: Accept, to: [{domainNames: ['*.a.com']}]",
        ),
        egress(
            Code::DomainNamesIdle,
            "action: Accept, to: [{domainNames: [a.b]}]",
            "action: Accept, to: [{networks: [10.0.0.0/8]}]",
        ),
        egress(
            Code::UnknownPeer,
            "action: Deny, to: [{services: {}}]",
            "action: Deny, to: [{nodes: {}}]",
        ),
        egress(
            Code::NamedPortPeer,
            "action: Deny, to: [{nodes: {}}], protocols: [{destinationNamedPort: web}]",
            "action: Deny, to: [{namespaces: {}}], protocols: [{destinationNamedPort: web}]",
        ),
        mistake(
            Code::Namespaced,
            format!(
                "{CNP}metadata: {{name: p, namespace: x}}\nspec: {}\n",
                spec("Admin", "1", all)
            ),
            format!(
                "{CNP}metadata: {{name: p, namespace: ''}}\nspec: {}\n",
                spec("Admin", "1", all)
            ),
        ),
    ]
}

fn objects() -> Vec<Mistake> {
    let pods = |address: &str, phase: &str| {
        format!(
            "{POD}metadata: {{name: a}}\nstatus: {{podIP: 10.0.0.1}}\n---\n\
             {POD}metadata: {{name: b}}\nstatus: {{podIP: {address}, phase: {phase}}}\n"
        )
    };
    vec![
        mistake(
            Code::Address,
            pods("10.0.0.256", "Running"),
            pods("10.0.0.255", "Running"),
        ),
        mistake(
            Code::AddressConflict,
            pods("10.0.0.1", "Running"),
            pods("10.0.0.1", "Succeeded"),
        ),
        mistake(
            Code::ServiceType,
            format!("{SERVICE}spec: {{type: Clusterip}}\n"),
            format!("{SERVICE}spec: {{type: ClusterIP}}\n"),
        ),
    ]
}

/// All findings about one file, between its documents too.
fn all_findings(bytes: &[u8]) -> Vec<Diagnostic> {
    let parsed = parse("a.yaml", bytes);
    let assembled = assemble(parsed.documents);
    parsed
        .diagnostics
        .into_iter()
        .chain(assembled.diagnostics)
        .collect()
}

#[test]
fn every_code_is_provoked_and_nearly_provoked() {
    let mistakes: Vec<Mistake> = [texts(), network_policies(), cluster_policies(), objects()]
        .into_iter()
        .flatten()
        .collect();
    for code in Code::ALL {
        let about_documents = ["CD01", "CD02", "CD03"]
            .iter()
            .any(|prefix| code.as_str().starts_with(prefix));
        let lines = mistakes.iter().filter(|mistake| mistake.code == *code);
        assert_eq!(lines.count(), usize::from(about_documents), "{code}");
    }
    for mistake in mistakes {
        let code = mistake.code;
        let found = all_findings(&mistake.provokes);
        let shown = String::from_utf8_lossy(&mistake.provokes);
        // Nothing else, for one mistake is told of once.
        assert!(
            !found.is_empty() && found.iter().all(|finding| finding.code == code),
            "{code}: {found:#?} about\n{shown}"
        );
        let found = all_findings(&mistake.does_not);
        let shown = String::from_utf8_lossy(&mistake.does_not);
        // A domain name is valid and yet not resolved.
        assert!(
            found
                .iter()
                .all(|finding| finding.code != code && finding.severity == Severity::Warning),
            "{code}: {found:#?} about\n{shown}"
        );
    }
}
