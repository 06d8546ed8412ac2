//! Habits of the shop's members: traffic that dashboards can show.
//!
//! Each attempt is held against what the library states, as in the scenes. The policies that
//! are added meanwhile change none of these answers: they are on trial, or deny again what is
//! denied already.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use cofferdam_tests::{
    expectations::{Question, Template},
    faults::pause,
    packet::{Body, Family, Packet, arp_announcement, tcp, udp},
    traffic::{Conversation, FrameSocket, Place, Probe, probe},
};

use crate::{agent::Agent, shop::Shop};

/// An attempt that a member makes again and again.
struct Habit {
    source: &'static str,
    destination: &'static str,
    probe: Probe,
    /// Attempts in a second, on average.
    rate: f64,
    /// Seconds from one busy time to the next.
    period: f64,
}

const fn habit(
    [source, destination]: [&'static str; 2],
    probe: Probe,
    rate: f64,
    period: f64,
) -> Habit {
    Habit {
        source,
        destination,
        probe,
        rate,
        period,
    }
}

/// All of them; the library states the answers.
const HABITS: [Habit; 17] = [
    habit(
        ["external/internet", "shop/web"],
        Probe::Tcp(8080),
        6.0,
        140.0,
    ),
    habit(["guests/intruder", "shop/web"], Probe::Tcp(8080), 1.5, 60.0),
    habit(
        ["guests/intruder", "external/internet"],
        Probe::Tcp(8080),
        1.0,
        90.0,
    ),
    habit(["shop/web", "shop/api"], Probe::Tcp(8080), 5.0, 140.0),
    habit(["shop/api", "shop/db"], Probe::Tcp(5432), 4.0, 140.0),
    habit(["shop/web", "infra/dns"], Probe::Udp(53), 3.0, 70.0),
    habit(["shop/api", "infra/dns"], Probe::Tcp(53), 0.7, 100.0),
    habit(
        ["monitoring/scraper", "shop/web"],
        Probe::Tcp(9100),
        0.5,
        300.0,
    ),
    habit(
        ["monitoring/scraper", "shop/api"],
        Probe::Tcp(9100),
        0.5,
        300.0,
    ),
    habit(
        ["monitoring/scraper", "shop/db"],
        Probe::Tcp(9187),
        0.5,
        300.0,
    ),
    habit(["guests/intruder", "shop/db"], Probe::Tcp(5432), 1.6, 110.0),
    habit(["guests/intruder", "shop/api"], Probe::Tcp(8080), 1.2, 80.0),
    habit(["guests/intruder", "infra/dns"], Probe::Udp(53), 0.8, 130.0),
    habit(
        ["external/internet", "shop/api"],
        Probe::Tcp(9100),
        0.9,
        170.0,
    ),
    habit(["shop/web", "shop/db"], Probe::Tcp(5432), 1.1, 150.0),
    habit(
        ["shop/db", "external/internet"],
        Probe::Tcp(8080),
        0.6,
        200.0,
    ),
    habit(
        ["monitoring/scraper", "infra/dns"],
        Probe::Udp(53),
        0.5,
        120.0,
    ),
];

/// Member that sends packets in the name of others.
const INTRUDER: &str = "guests/intruder";
/// Ends of the connections that last, and their port.
const LASTING: ([&str; 2], u16) = (["shop/api", "shop/db"], 5432);
/// Connections that last.
const CONNECTIONS: usize = 24;
/// Bytes that one of them carries there and back, now and then.
const WORDS: usize = 4 << 10;
/// Shortest time from one round to the next.
const ROUND: Duration = Duration::from_millis(100);
/// Rounds from one of them to the next: packets that lie, looks at the list of endpoints, and
/// exchanges over connections that last.
const LIES: usize = 20;
const LOOKS: usize = 50;
const EXCHANGES: usize = 5;
/// Longest wait for an answer that must come, and for one that must not.
const PATIENCE: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_millis(15);
/// Ports that the intruder tries in one scan.
const SCANNED: std::ops::Range<u16> = 1..70;
/// Wait for the answer of one of these ports.
const GLANCE: Duration = Duration::from_millis(2);

/// Policies that are added meanwhile: the share of the time after which, the file, the text.
const COMING: [(f64, &str, &str); 3] = [
    (0.15, "guests-on-trial.yaml", GUESTS_ON_TRIAL),
    (0.3, "lookups-on-trial.yaml", LOOKUPS_ON_TRIAL),
    (0.55, "guests-away.yaml", GUESTS_AWAY),
];
/// Share of the time after which the intruder scans.
const SCAN: f64 = 0.45;

const GUESTS_ON_TRIAL: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: default-deny
  namespace: guests
  annotations: {cofferdam.dev/mode: audit}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
";

const LOOKUPS_ON_TRIAL: &str = "\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata:
  name: no-lookups-by-tcp
  annotations: {cofferdam.dev/mode: audit}
spec:
  tier: Admin
  priority: 20
  subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: infra}}}
  ingress:
  - name: by-tcp
    action: Deny
    from: [{namespaces: {}}]
    protocols: [{tcp: {destinationPort: {number: 53}}}]
";

const GUESTS_AWAY: &str = "\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: guests-away-from-data}
spec:
  tier: Admin
  priority: 10
  subject:
    pods:
      namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}
      podSelector: {matchLabels: {app: db}}
  ingress:
  - name: guests
    action: Deny
    from: [{namespaces: {matchLabels: {kubernetes.io/metadata.name: guests}}}]
