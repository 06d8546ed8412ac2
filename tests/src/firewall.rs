//! A firewall over a world: documents in, verdicts out, by three roads.
//!
//! The documents of a world's workloads and of its policies are compiled and
//! loaded into the kernel. A packet can then be judged by the loaded program
//! ([`Firewall::run`]), by the same code over the same memory in user space
//! ([`Firewall::judge`]), and by the oracle from the documents alone
//! ([`Firewall::oracle`]).

use std::{
    fmt::Write as _,
    net::IpAddr,
    ops::{Deref, DerefMut},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use cofferdam_compiler::{Compiled, Input, Slot, SlotPlan, compile};
use cofferdam_dataplane::{
    Attachments, Behaviour, Endpoint, Events, IdleTimes, Kernel, Program, Report, TestContext,
    Uplink,
};
use cofferdam_documents as documents;
use cofferdam_inventory::{Inventory, ObjectName, Owner};
use cofferdam_oracle::Oracle;
use cofferdam_verdict::{
    capacity::Limits,
    counter::Hook,
    event::EventRecord,
    flow::Idle,
    judge::{self, Case, Context, probe},
    slices::SliceFrame,
    verdict::{Action, Verdict},
};

use crate::{
    ledger::Ledger,
    world::{Namespace, Workload, World},
};

/// So many tables come between two sweeps of the flow table; a kernel side takes 2 048.
const TABLES_BETWEEN_SWEEPS: u64 = 1_000;

/// The node's name in the documents.
pub const NODE: &str = "n1";

/// Room for the small worlds of tests.
pub const LIMITS: Limits = Limits {
    endpoints: 32,
    slots: 2048,
    table_pages: 16,
    rules: 256,
    flows_per_endpoint: 256,
    event_bytes: 1 << 16,
};

/// Facts that documents state of a workload, beside its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// `namespace/name`: the workload's name in the world.
    pub name: String,
    /// Its labels.
    pub labels: Vec<(String, String)>,
    /// Its named ports: name, protocol as in documents, number.
    pub ports: Vec<(String, String, u16)>,
}

impl Pod {
    /// A pod with labels written `key=value`.
    pub fn new(name: &str, labels: &[&str]) -> Self {
        let label = |text: &&str| {
            let (key, value) = text.split_once('=').expect("labels are written key=value");
            (key.to_owned(), value.to_owned())
        };
        Self {
            name: name.to_owned(),
            labels: labels.iter().map(label).collect(),
            ports: Vec::new(),
        }
    }

    /// Gives it a named port.
    pub fn port(mut self, name: &str, protocol: &str, number: u16) -> Self {
        self.ports
            .push((name.to_owned(), protocol.to_owned(), number));
        self
    }

    /// Its document, with these addresses. It runs on [`NODE`].
    pub fn document(&self, addresses: &[IpAddr]) -> String {
        let (namespace, name) = split(&self.name);
        let mut text = format!(
            "---\nkind: Pod\napiVersion: v1\nmetadata:\n  namespace: {namespace}\n  name: {name}\n  labels: {{"
        );
        for (key, value) in &self.labels {
            write!(text, "{key}: \"{value}\", ").expect("writing to a string");
        }
        write!(
            text,
            "}}\nspec:\n  nodeName: {NODE}\n  containers:\n  - name: c\n    ports: ["
        )
        .expect("writing to a string");
        for (name, protocol, number) in &self.ports {
            write!(
                text,
                "{{name: {name}, protocol: {protocol}, containerPort: {number}}}, "
            )
            .expect("writing to a string");
        }
        text.push_str("]\nstatus:\n  podIPs:\n");
        for address in addresses {
            writeln!(text, "  - ip: \"{address}\"").expect("writing to a string");
        }
        text
    }
}

/// Namespace and name of a pod written `namespace/name`.
fn split(name: &str) -> (&str, &str) {
    name.split_once('/').expect("pods are named namespace/name")
}

/// The document of [`NODE`], with these addresses.
pub fn node_document(addresses: &[IpAddr]) -> String {
    let mut text = format!(
        "---\nkind: Node\napiVersion: v1\nmetadata: {{name: {NODE}}}\nstatus:\n  addresses:\n"
    );
    for address in addresses {
        writeln!(text, "  - {{type: InternalIP, address: \"{address}\"}}")
            .expect("writing to a string");
    }
    text
}

