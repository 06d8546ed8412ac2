//! Benchmarks of Cofferdam. Figures are for ratios within one run: machines are
//! shared and noisy.

mod agent;
mod cluster;
mod compile;
mod forward;
mod life;
mod offline;
mod packet;
mod records;
mod report;
mod scale;

use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand};

/// Benchmarks of Cofferdam.
#[derive(Parser)]
#[command(name = "cofferdam-bench", version, about)]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Net cost of a packet in the programs, over an empty program.
    Packet {
        /// Write the results to this file as JSON.
        #[arg(long)]
        json: Option<PathBuf>,
        /// Pairs of runs for each figure.
        #[arg(long, default_value_t = 7)]
        samples: usize,
        /// Packets in each run.
        #[arg(long, default_value_t = 1_000_000)]
        packets: u32,
        /// Only worlds of so many workloads.
        #[arg(long)]
        workloads: Option<u32>,
        /// Only this case: `established`, `first_packet` and so on.
        #[arg(long)]
        case: Option<String>,
    },
    /// Cost of a packet from one workload to another over their node, without a firewall,
    /// with this one, and with others.
    Forward {
        /// Write the results to this file as JSON.
        #[arg(long)]
        json: Option<PathBuf>,
        /// Rounds; in each, all configurations are measured in turn.
        #[arg(long, default_value_t = 20)]
        rounds: usize,
        /// Milliseconds for which a configuration is measured in a round.
        #[arg(long, default_value_t = 40)]
        milliseconds: u64,
        /// Only these configurations, beside `none` and `empty_tcx`: `cofferdam_1` and so
        /// on.
        #[arg(long, value_delimiter = ',')]
        config: Vec<String>,
    },
    /// Measures the agent's load on its node, and the delay until a change is in force.
    Agent {
        /// Write the results to this file as JSON.
        #[arg(long)]
        json: Option<PathBuf>,
        /// Seconds for which it is watched at rest.
        #[arg(long, default_value_t = 30)]
        rest: u64,
    },
    /// Wait of containers that start, and needs of an agent with 250 endpoints.
    Life {
        /// Write the results to this file as JSON.
        #[arg(long)]
        json: Option<PathBuf>,
        /// Seconds for which it is watched at rest.
        #[arg(long, default_value_t = 30)]
        rest: u64,
    },
    /// Measures the compilation of documents to a table, for clusters of 1 000 to 100 000
    /// pods.
    Compile {
        /// Write the results to this file as JSON.
        #[arg(long)]
        json: Option<PathBuf>,
        /// Runs for each figure.
        #[arg(long, default_value_t = 5)]
        samples: usize,
        /// Leave out clusters with more pods.
        #[arg(long, default_value_t = 100_000)]
        pods: usize,
    },
    /// Measures the commands that read documents alone, on those of a large cluster.
    Offline {
        /// Write the results to this file as JSON.
        #[arg(long)]
        json: Option<PathBuf>,
        /// Runs of each command.
        #[arg(long, default_value_t = 3)]
        samples: usize,
        /// Files of one document each.
        #[arg(long, default_value_t = 40_000)]
        files: usize,
        /// Pods of the cluster; it has a tenth as many policies.
        #[arg(long, default_value_t = 100_000)]
        pods: usize,
        /// Services of the cluster.
        #[arg(long, default_value_t = 0)]
        services: usize,
        /// Another program than the one that lies beside this.
        #[arg(long)]
        program: Option<PathBuf>,
    },
    /// Cost of telling of drops: delay of a line, the agent's load, answers of `/metrics`, and
    /// others' traffic under a flood that is denied.
    Records {
        /// Write the results to this file as JSON.
        #[arg(long)]
        json: Option<PathBuf>,
        /// Seconds for which 5 000 denied packets a second are told of.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Rounds of the flood.
        #[arg(long, default_value_t = 20)]
        rounds: usize,
    },
    /// Measures the delay until a change is in force in a large cluster, by a real agent
    /// with 250 endpoints.
    Scale {
        /// Write the results to this file as JSON.
        #[arg(long)]
        json: Option<PathBuf>,
        /// Changes of a policy.
        #[arg(long, default_value_t = 10)]
        samples: usize,
        /// Pods of the cluster; it has a tenth as many policies.
        #[arg(long, default_value_t = 100_000)]
        pods: usize,
    },
    /// Needs of one agent in a large Kubernetes cluster that follows its API server, how soon
    /// an event is in force, and what the server must carry for all nodes.
    Cluster {
        /// Write the results to this file as JSON.
        #[arg(long)]
        json: Option<PathBuf>,
        /// A cluster of 334 nodes, 10 000 pods and 1 000 policies, for 15 seconds, unless told
        /// otherwise.
        #[arg(long)]
        small: bool,
        /// Nodes of the cluster [default: 5000].
        #[arg(long)]
        nodes: Option<usize>,
        /// Pods of the cluster [default: 150000].
        #[arg(long)]
        pods: Option<usize>,
        /// Policies of its namespaces [default: 10000].
        #[arg(long)]
        policies: Option<usize>,
        /// Changes of pods each second. With two of three a slice of a Service changes, too.
        #[arg(long, default_value_t = 100)]
        changes_per_second: usize,
        /// Seconds for which pods come and go [default: 60].
        #[arg(long)]
        seconds: Option<u64>,
    },
}

