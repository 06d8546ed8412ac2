//! Objects whose texts are not kept, because they say no more than the documents made of them.
//!
//! A large cluster has 100 000 pods and 20 000 slices of endpoints. Their texts would take as
//! much memory as a quarter of everything else, and are needed only to store what is good, and
//! while two pods claim one address.
//!
//! Invariant: the reader of documents makes the same document of the text that is written here.

use std::borrow::Cow;
use std::fmt::{self, Write};

use cofferdam_inventory::{EndpointSlice, Workload, family_of};
use cofferdam_verdict::address::Family;

use super::quoted::Quoted;
use super::services::SERVICE_NAME;
use super::{Content, Document, Identity, Source};

impl Source {
    /// Lets go of the text of a pod or a slice in which nothing was wrong.
    #[must_use]
    pub fn without_text(self) -> Self {
        let is_understood = self.parsed.rejected.is_empty() && self.parsed.diagnostics.is_empty();
        if !is_understood || self.written().is_none() {
            return self;
        }
        Self {
            text: [].into(),
            ..self
        }
    }

    /// Returns the text, made of the document if it is not kept.
    #[must_use]
    pub fn whole_text(&self) -> Cow<'_, [u8]> {
        let written = self.written().filter(|_| self.text.is_empty());
        match written {
            Some(text) => Cow::Owned(text.to_string().into_bytes()),
            None => Cow::Borrowed(&self.text),
        }
    }

    /// Returns the same source with its text.
    #[must_use]
    pub fn with_text(&self) -> Self {
        let text = match self.whole_text() {
            Cow::Borrowed(_) => self.text.clone(),
            Cow::Owned(text) => text.into(),
        };
        Self {
            text,
            ..self.clone()
        }
    }

    /// Returns its only document, if the text of that can be written.
    fn written(&self) -> Option<Written<'_>> {
        let [document] = &self.parsed.documents[..] else {
            return None;
        };
        Written::of(document)
    }
}

/// A document as an API server writes it, with nothing that is not read.
enum Written<'d> {
    Pod(&'d Workload),
    Slice(&'d Identity, &'d EndpointSlice),
}

impl<'d> Written<'d> {
    fn of(document: &'d Document) -> Option<Self> {
        match &document.content {
            Content::Pod(pod) => Some(Self::Pod(pod)),
            Content::EndpointSlice(slice) => Some(Self::Slice(&document.identity, slice)),
            _ => None,
        }
    }
}

impl fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(pod) => write_pod(f, pod),
            Self::Slice(identity, slice) => write_slice(f, identity, slice),
        }
    }
}