/// Both addresses of a workload.
pub fn addresses(workload: &Workload) -> [IpAddr; 2] {
    [
        workload
            .end
            .ipv4
            .expect("workloads have both families")
            .into(),
        workload
            .end
            .ipv6
            .expect("workloads have both families")
            .into(),
    ]
}

/// The kernel side of a world's node, and what was compiled for it.
#[derive(Debug)]
pub struct Firewall {
    kernel: Kernel,
    events: Option<Events>,
    documents: Vec<String>,
    plan: SlotPlan,
    compiled: Option<Compiled>,
    bound: Vec<IpAddr>,
    endpoints: Vec<u32>,
    attached: Option<Attached>,
    revision: u64,
}

/// Programs on the interfaces of one node. Filters are taken off by interface
/// index, so that it must be done where the index means that interface.
#[derive(Debug)]
struct Attached {
    interfaces: Vec<Attachments>,
    namespace: Namespace,
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _inside = self.namespace.enter();
        self.interfaces.clear();
    }
}

/// Loading the programs costs the verifier half a second, and minutes under
/// emulation, so that tests take turns with one that is loaded.
static SHARED: Mutex<Option<Firewall>> = Mutex::new(None);

/// The shared firewall, for one test.
#[derive(Debug)]
pub struct Turn(MutexGuard<'static, Option<Firewall>>);

impl Deref for Turn {
    type Target = Firewall;

    fn deref(&self) -> &Firewall {
        self.0.as_ref().expect("a turn begins with a firewall")
    }
}

impl DerefMut for Turn {
    fn deref_mut(&mut self) -> &mut Firewall {
        self.0.as_mut().expect("a turn begins with a firewall")
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The next test gets one of which nothing is suspect.
            *self.0 = None;
        } else {
            self.clear();
        }
    }
}

impl Firewall {
    /// Waits for the firewall that tests share. No endpoint and no address is in
    /// force; the table is that of the last turn.
    pub fn turn() -> Turn {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.get_or_insert_with(|| {
            // On an emulated processor beside other work, the packets of one test come
            // seconds apart: no datagram is forgotten before its test is over.
            let idle = IdleTimes::default().with(Idle::UdpOneWay, Duration::from_secs(1800));
            Self::load_with(&Behaviour {
                idle,
                ..Behaviour::default()
            })
        });
        Turn(shared)
    }

    /// Takes everything off and out of force.
    pub fn clear(&mut self) {
        self.attached = None;
        for ifindex in std::mem::take(&mut self.endpoints) {
            self.kernel.remove_endpoint(ifindex);
        }
        for address in std::mem::take(&mut self.bound) {
            self.kernel.release_address(address);
        }
    }

    /// Loads the programs. Nothing is in force yet: everything is denied.
    ///
    /// # Panics
    ///
    /// Panics if the kernel refuses them.
    pub fn load() -> Self {
        Self::load_with(&Behaviour::default())
    }

    /// Like [`Firewall::load`], with other settings.
    ///
    /// # Panics
    ///
    /// Panics if the kernel refuses.
    pub fn load_with(behaviour: &Behaviour) -> Self {
        let kernel = Kernel::load(LIMITS, behaviour).and_then(|mut kernel| {
            kernel.load_stand_ins()?;
            Ok(kernel)
        });
        Self::over(kernel.unwrap_or_else(|error| panic!("{error}")))
    }

    /// A firewall over a kernel side, of which it knows nothing yet.
    pub fn over(kernel: Kernel) -> Self {
        let revision = kernel.last_revision();
        Self {
            kernel,
            events: None,
            documents: Vec::new(),
            plan: SlotPlan::default(),
            compiled: None,
            bound: Vec::new(),
            endpoints: Vec::new(),
            attached: None,
            revision,
        }
    }

    /// The kernel side.
    pub fn kernel(&mut self) -> &mut Kernel {
        &mut self.kernel
    }

    /// Returns the table in force.
    ///
    /// # Panics
    ///
    /// Panics if nothing is.
    pub fn compiled(&self) -> &Compiled {
        self.compiled
            .as_ref()
            .expect("documents were put in force before")
    }

