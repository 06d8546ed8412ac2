//! Cases with packets: namespaces, a real agent, and real clients and servers.
//!
//! A [`Stand`] outlives its cases. What changes between two steps, or two cases,
//! changes while everything runs, in the way an operator's doing would: files are
//! written anew, pods come with `endpoint add` and go with their links.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::cluster::{Cluster, End, NODE_PROBES, OTHER_NODE, QUARTERS_PROBES, TRIO_PROBES};
use super::offline::Count;
use super::{Case, Cell, Phase, Setting};
use crate::agent::Agent;
use crate::firewall::{NODE, addresses, named};
use crate::packet::Family;
use crate::traffic::{Matrix, Place, Probe, Server};
use crate::world::{Wiring, Workload, World};

/// Time that packets which should be blocked are given to get through.
const UNTIL_BLOCKED: Duration = Duration::from_millis(200);
/// Time that packets which should get through are given.
const UNTIL_GIVEN_UP: Duration = Duration::from_secs(10);
/// Records that are shown with a case that fails.
const RECORDS: usize = 20;

/// A case that did not come out as stated.
#[derive(Clone, Debug)]
pub struct Surprise {
    /// Cells that were reached and should not have been, or that another server
    /// answered.
    pub leaked: usize,
    /// Cells that should have been reached.
    pub lost: usize,
    /// The cells, the documents, and what the agent reports.
    pub words: String,
}

/// A cluster of namespaces with its agent.
#[derive(Debug)]
pub struct Stand {
    servers: BTreeMap<String, Server>,
    _hosts: Vec<Server>,
    agent: Agent,
    world: World,
    setting: Setting,
    /// The files as they are.
    written: BTreeMap<String, String>,
}

impl Stand {
    /// Sets one up, without policies.
    ///
    /// # Panics
    ///
    /// Panics if a part of it cannot be made.
    pub fn build(binary: &Path, setting: Setting, wiring: Wiring) -> Self {
        let cluster = begin(setting);
        // A node has its addresses on the links of its workloads.
        let names = cluster.pods().iter().map(|pod| pod.name.as_str());
        let plan = World::plan(wiring).outside().workloads(names);
        let world = plan.build().expect("a world");
        let probes: Vec<Probe> = [TRIO_PROBES, NODE_PROBES].concat();
        // What a server answers with is the name that cases have for its place.
        let beyond = match setting {
            Setting::Trio => End::External("outside"),
            Setting::Quarters => End::Node(OTHER_NODE),
        };
        let hosts = vec![
            Server::start(place(&world, &End::Node(NODE)), &probes).expect("a server"),
            Server::start(place(&world, &beyond), &probes).expect("a server"),
        ];
        let mut agent = Agent::new(binary, &world);
        agent.start_enforced();
        let mut stand = Self {
            servers: BTreeMap::new(),
            _hosts: hosts,
            agent,
            world,
            setting,
            written: BTreeMap::new(),
        };
        stand.follow(&cluster);
        stand
    }

    /// Tries every cell of every step of a case, in the families that `families` names
    /// for a step's number; says how much was tried, or what is not as stated.
    ///
    /// # Errors
    /// The cells that are not so.
    pub fn check(
        &mut self,
        case: &Case,
        families: impl Fn(usize) -> Vec<Family>,
    ) -> Result<Count, Surprise> {
        assert_eq!(case.setting, self.setting, "{case} is not for this stand");
        let mut count = Count {
            cases: 1,
            ..Count::default()
        };
        let mut cluster = case.begin();
        self.follow(&cluster);
        for (number, step) in case.steps.iter().enumerate() {
            for change in &step.changes {
                cluster.change(change);
            }
            self.follow(&cluster);
            count.steps += 1;
            for family in families(number) {
                count.cells += self
                    .table(case, step, &cluster, family)
                    .map_err(|surprises| self.told(case, number, &surprises))?;
            }
        }
        Ok(count)
    }

    /// Makes the world like the cluster.
    fn follow(&mut self, cluster: &Cluster) {
        let there = |name: &str| cluster.pods().iter().any(|pod| pod.name == name);
        let gone: Vec<String> = (self.world.workloads().iter())
            .map(|workload| workload.name.clone())
            .filter(|name| !there(name))
            .collect();
        for name in gone {
            self.agent.remove(&name);
            self.servers.remove(&name);
            self.world.remove(&name).expect("it is there");
        }
        let mut new = Vec::new();
        for pod in cluster.pods() {
            if !self.servers.contains_key(&pod.name) {
                let is_it = |workload: &Workload| workload.name == pod.name;
                if !self.world.workloads().iter().any(is_it) {
                    self.world.add(pod.name.as_str()).expect("a workload");
                }
                let workload = named(&self.world, &pod.name);
                let probes = match self.setting {
                    Setting::Trio => TRIO_PROBES,
                    Setting::Quarters => QUARTERS_PROBES,
                };
                let server = Server::start(workload, &probes).expect("a server");
                self.servers.insert(pod.name.clone(), server);
                new.push(pod.name.clone());
            }
        }
        let documents = cluster.documents(&|name| self.addresses(name));
        for name in self.written.keys() {
            if !documents.contains_key(name) {
                self.agent.remove_document(name);
            }
        }
        for (name, text) in &documents {
            if self.written.get(name) != Some(text) {
                self.agent.document(name, text);
            }
        }
        self.written = documents;
        for name in new {
            self.agent.add(named(&self.world, &name), &[]);
        }
        let report = self.agent.sync();
        assert!(
            report.enforced && report.rejected == 0,
            "{report:?}\n{}",
            self.agent.log()
        );
    }

    fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let end = match name {
            "node/n1" => self.world.node().end,
            "node/n2" | "external/outside" => self.world.outside().end,
            pod => return addresses(named(&self.world, pod)).to_vec(),
        };
        Family::BOTH
            .into_iter()
            .filter_map(|family| end.ip(family))
            .collect()
    }

    /// Tries a whole table; says how many cells it has, or which are not as stated.
    fn table(
        &self,
        case: &Case,
        step: &Phase,
        cluster: &Cluster,
        family: Family,
    ) -> Result<usize, Vec<(bool, String)>> {
        let cells = case.table(step, cluster, family);
        let mut allowed = BTreeMap::new();
        // Pods are tried in other ways than nodes, and nodes by pods alone.
        let mut groups: BTreeMap<(bool, Vec<Probe>), [Vec<End>; 2]> = BTreeMap::new();
        for cell in cells.iter().filter(|cell| cell.source != cell.destination) {
            let Cell {
                source,
                destination,
                probe,
                ..
            } = cell;
            allowed.insert(
                (source.to_string(), destination.to_string(), *probe),
                cell.allowed,
            );
            let group = (destination.is_pod(), case.probes_of(destination));
            let [from, to] = groups.entry(group).or_default();
            for (list, end) in [(from, source), (to, destination)] {
                if !list.contains(end) {
                    list.push(end.clone());
                }
            }
        }
        let mut tried = 0;
        let mut surprises = Vec::new();
        for ((_, probes), [from, to]) in &groups {
            let names: Vec<(String, &End)> = (from.iter().chain(to))
                .map(|end| (end.to_string(), end))
                .collect();
            let (from, to) = names.split_at(from.len());
            let places = |ends: &'_ [(String, &End)]| -> Vec<_> {
                (ends.iter())
                    .map(|(_, end)| place(&self.world, end))
                    .collect()
            };
            let table = Matrix::among(places(to), probes)
                .from(places(from))
                .family(family)
                .patience(UNTIL_BLOCKED, UNTIL_GIVEN_UP)
                .run(|cell| {
                    allowed[&(
                        cell.source.to_owned(),
                        cell.destination.to_owned(),
                        cell.probe,
                    )]
                })
                .expect("sockets can be opened");
            tried += table.cells().count();
            surprises.extend(
                (table.surprises())
                    .map(|(cell, outcome)| (outcome.is_reached(), format!("{cell}: {outcome}"))),
            );
        }
        assert_eq!(tried, allowed.len(), "{case}");
        if surprises.is_empty() {
            Ok(tried)
        } else {
            Err(surprises)
        }
    }

    fn told(&self, case: &Case, number: usize, surprises: &[(bool, String)]) -> Surprise {
        let documents: Vec<&str> = self.written.values().map(String::as_str).collect();
        let cells: Vec<&str> = surprises.iter().map(|(_, cell)| cell.as_str()).collect();
        let records = self.agent.records();
        let first = records.len().saturating_sub(RECORDS);
        let leaked = surprises.iter().filter(|(reached, _)| *reached).count();
        Surprise {
            leaked,
            lost: surprises.len() - leaked,
            words: format!(
                "{case}, step {number}:\n{}\n{}\nlast denied packets: {:#?}",
                cells.join("\n"),
                documents.join("---\n"),
                &records[first..]
            ),
        }
    }
}

/// The cluster that cases of a setting begin with.
fn begin(setting: Setting) -> Cluster {
    match setting {
        Setting::Trio => Cluster::trio(),
        Setting::Quarters => Cluster::quarters(),
    }
}

/// Returns the place of an end in a world, under the name that cases have for it.
fn place<'w>(world: &'w World, end: &End) -> Place<'w> {
    match end {
        End::Pod(name) => named(world, name).into(),
        End::Node(NODE) => Place {
            name: "node/n1",
            ..world.node().into()
        },
        End::Node(_) => Place {
            name: "node/n2",
            ..world.outside().into()
        },
        End::External(_) => Place {
            name: "external/outside",
            ..world.outside().into()
        },
    }
}
