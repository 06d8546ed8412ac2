//! The loaded programs: made-up packets through `BPF_PROG_TEST_RUN`, and real
//! ones through a world. Runs on this kernel and, under emulation, on others.

#[path = "programs/adoption.rs"]
mod adoption;
#[path = "programs/agents.rs"]
mod agents;
#[path = "programs/attached.rs"]
mod attached;
#[path = "programs/audit.rs"]
mod audit;
#[path = "programs/checksums.rs"]
mod checksums;
#[path = "programs/contended.rs"]
mod contended;
#[path = "programs/differential.rs"]
mod differential;
#[path = "programs/flow_states.rs"]
mod flow_states;
#[path = "programs/flows.rs"]
mod flows;
#[path = "programs/fragments.rs"]
mod fragments;
#[path = "programs/growing.rs"]
mod growing;
#[path = "programs/hosts.rs"]
mod hosts;
#[path = "programs/hurrying.rs"]
mod hurrying;
#[path = "programs/load.rs"]
mod load;
#[path = "programs/order.rs"]
mod order;
#[path = "programs/peers.rs"]
mod peers;
#[path = "programs/repair.rs"]
mod repair;
#[path = "programs/rule_hits.rs"]
mod rule_hits;
#[path = "programs/shares.rs"]
mod shares;
#[path = "programs/signalling.rs"]
mod signalling;
#[path = "programs/sources.rs"]
mod sources;
#[path = "programs/sweeps.rs"]
mod sweeps;
#[path = "programs/telling.rs"]
mod telling;
#[path = "programs/uplinks.rs"]
mod uplinks;
#[path = "programs/verdicts.rs"]
mod verdicts;
