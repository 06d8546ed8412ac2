//! Writes a workload as the text of a `Pod`, for nodes that tell each other of theirs.
//!
//! Invariants: one workload has one text, whatever order its addresses came in; the reader of
//! documents makes the same workload of the text.

use std::fmt::Write as _;
use std::net::IpAddr;

use cofferdam_inventory::Workload;

use super::quoted::Quoted;

/// Returns the document of a workload that runs: labels, node, named ports and addresses.
#[must_use]
pub fn pod_text(workload: &Workload) -> String {
    let mut text = String::from("apiVersion: v1\nkind: Pod\nmetadata:\n");
    let mut line = |indent: usize, line: std::fmt::Arguments<'_>| {
        // Writing to a string never fails.
        _ = writeln!(text, "{:indent$}{line}", "");
    };
    line(2, format_args!("name: {}", Quoted(&workload.name.name)));
    let namespace = &workload.name.namespace;
    line(2, format_args!("namespace: {}", Quoted(namespace)));
    let mut labels = workload.labels.iter().peekable();
    if labels.peek().is_some() {
        line(2, format_args!("labels:"));
        for (key, value) in labels {
            line(4, format_args!("{}: {}", Quoted(key), Quoted(value)));
        }
    }
    line(0, format_args!("spec:"));
    if let Some(node) = &workload.node {
        line(2, format_args!("nodeName: {}", Quoted(node)));
    }
    line(2, format_args!("containers:"));
    line(2, format_args!("- name: workload"));
    if !workload.ports.is_empty() {
        line(4, format_args!("ports:"));
        for port in &workload.ports {
            let (name, number) = (Quoted(&port.name), port.number);
            let protocol = port.protocol.name();
            line(
                4,
                format_args!("- {{name: {name}, containerPort: {number}, protocol: {protocol}}}"),
            );
        }
    }
    let mut addresses: Vec<IpAddr> = workload.own_addresses().to_vec();
    addresses.sort();
    addresses.dedup();
    if !addresses.is_empty() {
        line(0, format_args!("status:"));
        line(2, format_args!("podIPs:"));
        for address in addresses {
            line(2, format_args!("- ip: \"{address}\""));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Content, parse};
    use cofferdam_inventory::selectors::Labels;
    use cofferdam_inventory::{NamedPort, ObjectName, Protocol};

    fn workload() -> Workload {
        Workload {
            name: ObjectName::new("no", "1.2"),
            labels: Labels::from_iter([("app.kubernetes.io/name", "true"), ("empty", "")]),
            node: Some("n-1".into()),
            host_network: false,
            finished: false,
            addresses: ["10.0.0.1", "fd00::1"].map(|a| a.parse().unwrap()).to_vec(),
            ports: [("b", Protocol::Udp, 53), ("a", Protocol::Tcp, 80)]
                .map(|(name, protocol, number)| NamedPort {
                    name: name.into(),
                    protocol,
                    number,
                })
                .to_vec(),
        }
    }

    fn read(text: &str) -> Workload {
        let parsed = parse("f", text.as_bytes());
        assert_eq!(parsed.diagnostics, [], "{text}");
        match &parsed.documents[..] {
            [document] => match &document.content {
                Content::Pod(workload) => (**workload).clone(),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_workload_is_read_back_as_it_was_written() {
        let bare = Workload {
            labels: Labels::default(),
            addresses: Vec::new(),
            ports: Vec::new(),
            ..workload()
        };
        for workload in [workload(), bare] {
            assert_eq!(read(&pod_text(&workload)), workload);
        }
    }

    #[test]
    fn the_order_of_addresses_makes_no_other_text() {
        let mut turned = workload();
        turned.addresses.reverse();
        assert_eq!(pod_text(&turned), pod_text(&workload()));
        let ended = Workload {
            finished: true,
            ..workload()
        };
        assert!(!pod_text(&ended).contains("10.0.0.1"));
    }
}
