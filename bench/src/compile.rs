//! Cost of documents on their way to a table: reading, putting together, compiling, and the
//! price of a change of one policy, of the labels of one pod elsewhere, or of one more pod; in
//! a cluster with Services, that of finding their backends, too. In one thread.
//!
//! Memory is the peak of the process since its documents were made, the texts of all
//! files included.

use std::{
    collections::BTreeSet,
    fs,
    hint::black_box,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use cofferdam_compiler::{
    Compiled, Compiler, InForce, Input, Senders, SlotPlan, Snapshot, Virtuals, compile,
};
use cofferdam_documents::{Document, Parsed, assemble, parse};
use cofferdam_inventory::services::Services;
use cofferdam_inventory::{Inventory, ObjectName, Workload};
use cofferdam_tests::cluster::{Cluster, File, NODE, Size};
use cofferdam_verdict::{address::Family, capacity::Limits};
use serde::Serialize;

use crate::report::memory_kib;

/// Pods, policies and Services of the clusters.
const SIZES: [(usize, usize, usize); 4] = [
    (1_000, 100, 0),
    (10_000, 1_000, 0),
    (50_000, 5_000, 10_000),
    (100_000, 10_000, 0),
];
const PODS_PER_NODE: usize = 250;

/// Capacity: two addresses for each of 100 000 pods.
const LIMITS: Limits = Limits {
    slots: 1 << 18,
    table_pages: 1 << 12,
    ..Limits::DEFAULT
};

/// A figure.
#[derive(Debug, Serialize)]
pub(crate) struct CompileResult {
    figure: &'static str,
    unit: &'static str,
    median: f64,
    max: f64,
    samples: usize,
    pods: usize,
    policies: usize,
    services: usize,
    local_pods: usize,
}

/// Measures clusters of at most so many pods.
pub(crate) fn run(samples: usize, largest: usize) -> anyhow::Result<Vec<CompileResult>> {
    let mut results = Vec::new();
    let sizes = SIZES.into_iter().filter(|(pods, ..)| *pods <= largest);
    for (pods, policies, services) in sizes {
        let cluster = Cluster::new(
            Size {
                pods,
                policies,
                pods_per_node: PODS_PER_NODE,
            },
            1,
        )
        .with_services(services);
        results.extend(one(&cluster, (pods, policies, services), samples)?);
    }
    Ok(results)
}

fn one(
    cluster: &Cluster,
    (pods, policies, services): (usize, usize, usize),
    samples: usize,
) -> anyhow::Result<Vec<CompileResult>> {
    let files = cluster.files();
    let bytes: usize = files.iter().map(|file| file.text.len()).sum();
    // Forgets the peak so far.
    fs::write("/proc/self/clear_refs", "5").context("cannot reset the peak of memory")?;

    let began = Instant::now();
    let documents = read(&files)?;
    let reading = began.elapsed();
    let began = Instant::now();
    let mut inventory = assembled(documents)?;
    let assembling = began.elapsed();
    let local = local_pods(&inventory);
    let table = |inventory: &Inventory, plan: &SlotPlan, revision| {
        let began = Instant::now();
        let compiled = compile(&Input {
            inventory,
            slots: plan,
            is_local: &|workload: &Workload| local.contains(&workload.name),
            own_node: Some(NODE),
            limits: LIMITS,
            revision,
        });
        compiled.map(|compiled| (began.elapsed(), compiled))
    };

    let plan = SlotPlan::assign(&inventory);
    let mut compiling = Vec::new();
    let mut last = None;
    for _ in 0..samples {
        // The one before is in force while the next is made.
        let (took, compiled) = table(&inventory, &plan, 1)?;
        compiling.push(took);
        last = Some(compiled);
    }
    let compiled = last.context("no sample was asked for")?;

    let placing = (0..samples)
        .map(|i| place(cluster, &inventory, &compiled, i))
        .collect::<anyhow::Result<Vec<_>>>()?;

    let translated = (services > 0)
        .then(|| translate(cluster, &inventory, &plan, &compiled, &local, samples))
        .transpose()?;

    let compile_again =
        |compiler: &mut Compiler, inventory: &Inventory, plan: &SlotPlan, revision| {
            compiler.compile(&Snapshot {
                inventory,
                slots: plan,
                local: &local,
                own_node: Some(NODE),
                limits: LIMITS,
                revision,
            })
        };
    let mut changing = Vec::new();
    // Another compiler has made the table before.
    let mut compiler = Compiler::default();
    let mut plan = plan;
    for i in 0..=samples {
        let began = Instant::now();
        let parsed = parse("one.yaml", cluster.one_more_policy(i).as_bytes());
        inventory = changed(inventory, parsed)?;
        plan = plan.successor(&inventory);
        let compiled = compile_again(&mut compiler, &inventory, &plan, 2)?;
        if i > 0 {
            changing.push(began.elapsed());
        }
        black_box(compiled.pages());
    }

    let mut relabelling = Vec::new();
    for i in 0..=samples {
        inventory = relabelled(inventory, &local, i)?;
        let began = Instant::now();
        plan = plan.successor(&inventory);
        let compiled = compile_again(&mut compiler, &inventory, &plan, 3)?;
        if i > 0 {
            relabelling.push(began.elapsed());
        }
        black_box(compiled.pages());
    }
    let mut swapping = Vec::new();
    for i in 0..=samples {
        if services == 0 {
            break;
        }
        let began = Instant::now();
        let text = cluster.slice_of(i, 4 - i % 2);
        let slices = assembled(good(parse("slice.yaml", text.as_bytes()))?)?;
        for (name, slice) in slices.slices() {
            inventory.set_slice(name.clone(), slice.clone());
        }
        plan = plan.successor(&inventory);
        let compiled = compile_again(&mut compiler, &inventory, &plan, 4)?;
        if i > 0 {
            swapping.push(began.elapsed());
        }
        black_box(compiled.pages());
    }
    let used = |table: &str| {
        let usage = compiled.usage.iter().find(|usage| usage.table == table);
        usage.map_or(0.0, |usage| usage.used as f64)
    };

    let result = |figure, unit, samples: &[f64]| {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        CompileResult {
            figure,
            unit,
            median: sorted[sorted.len() / 2],
            max: sorted[sorted.len() - 1],
            samples: sorted.len(),
            pods,
            policies,
            services,
            local_pods: local.len(),
        }
    };
    let ms = |times: &[Duration]| -> Vec<f64> {
        times.iter().map(|time| time.as_secs_f64() * 1e3).collect()
    };
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    let mut results = vec![
        result("text", "MiB", &[mib(bytes)]),
        result("read", "ms", &ms(&[reading])),
        result("assemble", "ms", &ms(&[assembling])),
        result("compile", "ms", &ms(&compiling)),
        result("policy_changed_to_table", "ms", &ms(&changing)),
        result("remote_pod_relabelled_to_table", "ms", &ms(&relabelling)),
        result("pod_placed", "ms", &ms(&placing)),
        result("classes", "", &[used("classes")]),
        result("profiles", "", &[used("profiles")]),
        result("table", "MiB", &[mib(size_of_val(compiled.pages()))]),
        result(
            "peak_memory",
            "MiB",
            &[memory_kib("self", "VmHWM")? / 1024.0],
        ),
    ];
    if let Some(translated) = &translated {
        let slowest = compiling.iter().max().copied().unwrap_or_default();
        let everything = assembling + slowest;
        results.extend([
            result("backends", "", &[translated.backends as f64]),
            result("services_resolved", "ms", &ms(&translated.resolving)),
            result("virtual_addresses_decided", "ms", &ms(&translated.deciding)),
            result("everything", "ms", &ms(&[everything])),
            result(
                "backend_changed_to_decided",
                "ms",
                &ms(&translated.changing),
            ),
            result("backend_changed_to_table", "ms", &ms(&swapping)),
        ]);
    }
    println!(
        "{pods} pods, {policies} policies, {services} services, {} local:",
        local.len()
    );
    for one in &results {
        let (figure, unit) = (one.figure, one.unit);
        println!(
            "{figure:>30} {:>10.3} {unit} (greatest of {}: {:.3})",
            one.median, one.samples, one.max
        );
    }
    Ok(results)
}

/// Costs of Services.
struct Translated {
    /// Finding who is behind every port of every Service.
    resolving: Vec<Duration>,
    /// Working out what this node's workloads may do at every virtual address.
    deciding: Vec<Duration>,
    /// Both again after a slice has one endpoint more or less.
    changing: Vec<Duration>,
    backends: usize,
}

fn translate(
    cluster: &Cluster,
    inventory: &Inventory,
    plan: &SlotPlan,
    compiled: &Compiled,
    local: &BTreeSet<ObjectName>,
    samples: usize,
) -> anyhow::Result<Translated> {
    let in_force = InForce {
        compiled,
        plan,
        added: &[],
        here: Some((NODE, local)),
    };
    let senders = || {
        let workloads = inventory.workloads();
        local.iter().filter_map(|name| workloads.get(name))
    };
    let mut translated = Translated {
        resolving: Vec::new(),
        deciding: Vec::new(),
        changing: Vec::new(),
        backends: 0,
    };
    let mut last = None;
    for _ in 0..samples {
        let began = Instant::now();
        let services = Services::new(inventory);
        let all = inventory.services().values();
        let ports = all.flat_map(|service| service.ports.iter().map(move |port| (service, port)));
        let backends = ports.flat_map(|(service, port)| {
            [Family::V4, Family::V6].map(|family| services.backends(service, port, family).len())
        });
        translated.backends = backends.sum();
        translated.resolving.push(began.elapsed());
        let began = Instant::now();
        let senders = Senders::new(in_force, senders());
        let virtuals = Virtuals::new(&services, in_force, senders);
        translated.deciding.push(began.elapsed());
        last = Some((services, virtuals));
    }
    let (mut services, mut virtuals) = last.context("no sample was asked for")?;
    let mut next = inventory.clone();
    for i in 0..samples {
        let began = Instant::now();
        let text = cluster.slice_of(i, 4);
        let slices = assembled(good(parse("slice.yaml", text.as_bytes()))?)?;
        for (name, slice) in slices.slices() {
            next.set_slice(name.clone(), slice.clone());
        }
        let moved = services.follow(&next).context("everything moved")?;
        virtuals.follow(&services, in_force, &moved);
        translated.changing.push(began.elapsed());
        black_box(virtuals.len());
    }
    Ok(translated)
}

fn read(files: &[File]) -> anyhow::Result<Vec<Document>> {
    let mut documents = Vec::new();
    for file in files {
        documents.extend(good(parse(&file.name, file.text.as_bytes()))?);
    }
    Ok(documents)
}

fn good(parsed: Parsed) -> anyhow::Result<Vec<Document>> {
    ensure!(
        parsed.rejected.is_empty(),
        "a document of the cluster is refused: {:?}",
        parsed.diagnostics.first()
    );
    Ok(parsed.documents)
}

fn assembled(documents: Vec<Document>) -> anyhow::Result<Inventory> {
    let assembled = assemble(documents);
    ensure!(
        assembled.rejected.is_empty(),
        "documents of the cluster contradict each other: {:?}",
        assembled.diagnostics.first()
    );
    Ok(assembled.inventory)
}

fn local_pods(inventory: &Inventory) -> BTreeSet<ObjectName> {
    (inventory.workloads().values())
        .filter(|workload| workload.node.as_deref() == Some(NODE))
        .map(|workload| workload.name.clone())
        .collect()
}

fn changed(mut inventory: Inventory, parsed: Parsed) -> anyhow::Result<Inventory> {
    for policy in assembled(good(parsed)?)?.policies().values() {
        inventory.set_policy(policy.clone());
    }
    Ok(inventory)
}

/// The inventory with one pod elsewhere that belongs to another application, by turns of
/// `number`.
fn relabelled(
    mut inventory: Inventory,
    local: &BTreeSet<ObjectName>,
    number: usize,
) -> anyhow::Result<Inventory> {
    let mut pods = inventory
        .workloads()
        .values()
        .filter(|pod| !local.contains(&pod.name) && pod.labels.get("app").is_some());
    let mut pod = (pods.next()).context("no pod is elsewhere")?.clone();
    let apps = pods.filter(|other| other.name.namespace == pod.name.namespace);
    let apps: BTreeSet<&str> = apps.filter_map(|other| other.labels.get("app")).collect();
    let app = (apps.iter().cycle().nth(number)).context("no other pod is in its namespace")?;
    pod.labels = pod.labels.with("app", app);
    inventory.set_workload(pod)?;
    Ok(inventory)
}

/// Measures the time to find the place of one more pod like others in a table that does not
/// know it.
fn place(
    cluster: &Cluster,
    inventory: &Inventory,
    compiled: &Compiled,
    number: usize,
) -> anyhow::Result<Duration> {
    let address = format!("10.0.0.{}", 251 + number % 4);
    let twin = assembled(good(parse(
        "twin.yaml",
        cluster.twin(number, &address).as_bytes(),
    ))?)?;
    let workload = (twin.workloads().values().next()).context("a twin is a pod")?;
    let address = workload.addresses[0];
    let began = Instant::now();
    let place = compiled.place(inventory, workload, address, true);
    let took = began.elapsed();
    ensure!(place.is_some(), "{} has no place", workload.name);
    Ok(took)
}