    /// Puts documents in force, and every workload of the world as an endpoint.
    /// Documents of pods and the node are made from the world; `policies` are
    /// the rest.
    ///
    /// # Panics
    ///
    /// Panics if a document has an error, or the kernel refuses.
    pub fn enforce(&mut self, world: &World, pods: &[Pod], policies: &str) {
        let mut documents = vec![policies.to_owned()];
        let node = &world.node().end;
        let node: Vec<IpAddr> = node
            .ipv4
            .map(IpAddr::from)
            .into_iter()
            .chain(node.ipv6.map(IpAddr::from))
            .collect();
        documents.push(node_document(&node));
        for pod in pods {
            let workload = named(world, &pod.name);
            documents.push(pod.document(&addresses(workload)));
        }
        self.publish(documents);
        for pod in pods {
            self.set_endpoint(world, &pod.name);
        }
    }

    /// Replaces the policies in force. Workloads, slots and endpoints stay.
    ///
    /// # Panics
    ///
    /// Panics if a document has an error, or the kernel refuses.
    pub fn replace_policies(&mut self, policies: &str) {
        let mut documents = self.documents.clone();
        policies.clone_into(&mut documents[0]);
        self.publish(documents);
    }

    /// Compiles documents and publishes the table; addresses lead to their slots
    /// afterwards.
    fn publish(&mut self, documents: Vec<String>) {
        let inventory = inventory(&documents);
        self.plan = SlotPlan::assign(&inventory);
        self.revision += 1;
        if self.kernel.tables_since_sweep() >= TABLES_BETWEEN_SWEEPS {
            self.kernel
                .sweep()
                .unwrap_or_else(|error| panic!("{error}"));
        }
        let compiled = compile(&Input {
            inventory: &inventory,
            slots: &self.plan,
            is_local: &|workload| workload.node.as_deref() == Some(NODE),
            own_node: Some(NODE),
            limits: *self.kernel.limits(),
            revision: self.revision,
        })
        .unwrap_or_else(|error| panic!("{error}"));
        self.kernel
            .publish(compiled.pages())
            .unwrap_or_else(|error| panic!("{error}"));
        let before = std::mem::take(&mut self.bound);
        for slot in self.plan.slots() {
            self.kernel
                .bind_address(slot.address, slot.number)
                .unwrap_or_else(|error| panic!("{error}"));
            self.bound.push(slot.address);
        }
        for address in before
            .iter()
            .filter(|address| !self.bound.contains(address))
        {
            self.kernel.release_address(*address);
        }
        self.documents = documents;
        self.compiled = Some(compiled);
    }

    /// Adds a workload to what is in force, in spare slots of the table that is:
    /// slot entries first, then the endpoint, then the addresses. `false`, and
    /// nothing done, when the table has no place for such a workload.
    ///
    /// # Panics
    ///
    /// Panics if its document has an error, or the kernel refuses.
    pub fn add_late(&mut self, world: &World, pod: &Pod) -> bool {
        let addresses = addresses(named(world, &pod.name));
        self.documents.push(pod.document(&addresses));
        let inventory = inventory(&self.documents);
        let (namespace, name) = split(&pod.name);
        let workload = &inventory.workloads()[&ObjectName::new(namespace, name)];
        let place = |&address| self.compiled().place(&inventory, workload, address, true);
        let Some(places) = addresses.iter().map(place).collect::<Option<Vec<_>>>() else {
            self.documents.pop();
            return false;
        };
        let owner = Owner::Workload(workload.name.clone());
        let mut slots = self.plan.slots().collect::<Vec<_>>();
        for (address, (profile, _)) in addresses.into_iter().zip(places) {
            let number = slots.iter().map(|slot| slot.number).max().unwrap_or(0) + 1;
            let set = self.kernel.set_slot(number, profile);
            set.unwrap_or_else(|error| panic!("{error}"));
            let owner = owner.clone();
            slots.push(Slot {
                number,
                owner,
                address,
            });
        }
        self.plan = SlotPlan::from_slots(slots).unwrap_or_else(|error| panic!("{error}"));
        self.set_endpoint(world, &pod.name);
        for address in addresses {
            let slot = self.plan.of(address).expect("a slot was just given");
            let bound = self.kernel.bind_address(address, slot);
            bound.unwrap_or_else(|error| panic!("{error}"));
            self.bound.push(address);
        }
        true
    }

