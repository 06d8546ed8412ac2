//! The schemas of documents that people write say what the readers say.

use std::{fs, path::Path};

use cofferdam_agent::config;
use cofferdam_controller::schemas;
use cofferdam_documents as documents;
use cofferdam_reach::policy_test;
use cofferdam_syntax::diagnostic::Severity;
use jsonschema::Validator;
use serde::Deserialize as _;
use serde_json::Value;

fn schema(name: &str) -> Validator {
    let all = schemas::all();
    let schema = all.iter().find(|schema| schema.is_called(name));
    let schema = serde_json::from_str(&schema.expect("a schema").text).expect("JSON");
    assert!(jsonschema::meta::is_valid(&schema), "{name}");
    jsonschema::validator_for(&schema).expect("a schema")
}

/// The documents of a text, as JSON.
fn documents_of(text: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).expect("YAML"))
        .collect()
}

fn faults(schema: &Validator, text: &str) -> Vec<String> {
    let documents = documents_of(text);
    let errors = documents.iter().flat_map(|document| {
        let errors = schema.iter_errors(document);
        errors.map(|error| format!("{}: {error}", error.instance_path))
    });
    errors.collect()
}

#[test]
fn every_document_of_the_library_is_as_the_schema_has_it() {
    let schema = schema("documents");
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/library");
    let mut kinds = std::collections::BTreeSet::new();
    for folder in fs::read_dir(library).expect("the library") {
        for file in fs::read_dir(folder.expect("an entry").path()).expect("a folder") {
            let path = file.expect("an entry").path();
            if path.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            let text = fs::read_to_string(&path).expect("a file");
            let faults = faults(&schema, &text);
            assert!(faults.is_empty(), "{}: {faults:?}", path.display());
            let documents = documents_of(&text).into_iter();
            kinds.extend(documents.map(|document| document["kind"].to_string()));
        }
    }
    for kind in ["NetworkPolicy", "ClusterNetworkPolicy", "PolicyTest"] {
        assert!(kinds.contains(&format!("\"{kind}\"")), "{kinds:?}");
    }
}

/// Returns the readers' errors about a document.
fn errors(text: &str) -> Vec<String> {
    let parsed = documents::parse("d.yaml", text.as_bytes()).diagnostics;
    let tests = policy_test::read("d.yaml", text.as_bytes()).diagnostics;
    let all = parsed.into_iter().chain(tests);
    let errors = all.filter(|diagnostic| diagnostic.severity == Severity::Error);
    errors.map(|error| error.to_string()).collect()
}

const NP: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\n";
const CNP: &str = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n\
                   metadata: {name: p}\n";
const TEST: &str = "apiVersion: cofferdam.dev/v1alpha1\nkind: PolicyTest\nmetadata: {name: p}\n";

