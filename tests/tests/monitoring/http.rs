//! The agent's HTTP server answers within a tenth of a second, whatever other callers do and
//! however busy the agent is.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_tests::agent::Agent;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::world::{Namespace, Wiring, World};
use cofferdam_tests::{cofferdam, skip_unless};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

const SETTINGS: &str = "limits: {endpoints: 32, slots: 65536, table_pages: 256}\n";
const WITHIN: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(20);
const PAGES: [&str; 3] = ["/healthz", "/readyz", "/metrics"];
/// Answers of each page of which the half must come in time: the machine does other things.
const TIMES: usize = 15;
/// Callers that connect and say nothing.
const IDLE: usize = 1_000;

fn connect(namespace: &Namespace) -> TcpStream {
    let _inside = namespace.enter().expect("a namespace");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 9464));
    let stream = TcpStream::connect(address).expect("the agent listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    stream
}

/// Says something, and returns the status line and the rest of the answer.
fn ask(namespace: &Namespace, words: &str, then: Option<Shutdown>) -> (String, String) {
    let mut stream = connect(namespace);
    // The agent may have heard enough.
    _ = stream.write_all(words.as_bytes());
    if let Some(how) = then {
        _ = stream.shutdown(how);
    }
    let mut answer = Vec::new();
    // Or be too busy to hear the rest.
    _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (line, rest) = answer.split_once("\r\n").unwrap_or_default();
    (line.to_owned(), rest.to_owned())
}

fn get(page: &str) -> String {
    format!("GET {page} HTTP/1.1\r\nhost: agent\r\n\r\n")
}

/// Asks for all pages, and holds most of the answers to the time.
#[track_caller]
fn assert_in_time(namespace: &Namespace, what: &str) {
    for page in PAGES {
        let mut times: Vec<Duration> = (0..TIMES)
            .map(|_| {
                let began = Instant::now();
                let (line, _) = ask(namespace, &get(page), None);
                assert!(
                    line.contains(" 200 ") || page == "/readyz",
                    "{what}: {page}: {line}"
                );
                began.elapsed()
            })
            .collect();
        times.sort_unstable();
        assert!(times[TIMES / 2] <= WITHIN, "{what}: {page}: {times:?}");
    }
}

fn agent(world: &World) -> Agent {
    let mut agent = Agent::new(cofferdam!(), world).settings(SETTINGS);
    agent.start_enforced();
    agent
}

fn world() -> World {
    World::plan(Wiring::Ptp).build().expect("a world")
}

