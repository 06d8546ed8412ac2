//! Metrics for other machines: over TLS, and only for callers with a certificate.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cofferdam_tests::agent::Agent;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::world::{Namespace, Wiring, World};
use cofferdam_tests::{cofferdam, skip_unless};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

const AUTHORITY: &str = include_str!("tls/ca.pem");
/// Certificates with their keys. The last is another authority's.
const SERVER: Pair = [
    include_str!("tls/server.pem"),
    include_str!("tls/server.key"),
];
const RENEWED: Pair = [
    include_str!("tls/renewed.pem"),
    include_str!("tls/renewed.key"),
];
const SCRAPER: Pair = [
    include_str!("tls/scraper.pem"),
    include_str!("tls/scraper.key"),
];
const STRANGER: Pair = [
    include_str!("tls/stranger.pem"),
    include_str!("tls/stranger.key"),
];
const PATIENCE: Duration = Duration::from_secs(30);

type Pair = [&'static str; 2];

fn certificate(text: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(text.as_bytes()).expect("a certificate")
}

/// Asks for metrics as somebody. Returns the answer, or nothing if there is none, and the
/// server's certificate.
fn ask(namespace: &Namespace, who: Option<Pair>) -> (Option<String>, CertificateDer<'static>) {
    let mut roots = RootCertStore::empty();
    roots.add(certificate(AUTHORITY)).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .with_root_certificates(roots);
    let config = match who {
        None => config.with_no_client_auth(),
        Some([own, key]) => {
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
            config
                .with_client_auth_cert(vec![certificate(own)], key)
                .expect("a pair")
        }
    };
    let name = "cofferdam-metrics".try_into().expect("a name");
    let session = ClientConnection::new(Arc::new(config), name).expect("a session");
    let inside = namespace.enter().expect("a namespace");
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, 9465)).expect("it listens");
    drop(inside);
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    let mut stream = StreamOwned::new(session, stream);
    let mut answer = String::new();
    let heard = write!(stream, "GET /metrics HTTP/1.1\r\nhost: agent\r\n\r\n")
        .and_then(|()| stream.read_to_string(&mut answer));
    let shown = stream.conn.peer_certificates().expect("it shows who it is")[0].clone();
    (heard.is_ok().then_some(answer), shown.into_owned())
}

fn put(folder: &Path, [certificate, key]: Pair) {
    fs::write(folder.join("tls.crt"), certificate).expect("a file");
    fs::write(folder.join("tls.key"), key).expect("a file");
}

#[test]
fn metrics_over_tls_are_for_callers_with_a_certificate() {
    skip_unless!(Feature::NetworkNamespaces);
    let world = World::plan(Wiring::Ptp).build().expect("a world");
    let agent = Agent::new(cofferdam!(), &world);
    let folder = agent.path("tls");
    fs::create_dir(&folder).expect("a folder");
    put(&folder, SERVER);
    fs::write(folder.join("ca.crt"), AUTHORITY).expect("a file");
    let path = folder.display();
    let mut agent = agent.settings(&format!(
        "metrics_tls: {{address: \"127.0.0.1:9465\", certificate: {path}/tls.crt, \
         key: {path}/tls.key, client_ca: {path}/ca.crt}}\n"
    ));
    agent.start_enforced();
    let node = &world.node().namespace;
    let (answer, shown) = ask(node, Some(SCRAPER));
    let answer = answer.expect("an answer");
    assert!(answer.contains("cofferdam_ready 1"), "{answer}");
    assert_eq!(shown, certificate(SERVER[0]));
    // Nobody, another authority's, and one that is for servers.
    for who in [None, Some(STRANGER), Some(SERVER)] {
        let (answer, _) = ask(node, who);
        assert_eq!(answer, None);
    }
    let inside = node.enter().expect("a namespace");
    let mut plain = TcpStream::connect((Ipv4Addr::LOCALHOST, 9465)).expect("it listens");
    drop(inside);
    write!(plain, "GET /metrics HTTP/1.1\r\nhost: agent\r\n\r\n").expect("it is sent");
    let mut answer = Vec::new();
    // It may be reset.
    _ = plain.read_to_end(&mut answer);
    assert!(
        !String::from_utf8_lossy(&answer).contains("cofferdam"),
        "{answer:?}"
    );
    // In the clear on the node itself, as before.
    assert_eq!(agent.http("/healthz").0, 200);

    // A pair that does not fit changes nothing; one that does is shown from then on.
    put(&folder, [RENEWED[0], SERVER[1]]);
    let deadline = Instant::now() + PATIENCE;
    while !agent.log().contains("with the certificate from before") {
        assert_eq!(ask(node, Some(SCRAPER)).1, certificate(SERVER[0]));
        assert!(Instant::now() < deadline, "{}", agent.log());
    }
    put(&folder, RENEWED);
    while ask(node, Some(SCRAPER)).1 != certificate(RENEWED[0]) {
        assert!(Instant::now() < deadline, "{}", agent.log());
    }
    assert!(ask(node, Some(SCRAPER)).0.is_some());
}

#[test]
fn an_agent_without_its_certificate_says_which_key_to_set() {
    skip_unless!(Feature::NetworkNamespaces);
    let world = World::plan(Wiring::Ptp).build().expect("a world");
    let mut agent = Agent::new(cofferdam!(), &world).settings(
        "metrics_tls: {address: \"127.0.0.1:9465\", certificate: /nowhere, key: /k, client_ca: /c}\n",
    );
    agent.start(&[]);
    let deadline = Instant::now() + PATIENCE;
    while !agent
        .log()
        .contains("cannot read /nowhere: set `metrics_tls.certificate`")
    {
        assert!(Instant::now() < deadline, "{}", agent.log());
        std::thread::yield_now();
    }
}
