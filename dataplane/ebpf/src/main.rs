//! The kernel programs.

#![no_std]
#![no_main]
#![expect(
    missing_docs,
    reason = "the attribute of a program repeats it without its comment"
)]
#![expect(unreachable_pub, reason = "programs are found by their symbols")]

use aya_ebpf::{
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use cofferdam_ebpf::{Attachment, arrive, clear, leave_node, run};
use cofferdam_verdict::counter::Hook;

/// tc ingress of the host-side veth, by a tcx link.
#[classifier]
pub fn from_workload(context: TcContext) -> i32 {
    run(&context, Hook::FromWorkload, Attachment::Link)
}

/// tc ingress of the host-side veth, as a filter.
#[classifier]
pub fn from_workload_f(context: TcContext) -> i32 {
    run(&context, Hook::FromWorkload, Attachment::Filter)
}

/// tc egress of the host-side veth, by a tcx link.
#[classifier]
pub fn to_workload(context: TcContext) -> i32 {
    run(&context, Hook::ToWorkload, Attachment::Link)
}

/// tc egress of the host-side veth, as a filter.
#[classifier]
pub fn to_workload_f(context: TcContext) -> i32 {
    run(&context, Hook::ToWorkload, Attachment::Filter)
}

/// tc ingress of an interface that is no endpoint's, by a tcx link.
#[classifier]
pub fn clear_stamp(context: TcContext) -> i32 {
    clear(&context)
}

/// tc ingress of an interface that is no endpoint's, as a filter.
#[classifier]
pub fn clear_stamp_f(context: TcContext) -> i32 {
    clear(&context)
}

/// tc egress of an interface by which packets leave the node for good, by a tcx link or as
/// a filter.
#[classifier]
pub fn uplink_egress(context: TcContext) -> i32 {
    leave_node(&context, true)
}

/// The same of a tunnel, whose packets leave inside others.
#[classifier]
pub fn tunnel_egress(context: TcContext) -> i32 {
    leave_node(&context, false)
}

/// XDP of an uplink, frames of several buffers included.
#[xdp(frags)]
pub fn uplink_ingress(context: XdpContext) -> u32 {
    arrive(&context)
}