fn main() -> anyhow::Result<()> {
    let Arguments { bench } = Arguments::parse();
    match bench {
        Bench::Packet {
            json,
            samples,
            packets,
            workloads,
            case,
        } => {
            let wanted = packet::Wanted { workloads, case };
            let results = packet::run(samples.max(1), packets.max(1), &wanted)?;
            report::write(&results, json.as_deref())
        }
        Bench::Forward {
            json,
            rounds,
            milliseconds,
            config,
        } => {
            let time = Duration::from_millis(milliseconds.max(1));
            let results = forward::run(rounds.max(1), time, &config)?;
            report::write(&results, json.as_deref())
        }
        Bench::Agent { json, rest } => {
            let results = agent::run(Duration::from_secs(rest.max(1)))?;
            report::write(&results, json.as_deref())
        }
        Bench::Life { json, rest } => {
            let results = life::run(Duration::from_secs(rest.max(1)))?;
            report::write(&results, json.as_deref())
        }
        Bench::Compile {
            json,
            samples,
            pods,
        } => {
            let results = compile::run(samples.max(1), pods)?;
            report::write(&results, json.as_deref())
        }
        Bench::Offline {
            json,
            samples,
            files,
            pods,
            services,
            program,
        } => {
            let plan = offline::Plan {
                files: files.max(1),
                pods: pods.max(1),
                services,
                samples: samples.max(1),
            };
            let results = offline::run(plan, program.as_deref())?;
            report::write(&results, json.as_deref())
        }
        Bench::Records {
            json,
            seconds,
            rounds,
        } => {
            let results = records::run(Duration::from_secs(seconds.max(1)), rounds.max(1))?;
            report::write(&results, json.as_deref())
        }
        Bench::Scale {
            json,
            samples,
            pods,
        } => {
            let results = scale::run(pods.max(1), samples.max(1))?;
            report::write(&results, json.as_deref())
        }
        Bench::Cluster {
            json,
            small,
            nodes,
            pods,
            policies,
            changes_per_second,
            seconds,
        } => {
            let of = |given: Option<usize>, small_one, large| {
                let default = if small { small_one } else { large };
                given.unwrap_or(default).max(1)
            };
            let results = cluster::run(&cluster::Plan {
                nodes: of(nodes, 334, 5_000),
                pods: of(pods, 10_000, 150_000),
                policies: of(policies, 1_000, 10_000),
                changes_per_second: changes_per_second.max(1),
                time: Duration::from_secs(seconds.unwrap_or(if small { 15 } else { 60 }).max(1)),
            })?;
            report::write(&results, json.as_deref())
        }
    }
}
