//! Agents that come and go over one set of pins, and traffic that goes on
//! meanwhile.
//!
//! A test runs in a mount namespace of its own making, with a BPF file system that
//! nobody else sees and that is gone with its last user. Making a set of pins costs
//! the verifier half a second, and minutes under emulation, so that tests take
//! turns with one that is made once; adopting it costs nothing.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU16, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use cofferdam_dataplane::{Adopted, Behaviour, Kernel};
use cofferdam_tests::{
    firewall::{Firewall, LIMITS, Pod, named},
    packet::{Family, tcp},
    traffic::{FrameSocket, Place, Probe, Server, carrying, probe},
    world::{Entered, Wiring, World},
};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

use super::verdicts::{DB_FROM_WEB, shop};

/// Longest wait for a packet that must arrive, on the slowest machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Time after which a packet is believed not to arrive.
const IMPATIENCE: Duration = Duration::from_millis(400);
/// Mount point of the tests' BPF file systems, in mount namespaces of their own.
const BPFFS: &str = "/sys/fs/bpf";
/// Connections that are tried in turn; one workload's share of a flow table is more.
const PORTS: u16 = 32;
/// Set where a test runs again as an agent.
const AGENT: &str = "COFFERDAM_AGENT_OF_A_TEST";

/// The mount namespace in which the set is that tests share.
static SHARED: Mutex<Option<File>> = Mutex::new(None);

/// Nobody reaches web pods: what the database answers them passes by the flow alone.
const WEB_FROM_NOBODY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web-from-nobody, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
";

/// Returns the directory of the pins.
pub(crate) fn root() -> PathBuf {
    Path::new(BPFFS).join("cofferdam")
}

/// An agent begins: opens the pins with the limits and settings of most tests.
pub(crate) fn open() -> Kernel {
    Kernel::open(&root(), LIMITS, &Behaviour::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// Mounts an empty BPF file system over whatever is there.
pub(crate) fn mount_bpffs() {
    let none = None::<&str>;
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), none).expect("a mount");
}

/// Takes the topmost BPF file system away, with all its pins.
pub(crate) fn unmount_bpffs() {
    umount2(BPFFS, MntFlags::MNT_DETACH).expect("what was mounted before");
}

/// A turn with the shared set.
pub(crate) struct Turn {
    _shared: MutexGuard<'static, Option<File>>,
}

/// Waits for a turn with the shared set, and brings the calling thread to a BPF
/// file system of its own on which that set is pinned as well. Nothing of what is
/// done there is seen by others but for what is in the maps, and those are empty
/// when a turn begins, save for a table.
pub(crate) fn take_turn() -> (Turn, Kernel) {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    match &*shared {
        Some(namespace) => {
            // A thread that shares its working directory with others may not
            // change its mounts.
            unshare(CloneFlags::CLONE_FS).expect("root");
            setns(namespace, CloneFlags::CLONE_NEWNS).expect("root");
        }
        None => {
            unshare(CloneFlags::CLONE_NEWNS).expect("root");
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            let none = None::<&str>;
            mount(none, "/", none, private, none).expect("a private namespace");
            mount_bpffs();
            *shared = Some(File::open("/proc/thread-self/ns/mnt").expect("a namespace"));
        }
    }
    let mut kernel = open();
    for endpoint in kernel.endpoints() {
        kernel.remove_endpoint(endpoint.ifindex);
    }
    for (address, _) in kernel.bound_addresses() {
        kernel.release_address(address);
    }
    unshare(CloneFlags::CLONE_NEWNS).expect("root");
    mount_bpffs();
    assert!(kernel.restore_pins(false).expect("room for pins"));
    drop(kernel);
    let kernel = open();
    assert_eq!(kernel.adopted(), Adopted::Everything);
    (Turn { _shared: shared }, kernel)
}

/// The shop of the other tests, with somebody at home in every pod.
pub(crate) struct Shop {
    pub(crate) world: World,
    pub(crate) pods: Vec<Pod>,
    _servers: Vec<Server>,
    /// The thread is on the node, as an agent is.
    _inside: Entered,
}