fn write_pod(f: &mut impl Write, pod: &Workload) -> fmt::Result {
    let (name, namespace) = (Quoted(&pod.name.name), Quoted(&pod.name.namespace));
    write!(
        f,
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":{name},"namespace":{namespace}"#
    )?;
    let labels = pod
        .labels
        .iter()
        .map(|(key, value)| format!("{}:{}", Quoted(key), Quoted(value)));
    write_list(f, r#","labels":{"#, labels, "}")?;
    f.write_str("}")?;
    let node = pod
        .node
        .iter()
        .map(|node| format!(r#""nodeName":{}"#, Quoted(node)));
    let host = (pod.host_network).then(|| r#""hostNetwork":true"#.to_owned());
    let ports = pod.ports.iter().map(|port| {
        let (name, number, protocol) = (Quoted(&port.name), port.number, port.protocol.name());
        format!(r#"{{"name":{name},"containerPort":{number},"protocol":"{protocol}"}}"#)
    });
    let ports = list(r#""containers":[{"ports":["#, ports, "]}]");
    write_list(f, r#","spec":{"#, node.chain(host).chain(ports), "}")?;
    let phase = (pod.finished).then(|| r#""phase":"Succeeded""#.to_owned());
    let addresses = pod
        .addresses
        .iter()
        .map(|address| format!(r#"{{"ip":"{address}"}}"#));
    let addresses = list(r#""podIPs":["#, addresses, "]");
    let status = phase.into_iter().chain(addresses);
    write_list(f, r#","status":{"#, status, "}")?;
    f.write_str("}")
}

fn write_slice(f: &mut impl Write, identity: &Identity, slice: &EndpointSlice) -> fmt::Result {
    // Of a slice without endpoints nothing depends on it.
    let family = match slice.endpoints.first().map(|one| family_of(one.address)) {
        Some(Family::V6) => "IPv6",
        Some(Family::V4) | None => "IPv4",
    };
    let (name, namespace) = (Quoted(&identity.name), Quoted(&identity.namespace));
    write!(
        f,
        r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":{name},"namespace":{namespace}"#
    )?;
    let service = slice
        .service
        .iter()
        .map(|name| format!("{}:{}", Quoted(SERVICE_NAME), Quoted(name)));
    write_list(f, r#","labels":{"#, service, "}")?;
    write!(f, r#"}},"addressType":"{family}""#)?;
    let ports = slice.ports.iter().map(|port| {
        let (name, number, protocol) = (Quoted(&port.name), port.port, port.protocol.name());
        format!(r#"{{"name":{name},"port":{number},"protocol":"{protocol}"}}"#)
    });
    write_list(f, r#","ports":["#, ports, "]")?;
    let endpoints = slice.endpoints.iter().map(|endpoint| {
        let (address, ready, draining) = (endpoint.address, endpoint.ready, endpoint.draining);
        let pod = endpoint.pod.as_ref().map(|pod| {
            let (name, namespace) = (Quoted(&pod.name), Quoted(&pod.namespace));
            format!(r#","targetRef":{{"kind":"Pod","namespace":{namespace},"name":{name}}}"#)
        }).unwrap_or_default();
        format!(
            r#"{{"addresses":["{address}"],"conditions":{{"ready":{ready},"serving":{draining},"terminating":{draining}}}{pod}}}"#
        )
    });
    write_list(f, r#","endpoints":["#, endpoints, "]")?;
    f.write_str("}")
}

/// Returns items in brackets, `None` if there are none.
fn list(open: &str, items: impl Iterator<Item = String>, close: &str) -> Option<String> {
    let items: Vec<String> = items.collect();
    (!items.is_empty()).then(|| format!("{open}{}{close}", items.join(",")))
}

fn write_list(
    f: &mut impl Write,
    open: &str,
    items: impl Iterator<Item = String>,
    close: &str,
) -> fmt::Result {
    f.write_str(&list(open, items, close).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cofferdam_inventory::selectors::Labels;
    use cofferdam_inventory::{Endpoint, EndpointPort, NamedPort, ObjectName, Protocol};

    use super::super::{Kind, Parsed};
    use super::*;

    fn source(text: &str) -> Source {
        Source::new("kubernetes:x".into(), text.as_bytes().into())
    }

    /// Checks that a document is all that a text says, and that the text comes back.
    fn check(written: &Written<'_>) -> Document {
        let text = written.to_string();
        let read = source(&text);
        assert_eq!(read.parsed.diagnostics, [], "{text}");
        let kept = read.clone().without_text();
        assert!(kept == read && kept.text.is_empty() && !kept.is_blank());
        assert_eq!(String::from_utf8_lossy(&kept.whole_text()), text);
        assert_eq!(*kept.with_text().text, *text.as_bytes());
        kept.parsed.documents[0].clone()
    }

    #[test]
    fn a_pod_without_its_text_is_written_as_all_that_was_read_of_it() {
        let whole = Workload {
            name: ObjectName::new("no", "1.2"),
            labels: Labels::from_iter([("app.kubernetes.io/name", "true"), ("empty", "")]),
            node: Some("n-1".into()),
            host_network: false,
            finished: false,
            addresses: ["fd00::1", "10.0.0.1"].map(|a| a.parse().unwrap()).to_vec(),
            ports: [("b", Protocol::Udp, 53), ("a", Protocol::Tcp, 80)]
                .map(|(name, protocol, number)| NamedPort {
                    name: name.into(),
                    protocol,
                    number,
                })
                .to_vec(),
        };
        let bare = Workload::supposed(whole.name.clone(), Labels::default());
        let ended = Workload {
            finished: true,
            ..whole.clone()
        };
        let of_node = Workload {
            host_network: true,
            ..whole.clone()
        };
        for pod in [whole, bare, ended, of_node] {
            let content = check(&Written::Pod(&pod)).content;
            assert!(
                matches!(&content, Content::Pod(read) if **read == pod),
                "{content:?}"
            );
        }
    }

    #[test]
    fn a_slice_without_its_text_is_written_as_all_that_was_read_of_it() {
        let identity = Identity {
            kind: Kind::EndpointSlice,
            namespace: "shop".into(),
            name: "web-1".into(),
        };
        let endpoint = |address: &str, ready, draining| Endpoint {
            address: address.parse().unwrap(),
            ready,
            draining,
            pod: ready.then(|| ObjectName::new("shop", "web-0")),
        };
        let port = |name: &str, protocol| EndpointPort {
            name: name.into(),
            protocol,
            port: 80,
        };
        let slice = |service: Option<&str>, endpoints: Vec<Endpoint>| EndpointSlice {
            service: service.map(Into::into),
            ports: vec![port("", Protocol::Tcp), port("dns", Protocol::Udp)],
            endpoints,
        };
        let empty = EndpointSlice {
            service: None,
            ports: Vec::new(),
            endpoints: Vec::new(),
        };
        let some = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"];
        let states = [(true, false), (false, true), (false, false), (true, true)];
        let v4 = some
            .iter()
            .zip(states)
            .map(|(address, (ready, draining))| endpoint(address, ready, draining));
        for slice in [
            slice(Some("web"), v4.collect()),
            slice(None, vec![endpoint("fd00::1", true, false)]),
            slice(Some("web"), Vec::new()),
            empty,
        ] {
            let document = check(&Written::Slice(&identity, &slice));
            assert_eq!(document.identity, identity);
            let content = document.content;
            assert!(
                matches!(&content, Content::EndpointSlice(read) if **read == slice),
                "{content:?}"
            );
        }
    }

    /// 100 000 times: eight bytes more are a MiB.
    #[test]
    fn an_object_takes_little_beside_what_it_says() {
        assert!(size_of::<Source>() <= 48, "{}", size_of::<Source>());
        assert!(size_of::<Parsed>() <= 104, "{}", size_of::<Parsed>());
        assert!(size_of::<Document>() <= 88, "{}", size_of::<Document>());
        assert!(size_of::<Workload>() <= 120, "{}", size_of::<Workload>());
        let pod = "{apiVersion: v1, kind: Pod, metadata: {name: p, labels: {a: b}}, \
                   status: {podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}}";
        let kept = source(pod).without_text();
        assert_eq!(kept.parsed.documents.capacity(), 1);
        let Content::Pod(read) = &kept.parsed.documents[0].content else {
            panic!("{kept:?}");
        };
        assert_eq!(read.addresses.capacity(), 2);
        let again = source(&pod.replace("name: p", "name: q"));
        let [one, other] = [&kept, &again].map(|source| &source.parsed.documents[0].identity);
        assert!(Arc::ptr_eq(&one.namespace, &other.namespace));
    }

    #[test]
    fn the_text_of_another_kind_or_with_a_finding_is_kept() {
        for text in [
            "{apiVersion: v1, kind: Node, metadata: {name: n}}",
            "{apiVersion: v1, kind: Pod, metadata: {name: p}, status: {podIP: x}}",
            "",
            "{apiVersion: v1, kind: Pod, metadata: {name: p}}\n---\n\
             {apiVersion: v1, kind: Pod, metadata: {name: q}}",
        ] {
            let source = source(text).without_text();
            assert_eq!(&*source.whole_text(), text.as_bytes());
            assert_eq!(&*source.text, text.as_bytes());
        }
    }
}