    /// The endpoint of a workload, as it is put in force.
    ///
    /// # Panics
    ///
    /// Panics if the world or the slot plan does not know the workload.
    pub fn endpoint(&self, world: &World, name: &str) -> Endpoint {
        let workload = named(world, name);
        let (namespace, pod) = split(name);
        let owner = Owner::Workload(ObjectName::new(namespace, pod));
        let slots = self.plan.slots().filter(|slot| slot.owner == owner);
        Endpoint {
            ifindex: workload.host_ifindex,
            mac: workload.end.mac.0,
            incarnation: workload.host_ifindex,
            addresses: slots.map(|slot| (slot.address, slot.number)).collect(),
            stamp: stamp(workload),
            link_local: None,
            deny_all: false,
            shared_hooks: false,
            adopt_until: 0,
            listeners: Default::default(),
        }
    }

    fn set_endpoint(&mut self, world: &World, name: &str) {
        let endpoint = self.endpoint(world, name);
        self.kernel
            .set_endpoint(&endpoint)
            .unwrap_or_else(|error| panic!("{error}"));
        self.endpoints.push(endpoint.ifindex);
    }

    /// Attaches the programs to every workload's interface.
    ///
    /// # Panics
    ///
    /// Panics if the kernel refuses.
    pub fn attach(&mut self, world: &World) {
        self.attach_where(world, |_| true);
    }

    /// Attaches the programs to the interfaces of some workloads.
    ///
    /// # Panics
    ///
    /// Panics if the kernel refuses.
    pub fn attach_where(&mut self, world: &World, wanted: impl Fn(&Workload) -> bool) {
        let namespace = world.node().namespace.try_clone().expect("a descriptor");
        let inside = namespace
            .enter()
            .expect("the node's namespace can be entered");
        let interfaces = world
            .workloads()
            .iter()
            .filter(|workload| wanted(workload))
            .map(|workload| {
                let attached = self.kernel.attach(&workload.host_interface);
                attached.unwrap_or_else(|error| panic!("{error}"))
            })
            .collect();
        drop(inside);
        self.attached = Some(Attached {
            interfaces,
            namespace,
        });
    }

    /// Attaches programs to an interface of the node that is no endpoint's, beside those of
    /// the workloads.
    ///
    /// # Panics
    ///
    /// Panics if the kernel refuses, or no workload has its programs yet.
    pub fn attach_uplink(&mut self, world: &World, interface: &str, uplink: Uplink) {
        let inside = world.node().namespace.enter().expect("the node");
        let attached = self
            .kernel
            .attach_uplink(interface, uplink)
            .unwrap_or_else(|error| panic!("{error}"));
        drop(inside);
        let all = self
            .attached
            .as_mut()
            .expect("programs were attached before");
        all.interfaces.push(attached);
    }

    /// Returns the attachments, by interface, in the order of the world's workloads.
    ///
    /// # Panics
    ///
    /// Panics if nothing is.
    pub fn attached(&mut self) -> &mut [Attachments] {
        &mut self
            .attached
            .as_mut()
            .expect("programs were attached before")
            .interfaces
    }

    /// Takes the programs off all interfaces.
    pub fn detach(&mut self) {
        self.attached = None;
    }

    /// All counters, once no packet moves them any more: one that is between the
    /// place where it is seen and the place where it is judged would be missing
    /// from a sum.
    ///
    /// # Panics
    ///
    /// Panics if they do not come to rest, or the kernel does not let them be read.
    pub fn ledger(&self) -> Ledger {
        const PATIENCE: Duration = Duration::from_secs(30);
        let read = || {
            Ledger::new(
                self.kernel
                    .counters()
                    .unwrap_or_else(|error| panic!("{error}")),
            )
        };
        let deadline = Instant::now() + PATIENCE;
        let mut before = read();
        loop {
            let now = read();
            if now == before {
                return now;
            }
            assert!(
                Instant::now() < deadline,
                "counters do not come to rest: {now}"
            );
            before = now;
        }
    }