impl Shop {
    pub(crate) fn build() -> Self {
        let (world, pods) = shop(Wiring::Ptp);
        let places = world.workloads().iter().map(Place::from);
        let servers = Server::start_all(places, &[Probe::Tcp(5432)]).expect("servers");
        let inside = world.node().namespace.enter().expect("the node");
        Self {
            world,
            pods,
            _servers: servers,
            _inside: inside,
        }
    }

    /// The interfaces of the workloads on the node.
    pub(crate) fn interfaces(&self) -> Vec<u32> {
        let workloads = self.world.workloads().iter();
        workloads.map(|workload| workload.host_ifindex).collect()
    }

    /// Puts the shop's policy in force.
    pub(crate) fn fill(&self, kernel: Kernel) -> Firewall {
        let mut firewall = Firewall::over(kernel);
        let policies = format!("{DB_FROM_WEB}---\n{WEB_FROM_NOBODY}");
        firewall.enforce(&self.world, &self.pods, &policies);
        firewall
    }

    /// Puts the programs on all interfaces.
    pub(crate) fn enforce(&self, kernel: &mut Kernel) {
        for ifindex in self.interfaces() {
            let done = kernel.enforce_on(ifindex);
            done.unwrap_or_else(|error| panic!("{error}"));
        }
        self.assert_enforced(kernel);
    }

    /// Everything stands where it should.
    pub(crate) fn assert_enforced(&self, kernel: &Kernel) {
        for ifindex in self.interfaces() {
            let states = kernel.hooks(ifindex).expect("interfaces");
            let right = states.iter().all(|state| state.ok && !state.foreign);
            assert!(right && !states.is_empty(), "{states:?}");
        }
    }

    /// The programs that stand on an interface, by hook.
    pub(crate) fn programs(&self, kernel: &Kernel, ifindex: u32) -> Vec<(&'static str, u32)> {
        let states = kernel.hooks(ifindex).expect("an interface");
        let standing = states.into_iter();
        standing
            .filter_map(|state| Some((state.hook, state.program_id?)))
            .collect()
    }

    /// Returns `true` if the database can be reached from a pod, within [`IMPATIENCE`].
    pub(crate) fn reaches(&self, from: &str) -> bool {
        self.reaches_within(from, IMPATIENCE)
    }

    fn reaches_within(&self, from: &str, timeout: Duration) -> bool {
        let to = named(&self.world, "shop/db")
            .end
            .ip(Family::V4)
            .expect("workloads have both families");
        let from = named(&self.world, from);
        let outcome = probe(from, to, Probe::Tcp(5432), timeout);
        outcome.expect("a probe").is_reached()
    }

    /// The policy holds for new connections.
    pub(crate) fn assert_policy(&self) {
        // Whoever had everything dropped before had the node give up on the database's
        // MAC, and a connection that waits for it is told so: another may be needed.
        let deadline = Instant::now() + PATIENCE;
        while !self.reaches_within("shop/web", PATIENCE) {
            assert!(Instant::now() < deadline, "allowed by a rule");
        }
        assert!(!self.reaches("shop/cache"), "not allowed by any");
    }

    /// Returns `true` if a packet that policy denies arrives at the database.
    pub(crate) fn denied_arrives(&self) -> bool {
        let [cache, db] = ["shop/cache", "shop/db"].map(|name| named(&self.world, name));
        let [out, arrivals] =
            [cache, db].map(|end| FrameSocket::open(&end.namespace, "eth0").expect("a socket"));
        let syn = tcp().from(cache.end).to(db.end).dport(5432).syn();
        let denied = syn.payload(b"denied").via(cache.gateway.mac);
        out.send(&denied).expect("sent");
        let arrived = arrivals.next(IMPATIENCE, carrying(b"denied"));
        arrived.expect("a capture").is_some()
    }