#[test]
fn callers_that_behave_badly_keep_nobody_else_waiting() {
    skip_unless!(Feature::NetworkNamespaces);
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("limits");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("limits");
    let world = world();
    let agent = agent(&world);
    let node = &world.node().namespace;
    assert_in_time(node, "nobody else");

    let idle: Vec<TcpStream> = (0..IDLE).map(|_| connect(node)).collect();
    assert_in_time(node, "idle connections");
    let evicted = agent.metric("cofferdam_http_evicted_connections_total");
    assert!(evicted as usize >= IDLE / 2, "{evicted}");
    drop(idle);

    let mut slow: Vec<TcpStream> = (0..50).map(|_| connect(node)).collect();
    for letter in "GET /metrics HTTP/1.1\r\nx".bytes() {
        for stream in &mut slow {
            // It may have been closed.
            _ = stream.write_all(&[letter]);
        }
    }
    assert_in_time(node, "requests that never end");
    drop(slow);

    let unread: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = connect(node);
            _ = stream.write_all(get("/metrics").as_bytes());
            stream
        })
        .collect();
    assert_in_time(node, "answers that nobody reads");
    drop(unread);

    let long = format!(
        "GET /metrics HTTP/1.1\r\nx: {}\r\n\r\n",
        "y".repeat(1 << 20)
    );
    let (line, _) = ask(node, &long, None);
    assert!(line.contains(" 431 "), "{line}");
    let (line, rest) = ask(node, &get("/healthz").repeat(100), None);
    assert!(
        line.contains(" 200 ") && rest.ends_with("ok\n"),
        "pipelined: {line}{rest}"
    );
    for page in PAGES {
        let (line, _) = ask(node, &get(page), Some(Shutdown::Write));
        assert!(line.contains(" 200 "), "half closed: {line}");
    }
    for nonsense in [
        "\r\n\r\n",
        "\0\0\0\0",
        "POST /metrics HTTP/1.1\r\nhost: a\r\n\r\n",
    ] {
        let (line, _) = ask(node, nonsense, Some(Shutdown::Write));
        assert!(!line.contains(" 200 "), "{nonsense:?}: {line}");
    }
    let scrapes: Vec<Duration> = thread::scope(|scope| {
        let scrapes: Vec<_> = (0..50)
            .map(|_| {
                scope.spawn(|| {
                    let began = Instant::now();
                    let (line, rest) = ask(node, &get("/metrics"), None);
                    assert!(line.contains(" 200 ") && rest.contains("cofferdam_revision "));
                    began.elapsed()
                })
            })
            .collect();
        let scrapes = scrapes.into_iter();
        scrapes.map(|one| one.join().expect("an answer")).collect()
    });
    let in_time = scrapes.iter().filter(|time| **time <= 2 * WITHIN).count();
    assert!(2 * in_time >= scrapes.len(), "many at once: {scrapes:?}");
    assert_in_time(node, "afterwards");
}

#[test]
fn every_local_user_may_ask() {
    skip_unless!(Feature::NetworkNamespaces);
    let world = world();
    let _agent = agent(&world);
    let _inside = world.node().namespace.enter().expect("a namespace");
    let script = "exec 3<>/dev/tcp/127.0.0.1/9464; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; \
                  read -r line <&3; echo \"$line\"";
    let output = Command::new("setpriv")
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "bash",
            "-c",
            script,
        ])
        .output()
        .expect("setpriv is there");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(" 200 OK"), "{output:?}");
}

/// Pods and policies that take an agent a while; different ones for each number.
fn many(number: usize) -> String {
    let mut text = String::new();
    for one in 0..1_500 {
        let (high, low) = (one / 250, one % 250 + 1);
        writeln!(
            text,
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: p{one}, namespace: x, labels: \
             {{app: a{one}, v: v{number}}}}}, status: {{podIP: 10.9.{high}.{low}}}}}\n\
             ---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: n{one}, \
             namespace: x}}, spec: {{podSelector: {{matchLabels: {{app: a{one}}}}}, ingress: \
             [{{from: [{{podSelector: {{matchLabels: {{app: a{number}}}}}}}]}}]}}}}"
        )
        .expect("writing to a string");
    }
    text
}

#[test]
fn an_agent_that_is_busy_says_what_it_knew_last() {
    skip_unless!(Feature::NetworkNamespaces);
    let world = world();
    let agent = agent(&world);
    let node = &world.node().namespace;
    let documents = [many(0), many(1)];
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in (0..2).cycle() {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                agent.document("many.yaml", &documents[number]);
                agent.sync();
            }
        });
        let result = std::panic::catch_unwind(|| {
            let deadline = Instant::now() + PATIENCE;
            // Until there is a page that was made while the agent was busy.
            loop {
                let (_, text) = ask(node, &get("/metrics"), None);
                let age = text.lines().find_map(|line| {
                    let age = line.strip_prefix("cofferdam_page_age_seconds ")?;
                    age.parse::<f64>().ok()
                });
                if age.expect("an age") > 0.05 {
                    break;
                }
                assert!(Instant::now() < deadline, "the agent was never busy");
            }
            assert_in_time(node, "busy");
        });
        is_over.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    // And of now when it has time.
    agent.sync();
    let revision = agent.status().revision;
    assert_eq!(agent.metric("cofferdam_revision"), revision);
}