/// Specifications, each right, for the kind of document it is put behind.
const RIGHT: &[(&str, &str)] = &[
    (NP, "spec: {}"),
    (
        NP,
        "spec: {podSelector: null, ingress: null, egress: [], policyTypes: []}",
    ),
    (
        NP,
        "spec: {podSelector: {}, ingress: [{}], policyTypes: [Ingress, Egress]}",
    ),
    (
        NP,
        "spec: {podSelector: {matchLabels: {a.b/c: d, e: ''}}, ingress: [{from: [], ports: null}]}",
    ),
    (
        NP,
        "spec: {podSelector: {matchExpressions: [{key: a, operator: In, values: [b]}, {key: a, operator: Exists}]}}",
    ),
    (
        NP,
        "spec: {podSelector: {}, egress: [{to: [{namespaceSelector: {}}, {ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}]}",
    ),
    (
        NP,
        "spec: {podSelector: {}, egress: [{to: [{ipBlock: {cidr: '::/0', except: ['fd00::/8']}}]}]}",
    ),
    (
        NP,
        "spec: {podSelector: {}, ingress: [{ports: [{}, {protocol: SCTP}, {port: http}, {port: 1, endPort: 65535}]}]}",
    ),
    (
        CNP,
        "spec: {tier: Admin, priority: 0, subject: {namespaces: {}}}",
    ),
    (
        CNP,
        "spec: {tier: Baseline, priority: 1000, subject: {pods: {podSelector: {}}}, ingress: [], egress: []}",
    ),
    (
        CNP,
        "spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{name: a, action: Accept, to: [{networks: ['::/0']}, {nodes: {}}], protocols: [{tcp: {}}, {udp: {destinationPort: {range: {start: 1, end: 2}}}}]}]}",
    ),
    (
        CNP,
        "spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Pass, from: [{pods: {podSelector: {}}}], protocols: [{destinationNamedPort: metrics}]}]}",
    ),
    (
        TEST,
        "expect: [{from: a/b, to: external/x, port: tcp/80, verdict: allow}]\nexternals: {x: [192.0.2.1, '2001:db8::1']}",
    ),
    (
        TEST,
        "expect: [{from: {podSelector: {}}, to: node/n, port: icmp/8, verdict: deny, by: p}]",
    ),
    (
        TEST,
        "expect: [{from: '2001:db8::1', to: a/b, port: proto/47, verdict: deny, by: a/p}]",
    ),
    (
        TEST,
        "expect: [{from: {namespace: a, labels: {app.b/c: d}}, to: a/b, port: tcp/1, verdict: allow, audit: deny}]",
    ),
    (
        TEST,
        "expect: [{from: a/b, to: {namespace: a-b, labels: {}}, port: tcp/1, verdict: deny, audit: null}]",
    ),
];

