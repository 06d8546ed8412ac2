//! The kits with which Cofferdam is tested.
//!
//! | module | what it makes |
//! |---|---|
//! | [`packet`] | packets by meaning, right or wrong in one place at a time |
//! | [`world`] | a node with workloads, of network namespaces |
//! | [`traffic`] | clients, servers and frames in such a world |
//! | [`translation`] | rules of a node that lead virtual addresses to a host |
//! | [`faults`] | a node with a real agent, and what may go wrong there, under traffic |
//! | [`firewall`] | documents compiled and loaded over such a world |
//! | [`both_ways`] | a packet's short way held against its long way |
//! | [`bytecode`] | the compiled programs, instruction by instruction |
//! | [`agent`] | a real agent for such a world, and its command line |
//! | [`api_server`] | an API server of Kubernetes, and what happens to real ones |
//! | [`docs`] | objects that stand in the documentation |
//! | [`cni`] | a container runtime that runs chains of network plugins |
//! | [`cluster`] | documents of a cluster of any size |
//! | [`conformance`] | who may reach whom, by the public conformance suites |
//! | [`expectations`] | files of statements about who may reach whom |
//! | [`differential`] | the loaded programs against the oracle, on random worlds and packets |
//! | [`etcd`] | a real etcd, and nodes around it with agents that share it |
//! | [`evasions`] | packets that must not pass, and honest traffic that must, in every setup |
//! | [`flow_model`] | flows of several workloads over both hooks, against a model of them |
//! | [`flood`] | connection requests from senders that do not exist, beside honest traffic |
//! | [`generate`] | random policies over a small world, from a seed |
//! | [`ledger`] | all counters: those a test names move, no others |
//! | [`pictures`] | dashboards of Grafana, drawn as pages of HTML |
//! | [`prometheus`] | questions to a Prometheus |
//! | [`runtimes`] | containerd and podman, each with everything in a folder |
//! | [`scratch`] | a folder that is gone when the test is |
//! | [`load`] | honest traffic under load, which must lose nothing |
//! | [`machine`] | what a figure or a finding was got on |
//! | [`shop`] | policies of a shop whose every answer passes by its flow |
//! | [`soak`] | what every soak says |
//! | [`skip`] | the difference between "passed" and "passed over" |
//!
//! Packets, worlds and traffic know nothing of policies, verdicts or BPF;
//! [`firewall`] and [`ledger`] join them with the crates under test.

pub mod agent;
pub mod api_server;
pub mod both_ways;
pub mod bytecode;
pub mod cluster;
pub mod cni;
pub mod conformance;
pub mod differential;
pub mod docs;
pub mod etcd;
pub mod evasions;
pub mod expectations;
pub mod faults;
pub mod firewall;
pub mod flood;
pub mod flow_model;
pub mod generate;
pub mod ledger;
pub mod load;
pub mod machine;
pub mod packet;
pub mod pictures;
pub mod prometheus;
pub mod runtimes;
pub mod scratch;
pub mod shop;
pub mod skip;
pub mod soak;
pub mod traffic;
pub mod translation;
pub mod world;