    /// Returns the reports since this was last asked.
    ///
    /// # Panics
    ///
    /// Panics if somebody has taken the kernel side's reports.
    pub fn reported(&mut self) -> Vec<EventRecord> {
        let events = self.events.get_or_insert_with(|| {
            let events = self.kernel.events();
            events.unwrap_or_else(|error| panic!("{error}"))
        });
        let reports = std::iter::from_fn(|| events.next());
        let packets = reports.filter_map(|report| match report {
            Report::Packet(record) => Some(record),
            Report::End(_) => None,
        });
        packets.collect()
    }

    /// Has flows told of from now on; returns all that was reported since this was last asked.
    ///
    /// # Panics
    ///
    /// Panics if somebody has taken the kernel side's reports.
    pub fn told(&mut self) -> Vec<Report> {
        let events = self.events.get_or_insert_with(|| {
            let events = self.kernel.events();
            events.unwrap_or_else(|error| panic!("{error}"))
        });
        events.flows().set(true);
        std::iter::from_fn(|| events.next()).collect()
    }

    /// Judges a frame by a loaded program. The caller is in the node's namespace.
    ///
    /// # Panics
    ///
    /// Panics if the kernel refuses the run, or the program returns none of its codes.
    pub fn run(&mut self, program: Program, frame: &[u8], context: &TestContext) -> Action {
        let run = self.kernel.test_run(program.name, frame, context, 1);
        match run.unwrap_or_else(|error| panic!("{error}")).returned {
            2 => Action::Deny,
            0 | -1 => Action::Allow,
            other => panic!("{program} returned {other}"),
        }
    }

    /// Asks a loaded program what policy says about a frame: its verdicts in force
    /// and with audit policies. The caller is in the node's namespace.
    ///
    /// # Panics
    ///
    /// Panics if the kernel refuses the run, or the program gives no verdict.
    pub fn ask(&mut self, program: Program, frame: &[u8], context: &TestContext) -> [Verdict; 2] {
        let answer = self
            .kernel
            .probe(program, frame, context)
            .unwrap_or_else(|error| panic!("{error}"));
        let (enforced, audited) = answer.expect("every question has an answer");
        [enforced, audited]
    }

    /// Judges a frame by the programs' code in user space, on the maps' memory.
    /// A test run always has a socket, and no tag beside the frame.
    ///
    /// # Panics
    ///
    /// Panics if the answer is no verdict.
    pub fn judge(&self, hook: Hook, frame: &[u8], context: &TestContext) -> (Case, Verdict) {
        let case = judge::judge(
            &self.kernel.memory(),
            &SliceFrame {
                bytes: frame,
                gso: context.gso_size != 0,
            },
            &Context {
                ifindex: context.ifindex,
                ingress_ifindex: context.ingress_ifindex,
                stamp: context.cb[probe::STAMP],
                has_socket: true,
                tagged: false,
            },
            hook,
        );
        (
            case,
            Verdict::from_any_word(case.enforced).expect("every case has an answer"),
        )
    }

    /// The oracle for the documents in force.
    ///
    /// # Panics
    ///
    /// Panics if they are not YAML.
    pub fn oracle(&self) -> Oracle {
        Oracle::new(&self.documents).expect("documents that were compiled are YAML")
    }
}

/// The stamp of a workload's packets, once it is an endpoint.
pub fn stamp(workload: &Workload) -> u16 {
    u16::try_from(workload.host_ifindex).expect("interface indexes of test worlds are small")
}

/// A workload by its name.
///
/// # Panics
///
/// Panics if there is none.
pub fn named<'a>(world: &'a World, name: &str) -> &'a Workload {
    let found = world
        .workloads()
        .iter()
        .find(|workload| workload.name == name);
    found.unwrap_or_else(|| panic!("the world has no workload {name}"))
}

/// The desired state of documents without errors.
fn inventory(documents: &[String]) -> Inventory {
    let mut all = Vec::new();
    for (i, text) in documents.iter().enumerate() {
        let parsed = documents::parse(&format!("{i}.yaml"), text.as_bytes());
        assert!(
            parsed.rejected.is_empty(),
            "{:?}\n{text}",
            parsed.diagnostics
        );
        all.extend(parsed.documents);
    }
    let assembled = documents::assemble(all);
    assert!(assembled.rejected.is_empty(), "{:?}", assembled.diagnostics);
    assembled.inventory
}
