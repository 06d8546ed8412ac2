//! Loads the kernel programs, owns their maps, attaches them.
//!
//! All system calls on BPF, and the `unsafe` they need, are in this crate. It
//! knows layouts and tables as words; it does not know policies, labels or YAML.
//!
//! Invariant: what programs can reach is whole at every moment. A table is
//! written before it is published, an endpoint's record before its interface
//! index leads to it, a slot's entry before an address does; removal is the
//! reverse.

mod adopt;
mod array;
mod attach;
mod behaviour;
mod bindings;
mod btf;
mod digest;
mod early_drop;
mod endpoints;
mod events;
mod flows;
mod hooks;
mod kernel;
mod maps;
mod netlink;
mod pins;
mod programs;
mod socket_buffer;
mod sys;
mod uplinks;

pub use array::MappedArray;
pub use attach::{AttachError, Attachments};
pub use behaviour::{Behaviour, IdleTimes};
pub use early_drop::{XdpMode, strips_tags};
pub use endpoints::Endpoint;
pub use events::{Events, FlowSwitch, Report};
pub use flows::{EndListener, FlowKeeper, FlowUse, Sweep, Swept};
pub use hooks::{Foreign, HookState};
pub use kernel::{Kernel, KernelError, RuleHits};
pub use netlink::nftables::{AdoptedInterface, Guard};
pub use pins::{Adopted, PinsLock};
pub use programs::{CASTS_SOCKET_BUFFER, OBJECT, Program, TestContext, TestRun, VerifiedProgram};
pub use socket_buffer::{SocketBufferError, casts_socket_buffer};
pub use sys::give_memory_back;
pub use uplinks::Uplink;