/// Specifications, each with one mistake.
const WRONG: &[(&str, &str)] = &[
    (NP, "spec: {podSelecter: {}}"),
    (NP, "spec: {podSelector: {matchLabel: {a: b}}}"),
    (NP, "spec: {podSelector: {matchLabels: {a: true}}}"),
    (NP, "spec: {podSelector: {matchLabels: {-a: b}}}"),
    (NP, "spec: {podSelector: {matchLabels: {a: 'b c'}}}"),
    (
        NP,
        "spec: {podSelector: {matchExpressions: [{key: a, operator: in, values: [b]}]}}",
    ),
    (
        NP,
        "spec: {podSelector: {matchExpressions: [{key: a, operator: In}]}}",
    ),
    (
        NP,
        "spec: {podSelector: {matchExpressions: [{key: a, operator: In, values: []}]}}",
    ),
    (
        NP,
        "spec: {podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}",
    ),
    (NP, "spec: {podSelector: {}, policyTypes: [ingress]}"),
    (
        NP,
        "spec: {podSelector: {}, policyTypes: [Ingress, Egress, Ingress]}",
    ),
    (NP, "spec: {podSelector: {}, ingress: {from: []}}"),
    (NP, "spec: {podSelector: {}, ingress: [{to: []}]}"),
    (NP, "spec: {podSelector: {}, ingress: [{from: [{}]}]}"),
    (
        NP,
        "spec: {podSelector: {}, ingress: [{from: [{podSelector: null}]}]}",
    ),
    (
        NP,
        "spec: {podSelector: {}, ingress: [{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}]}",
    ),
    (
        NP,
        "spec: {podSelector: {}, ingress: [{from: [{ipBlock: {}}]}]}",
    ),
    (
        NP,
        "spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0}}]}]}",
    ),
    (
        NP,
        "spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}",
    ),
    (
        NP,
        "spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: '::/129'}}]}]}",
    ),
    (
        NP,
        "spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.256/8}}]}]}",
    ),
    (
        NP,
        "spec: {podSelector: {}, ingress: [{ports: [{port: 0}]}]}",
    ),
    (
        NP,
        "spec: {podSelector: {}, ingress: [{ports: [{port: 65536}]}]}",
    ),
    (
        NP,
        "spec: {podSelector: {}, ingress: [{ports: [{port: '80'}]}]}",
    ),
    (
        NP,
        "spec: {podSelector: {}, ingress: [{ports: [{port: a--b}]}]}",
    ),
    (
        NP,
        "spec: {podSelector: {}, ingress: [{ports: [{protocol: tcp}]}]}",
    ),
    (
        NP,
        "spec: {podSelector: {}, ingress: [{ports: [{endPort: 80}]}]}",
    ),
    (
        NP,
        "spec: {podSelector: {}, ingress: [{ports: [{port: http, endPort: 80}]}]}",
    ),
    (CNP, ""),
    (CNP, "spec: {priority: 0, subject: {namespaces: {}}}"),
    (
        CNP,
        "spec: {tier: admin, priority: 0, subject: {namespaces: {}}}",
    ),
    (
        CNP,
        "spec: {tier: Admin, priority: 1001, subject: {namespaces: {}}}",
    ),
    (
        CNP,
        "spec: {tier: Admin, priority: -1, subject: {namespaces: {}}}",
    ),
    (CNP, "spec: {tier: Admin, priority: 0, subject: {}}"),
    (
        CNP,
        "spec: {tier: Admin, priority: 0, subject: {namespaces: {}, pods: {podSelector: {}}}}",
    ),
    (CNP, "spec: {tier: Admin, priority: 0, subject: {pods: {}}}"),
    (
        CNP,
        "spec: {tier: Admin, priority: 0, subject: {namespaces: {}}, ingress: [{action: Allow, from: [{namespaces: {}}]}]}",
    ),
    (
        CNP,
        "spec: {tier: Admin, priority: 0, subject: {namespaces: {}}, ingress: [{action: Deny}]}",
    ),
    (
        CNP,
        "spec: {tier: Admin, priority: 0, subject: {namespaces: {}}, ingress: [{action: Deny, from: []}]}",
    ),
    (
        CNP,
        "spec: {tier: Admin, priority: 0, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: []}]}]}",
    ),
    (
        CNP,
        "spec: {tier: Admin, priority: 0, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [10.0.0.0]}]}]}",
    ),
    (
        CNP,
        "spec: {tier: Admin, priority: 0, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}], ports: []}]}",
    ),
    (
        CNP,
        "spec: {tier: Admin, priority: 0, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {}, udp: {}}]}]}",
    ),
    (
        CNP,
        "spec: {tier: Admin, priority: 0, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: 80}}]}]}",
    ),
    (TEST, ""),
    (TEST, "expect: []"),
    (TEST, "expect: [{from: a/b, to: a/c, port: tcp/80}]"),
    (
        TEST,
        "expect: [{from: a/b, to: a/c, port: 80, verdict: allow}]",
    ),
    (
        TEST,
        "expect: [{from: a/b, to: a/c, port: tcp/http, verdict: allow}]",
    ),
    (
        TEST,
        "expect: [{from: a/b, to: a/c, port: tcp/80, verdict: Allow}]",
    ),
    (
        TEST,
        "expect: [{from: {}, to: a/c, port: tcp/80, verdict: allow}]",
    ),
    (
        TEST,
        "expect: [{from: {podSelectors: {}}, to: a/c, port: tcp/80, verdict: allow}]",
    ),
    (
        TEST,
        "expect: [{from: a/b, to: a/c, port: tcp/80, verdict: deny, because: p}]",
    ),
    (
        TEST,
        "expect: [{from: {namespace: a}, to: a/c, port: tcp/80, verdict: deny}]",
    ),
    (
        TEST,
        "expect: [{from: {labels: {a: b}}, to: a/c, port: tcp/80, verdict: deny}]",
    ),
    (
        TEST,
        "expect: [{from: {namespace: A, labels: {}}, to: a/c, port: tcp/80, verdict: deny}]",
    ),
    (
        TEST,
        "expect: [{from: {namespace: a, labels: {a: 1}}, to: a/c, port: tcp/80, verdict: deny}]",
    ),
    (
        TEST,
        "expect: [{from: {namespace: a, labels: {}, podSelector: {}}, to: a/c, port: tcp/80, verdict: deny}]",
    ),
    (
        TEST,
        "expect: [{from: a/b, to: a/c, port: tcp/80, verdict: deny, audit: Deny}]",
    ),
    (
        TEST,
        "expect: [{from: a/b, to: a/c, port: tcp/80, verdict: deny}]\nexternals: {x: []}",
    ),
    (
        TEST,
        "expect: [{from: a/b, to: a/c, port: tcp/80, verdict: deny}]\nexternals: {x: [example.com]}",
    ),
];