";

/// The shop, and the policies in force there.
pub(crate) struct Habits<'s> {
    pub(crate) shop: &'s Shop<'s>,
    pub(crate) template: &'s Template,
    /// Folder that the agent reads.
    pub(crate) policies: &'s Path,
}

impl Habits<'_> {
    /// Follows them for a time. Returns the attempts whose answer is not the stated one.
    pub(crate) fn follow(&self, agent: &Agent<'_>, time: Duration) -> Result<Vec<String>> {
        let mut objections = Vec::new();
        let mut due = [0.0; HABITS.len()];
        let mut coming = COMING.iter().peekable();
        let mut has_scanned = false;
        let mut talks = self.connected()?;
        let started = Instant::now();
        let mut last = started;
        for round in 0_usize.. {
            let elapsed = started.elapsed();
            if elapsed >= time {
                break;
            }
            let share = elapsed.as_secs_f64() / time.as_secs_f64();
            if let Some((_, file, text)) = coming.next_if(|(when, ..)| share >= *when) {
                fs::write(self.policies.join(file), text).context("cannot write a policy")?;
                println!("  {file} after {} s", elapsed.as_secs());
                agent.sync()?;
            }
            if !has_scanned && share >= SCAN {
                has_scanned = true;
                self.scan()?;
            }
            let since = last.elapsed().as_secs_f64();
            last = Instant::now();
            for (habit, due) in HABITS.iter().zip(&mut due) {
                let angle = elapsed.as_secs_f64() / habit.period * std::f64::consts::TAU;
                *due += since * habit.rate * (1.0 + 0.7 * angle.sin());
                while *due >= 1.0 {
                    *due -= 1.0;
                    objections.extend(self.attempt(habit, round)?);
                }
            }
            if round.is_multiple_of(LIES) {
                self.lie()?;
            }
            if round.is_multiple_of(LOOKS) {
                // The agent times it, as a request of the plugin.
                agent.ask(["endpoint", "list"])?;
            }
            if round.is_multiple_of(EXCHANGES) {
                let number = round / EXCHANGES % talks.len();
                let mut words = format!("{round} ").into_bytes();
                words.resize(WORDS, b'.');
                let exchanged = talks[number].exchange(&words, PATIENCE);
                exchanged.context("a connection that lasts ended")?;
            }
            pause(ROUND.saturating_sub(last.elapsed()));
        }
        Ok(objections)
    }

    fn connected(&self) -> Result<Vec<Conversation>> {
        let ([source, destination], port) = LASTING;
        let from = self.shop.member(source)?;
        let to = self.shop.member(destination)?;
        let talks = (0..CONNECTIONS).map(|number| {
            let family = Family::BOTH[number % 2];
            Conversation::tcp(from, to.ip(family), port, PATIENCE)
                .with_context(|| format!("{source} cannot connect to {destination}"))
        });
        talks.collect()
    }

    /// Makes an attempt. Returns `None` if its answer is the stated one.
    fn attempt(&self, habit: &Habit, round: usize) -> Result<Option<String>> {
        let question = Question {
            source: habit.source.to_owned(),
            destination: habit.destination.to_owned(),
            probe: habit.probe,
            family: Family::BOTH[round % 2],
        };
        let expected = self
            .template
            .expected
            .get(&question)
            .with_context(|| format!("nothing is stated about {question}"))?;
        let patience = if expected.allowed { PATIENCE } else { SILENCE };
        let from = self.shop.member(habit.source)?;
        let to = self.shop.member(habit.destination)?;
        let outcome = probe(from, to.ip(question.family), habit.probe, patience)?;
        let is_as_stated = outcome.is_reached() == expected.allowed;
        Ok((!is_as_stated).then(|| format!("{question}: {outcome}")))
    }

    /// Has the intruder look for open ports of the database.
    fn scan(&self) -> Result<()> {
        let from = self.shop.member(INTRUDER)?;
        let to = self.shop.member("shop/db")?;
        for port in SCANNED {
            probe(from, to.ip(Family::V4), Probe::Tcp(port), GLANCE)?;
        }
        Ok(())
    }

    /// Has the intruder send packets that no honest stack sends.
    fn lie(&self) -> Result<()> {
        let from = Place::from(self.shop.member(INTRUDER)?).end;
        let to = Place::from(self.shop.member("shop/web")?).end;
        let socket = FrameSocket::open(self.shop.member(INTRUDER)?.namespace(), "eth0")?;
        let other = Place::from(self.shop.member("shop/api")?).end;
        let IpAddr::V4(others) = other.ip(Family::V4).context("it has an address")? else {
            return Ok(());
        };
        let honest = || tcp().from(from).to(to).dport(8080);
        send(&socket, &honest().source_ip(others).syn(), 2)?;
        send(&socket, &honest().ack(), 1)?;
        send(&socket, &honest().vlan(7).syn(), 1)?;
        send(
            &socket,
            &udp().from(from).to(to).source_ip(Ipv4Addr::LOCALHOST),
            1,
        )?;
        send(&socket, &arp_announcement().from(from).sender_ip(others), 1)
    }
}

fn send<S: Body>(socket: &FrameSocket, packet: &Packet<S>, times: usize) -> Result<()> {
    for _ in 0..times {
        socket.send(packet).context("cannot send a frame")?;
    }
    Ok(())
}