    /// Sends, while `work` goes on, packets that are denied and packets that are
    /// allowed in turn. None of the first and all of the second must arrive.
    pub(crate) fn without_a_gap<T>(&self, work: impl FnOnce() -> T) -> T {
        let [web, cache, db] =
            ["shop/web", "shop/cache", "shop/db"].map(|name| named(&self.world, name));
        let stop = AtomicBool::new(false);
        let rounds = AtomicU16::new(0);
        let arrivals = FrameSocket::open(&db.namespace, "eth0").expect("a socket");
        let [from_web, from_cache] =
            [web, cache].map(|from| FrameSocket::open(&from.namespace, "eth0").expect("a socket"));
        std::thread::scope(|scope| {
            let traffic = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let port = rounds.fetch_add(1, Ordering::Relaxed) % PORTS + 0x4000;
                    let syn = |marker: &[u8]| {
                        tcp()
                            .to(db.end)
                            .dport(5432)
                            .sport(port)
                            .syn()
                            .payload(marker)
                    };
                    let denied = syn(b"denied").from(cache.end).via(cache.gateway.mac);
                    let marker = format!("allowed {port}");
                    let allowed = syn(marker.as_bytes()).from(web.end).via(web.gateway.mac);
                    from_cache.send(&denied).expect("sent");
                    from_web.send(&allowed).expect("sent");
                    let before = arrivals
                        .before(PATIENCE, carrying(marker.as_bytes()))
                        .expect("a capture")
                        .expect("what is allowed arrives");
                    assert!(!before.iter().any(|frame| carrying(b"denied")(frame)));
                }
            });
            // Some before, and some after.
            let a_while = || {
                let since = rounds.load(Ordering::Relaxed);
                let passed = || rounds.load(Ordering::Relaxed).wrapping_sub(since);
                while passed() < 20 && !traffic.is_finished() {
                    std::thread::yield_now();
                }
            };
            a_while();
            // The traffic must end when the work fails, or the scope never does.
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            a_while();
            stop.store(true, Ordering::Relaxed);
            let without_a_gap = traffic.join();
            let done = done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            without_a_gap.expect("no gap");
            done
        })
    }
}

/// Another process, that is an agent.
pub(crate) struct Agent {
    process: Child,
}

impl Agent {
    /// Returns `true` if this process is an agent; `test` then goes on in [`Agent::live`].
    pub(crate) fn is_this() -> bool {
        std::env::var_os(AGENT).is_some()
    }

    /// Starts one, which is a test of this file again, and does not wait for it.
    pub(crate) fn start(test: &str, interfaces: &[u32]) -> Self {
        let list: Vec<String> = interfaces.iter().map(u32::to_string).collect();
        let process = Command::new(std::env::current_exe().expect("a path"))
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(AGENT, list.join(","))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        Self {
            process: process.expect("a process"),
        }
    }

    /// Waits until it enforces.
    pub(crate) fn wait_enforcing(&mut self) {
        let output = self.process.stdout.take().expect("piped");
        let (said, heard) = mpsc::channel();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(output).lines().map_while(Result::ok);
            // Nobody listens any more when the test has failed.
            let _heard = said.send(lines.find(|line| line.contains("enforcing")));
        });
        let line = heard.recv_timeout(10 * PATIENCE).expect("an answer");
        assert!(line.is_some(), "the agent enforces");
    }

    /// Kills it as a power cut would.
    pub(crate) fn kill(mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }

    /// Runs as the agent: opens the pins, puts everything in force again, and stays until
    /// it is killed.
    pub(crate) fn live() {
        let mut kernel = open();
        let table = kernel.memory().table.to_vec();
        if kernel.revision().is_some() {
            kernel.publish(&table).expect("it was in force before");
        }
        for (address, slot) in kernel.bound_addresses() {
            kernel.bind_address(address, slot).expect("it was bound");
        }
        for endpoint in kernel.endpoints() {
            kernel.set_endpoint(&endpoint).expect("there is room");
        }
        let interfaces = std::env::var(AGENT).expect("set by the test");
        for ifindex in interfaces.split(',').filter_map(|text| text.parse().ok()) {
            kernel.enforce_on(ifindex).expect("it exists");
        }
        println!("enforcing");
        std::io::stdin()
            .read_line(&mut String::new())
            .expect("a pipe");
    }
}

/// Returns the directory of the maps, of the only set there is.
pub(crate) fn set() -> PathBuf {
    let mut sets = names(&root())
        .into_iter()
        .filter(|name| name.starts_with("maps-"));
    let set = sets.next().expect("a set was made");
    assert_eq!(sets.next(), None);
    root().join(set)
}

/// Names in a directory of the pins, in order.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let name = |entry: std::io::Result<fs::DirEntry>| {
        let name = entry.expect("an entry").file_name();
        name.into_string().expect("our names are ASCII")
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}