#[test]
fn schemas_and_readers_take_the_same_documents() {
    let schema = schema("documents");
    for (kind, spec) in RIGHT {
        let text = format!("{kind}{spec}\n");
        assert_eq!(errors(&text), [""; 0], "{text}");
        assert_eq!(faults(&schema, &text), [""; 0], "{text}");
    }
    for (kind, spec) in WRONG {
        let text = format!("{kind}{spec}\n");
        assert!(!errors(&text).is_empty(), "the reader takes {text}");
        assert!(
            !faults(&schema, &text).is_empty(),
            "the schema takes {text}"
        );
    }
}

#[test]
fn schema_of_each_kind_is_about_that_kind_alone() {
    for (kind, spec) in RIGHT {
        let text = format!("{kind}{spec}\n");
        for name in ["NetworkPolicy", "ClusterNetworkPolicy", "PolicyTest"] {
            let own = kind.contains(&format!("kind: {name}\n"));
            assert_eq!(
                faults(&schema(name), &text).is_empty(),
                own,
                "{name}: {text}"
            );
        }
    }
    // In a file of many kinds, others are nobody's business.
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, anything: 1}\n";
    assert_eq!(faults(&schema("documents"), pod), [""; 0]);
    for annotation in ["cofferdam.dev/mode: audits", "cofferdam.dev/modes: audit"] {
        let metadata = format!("metadata: {{name: p, annotations: {{{annotation}}}}}");
        let text = NP.replace("metadata: {name: p}", &metadata);
        assert!(!errors(&text).is_empty(), "{text}");
        assert!(!faults(&schema("documents"), &text).is_empty(), "{text}");
    }
}

#[test]
fn schema_of_the_configuration_takes_what_the_agent_takes() {
    let schema = schema("configuration");
    let right = config::Config::default().to_string();
    let others = [
        "{}",
        "node: {name: n1, addresses: [10.0.0.1, 'fd00::1']}",
        "idle: {udp: 1500ms, sctp: 1day 2h, icmp: 1.5h}\nlimits: {slots: 4096, table_pages: 16}\nown_node: policy",
        "metrics: ''\nflow_log: {max_bytes: 1GiB, keep: 0}\nuplinks: auto",
        "flow_log: {max_bytes: 1.5 gb}\nuplinks: [eth0]",
        "outputs: [{}, {to: otlp, address: 'http://[::1]:4318/v1/logs', types: [denied, audit]}]",
        "outputs: [{address: 'tcp:logs.example:601'}, {to: syslog, address: 'unix:/dev/log'}]",
    ];
    for text in others.into_iter().chain([right.as_str()]) {
        assert!(config::parse("c.yaml", text.as_bytes()).is_ok(), "{text}");
        assert_eq!(faults(&schema, text), [""; 0], "{text}");
    }
    for text in [
        "limit: {}",
        "limits: {endpoints: 0}",
        "limits: {endpoints: 4097}",
        "limits: {slot: 64}",
        "node: {name: N1}",
        "node: {addresses: [10.0.0]}",
        "idle: {udp: 60}",
        "idle: {udp: 60seks}",
        "idle: {udp: 1.h}",
        "adopt_midstream: 30",
        "own_node: deny",
        "guard: iptables",
        "accept_partial: 1",
        "flow_log: {max_bytes: 100MxB}",
        "flow_log: {max_bytes: '100'}",
        "uplinks: [much-too-long-a-name]",
        "flow_log: {keep: 1001}",
        "outputs: [{to: kafka}]",
        "outputs: [{address: '/dev/log'}]",
        "outputs: [{types: [dropped]}]",
        "outputs: {to: syslog}",
        "run_dir: ''",
        "policies: /etc",
    ] {
        assert!(config::parse("c.yaml", text.as_bytes()).is_err(), "{text}");
        assert!(!faults(&schema, text).is_empty(), "the schema takes {text}");
    }
}
