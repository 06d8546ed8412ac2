//! Pods that nodes announce of their own endpoints: `endpoints/NODE/NAMESPACE/NAME`.
//!
//! Invariant: a node speaks for its own endpoints alone. A key there stands for the one Pod
//! that it names, on the node that it names; a text that says anything else, a policy say,
//! counts for nothing.

use std::net::IpAddr;
use std::sync::Arc;

use cofferdam_documents::{
    ANNOUNCED_PREFIX, Content, Document, ETCD_PREFIX, Identity, Kind, Parsed, Rejected, Source,
    pod_text,
};
use cofferdam_syntax::diagnostic::{Code, Diagnostic, Place, Severity};

/// Folder of the keys.
pub(super) const FOLDER: &str = "endpoints/";

/// The Pod that a key names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The node.
    pub node: String,
    /// The Pod's namespace.
    pub namespace: String,
    /// The Pod's name.
    pub name: String,
}

impl Announcement {
    /// Returns the Pod that a document's name in place of a file's names, `None` if it is the
    /// name of anything else.
    #[must_use]
    pub fn of_file(file: &str) -> Option<Self> {
        Self::parse(file.strip_prefix(ANNOUNCED_PREFIX)?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/').map(str::to_owned);
        let [node, namespace, name] = [parts.next()?, parts.next()?, parts.next()?];
        let is_whole = [&node, &namespace, &name]
            .iter()
            .all(|part| !part.is_empty());
        (is_whole && parts.next().is_none()).then_some(Self {
            node,
            namespace,
            name,
        })
    }

    /// Returns the key below the prefix.
    #[must_use]
    pub fn key(&self) -> String {
        let Self {
            node,
            namespace,
            name,
        } = self;
        format!("{FOLDER}{node}/{namespace}/{name}")
    }

    fn identity(&self) -> Identity {
        Identity {
            kind: Kind::Pod,
            namespace: self.namespace.as_str().into(),
            name: self.name.as_str().into(),
        }
    }
}

/// Reads the text at a key of [`FOLDER`]. Returns it with its Pod, `None` if it is not that.
pub(super) fn read(key: &str, text: Arc<[u8]>) -> (Source, Option<Announcement>) {
    let file: Arc<str> = format!("{ETCD_PREFIX}{key}").into();
    let mut source = Source::new(file.clone(), text);
    let announcement = Announcement::of_file(&file);
    let objection = match &announcement {
        None => Some("the key is not endpoints/NODE/NAMESPACE/NAME".to_owned()),
        Some(announcement) => objection(announcement, &source.parsed),
    };
    let Some(message) = objection else {
        return (source, announcement);
    };
    let place = Place {
        file,
        line: 1,
        column: 1,
    };
    let mut diagnostics = source.parsed.diagnostics.clone();
    if source.parsed.rejected.is_empty() {
        diagnostics.push(Diagnostic {
            place: place.clone(),
            code: Code::Missing,
            severity: Severity::Error,
            message,
            hint: Some("only the agent of that node puts its endpoints there".to_owned()),
        });
    }
    let identity = announcement.as_ref().map(Announcement::identity);
    source.parsed = Arc::new(Parsed {
        rejected: vec![Rejected { place, identity }],
        diagnostics,
        ..Parsed::default()
    });
    (source, None)
}

/// Returns the reason for which a text is not the Pod that its key names.
fn objection(announcement: &Announcement, parsed: &Parsed) -> Option<String> {
    let wanted = announcement.identity();
    let is_wanted = |document: &Document| match &document.content {
        Content::Pod(pod) => {
            document.identity == wanted
                && pod.node.as_deref() == Some(announcement.node.as_str())
                && !pod.host_network
        }
        _ => false,
    };
    let is_it = match &parsed.documents[..] {
        [document] => parsed.rejected.is_empty() && is_wanted(document),
        _ => false,
    };
    (!is_it).then(|| {
        format!(
            "the text is not {wanted} with `spec.nodeName: {}` and nothing else, as its key says",
            announcement.node
        )
    })
}

/// Returns the addresses of the Pod that a text announces.
pub(super) fn addresses(source: &Source) -> &[IpAddr] {
    match source.parsed.documents.first().map(|one| &one.content) {
        Some(Content::Pod(pod)) => pod.own_addresses(),
        _ => &[],
    }
}

/// Returns what is left of an announced Pod without some of its addresses.
pub(super) fn without(source: &Source, withheld: &[IpAddr]) -> Source {
    let Some(Content::Pod(pod)) = source.parsed.documents.first().map(|one| &one.content) else {
        return source.clone();
    };
    let mut pod = (**pod).clone();
    pod.addresses.retain(|address| !withheld.contains(address));
    Source::new(source.file.clone(), pod_text(&pod).into_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop}\n\
                       spec: {nodeName: n2}\nstatus: {podIP: 10.0.0.1}\n";
    const POLICY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                          metadata: {name: web, namespace: shop}\nspec: {podSelector: {}}\n";

    fn read_at(key: &str, text: &str) -> (Source, Option<Announcement>) {
        read(key, Arc::from(text.as_bytes()))
    }

    #[test]
    fn a_key_stands_for_the_pod_that_it_names() {
        let (source, announcement) = read_at("endpoints/n2/shop/web", POD);
        assert_eq!(source.parsed.rejected, []);
        assert_eq!(addresses(&source), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        let announcement = announcement.expect("it is that pod");
        assert_eq!(announcement.key(), "endpoints/n2/shop/web");
        assert_eq!(Announcement::of_file(&source.file), Some(announcement));
        assert_eq!(Announcement::of_file("etcd:documents/a/b/c"), None);
    }

    #[test]
    fn a_node_speaks_for_its_own_endpoints_alone() {
        let twice = format!("{POD}---\n{POD}");
        let both = format!("{POD}---\n{POLICY}");
        let of_node = POD.replace("nodeName: n2", "nodeName: n2, hostNetwork: true");
        for (key, text) in [
            ("endpoints/n2/shop/web", POLICY),
            ("endpoints/n2/shop/web", &twice),
            ("endpoints/n2/shop/web", &both),
            ("endpoints/n2/shop/web", &of_node),
            ("endpoints/n2/shop/web", ""),
            ("endpoints/n2/shop/web", "kind: ["),
            ("endpoints/n2/shop/db", POD),
            ("endpoints/n2/other/web", POD),
            ("endpoints/n1/shop/web", POD),
            ("endpoints/n2/web", POD),
            ("endpoints/n2/shop/web/more", POD),
            ("endpoints//shop/web", POD),
        ] {
            let (source, announcement) = read_at(key, text);
            assert_eq!(announcement, None, "{key}: {text}");
            assert_eq!(source.parsed.documents, []);
            assert_eq!(source.parsed.rejected.len(), 1);
            assert!(!source.parsed.diagnostics.is_empty());
        }
    }

    #[test]
    fn an_address_that_counts_for_another_is_left_out() {
        let text = POD.replace(
            "podIP: 10.0.0.1",
            "podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]",
        );
        let (source, _) = read_at("endpoints/n2/shop/web", &text);
        let left: Vec<IpAddr> = addresses(&without(&source, &["10.0.0.1".parse().unwrap()])).into();
        assert_eq!(left, ["fd00::1".parse::<IpAddr>().unwrap()]);
    }
}
