//! Puts the programs on a workload's hooks, both ways at once.
//!
//! clsact filters first: they cost half a millisecond, and they stay when the BPF
//! file system is lost while the agent is dead. A tcx link on top, where the
//! kernel has it (6.6): the cheap hook for packets. A packet meets the link
//! first; the filter behind judges only what no link has.

use std::io;

use aya::{
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        links::FdLink,
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError},
    },
    sys::SyscallError,
};
use thiserror::Error;

use crate::{
    kernel::Kernel,
    programs::{self, Program},
};
use cofferdam_verdict::counter::Hook;

/// Priority of our filters: before whatever another tool adds by default.
const FILTER_PRIORITY: u16 = 1;

/// Why a program is not on its hook.
#[derive(Debug, Error)]
pub enum AttachError {
    /// The qdisc that carries filters could not be made.
    #[error("cannot add a clsact qdisc to {interface}: {source}")]
    Qdisc {
        /// The interface.
        interface: String,
        /// What aya says.
        source: TcError,
    },
    /// A program could not be attached.
    #[error("cannot attach {program} to {interface}: {source}")]
    Attach {
        /// The program.
        program: Program,
        /// The interface.
        interface: String,
        /// What aya says.
        source: Box<ProgramError>,
    },
}

/// The programs on one interface. They are detached when this is dropped, which
/// must be in the network namespace they were attached in: a filter is named by
/// its interface's index.
#[derive(Debug)]
pub struct Attachments {
    filters: Vec<SchedClassifierLink>,
    links: Vec<FdLink>,
}

impl Attachments {
    /// Whether tcx links stand before the filters.
    pub fn has_links(&self) -> bool {
        !self.links.is_empty()
    }

    /// Whether filters stand behind the links.
    pub fn has_filters(&self) -> bool {
        !self.filters.is_empty()
    }

    /// Takes the tcx links off and leaves the filters.
    pub fn drop_links(&mut self) {
        self.links.clear();
    }
}

impl Kernel {
    /// Attaches the programs to an interface of the caller's network namespace.
    ///
    /// # Errors
    ///
    /// When the kernel refuses; nothing stays attached then. A kernel without tcx
    /// is no error: the filters do all the work there.
    pub fn attach(&mut self, interface: &str) -> Result<Attachments, AttachError> {
        match tc::qdisc_add_clsact(interface) {
            Ok(()) | Err(TcError::AlreadyAttached) => {}
            Err(source) => {
                return Err(AttachError::Qdisc {
                    interface: interface.to_owned(),
                    source,
                });
            }
        }
        let mut attachments = Attachments {
            filters: Vec::new(),
            links: Vec::new(),
        };
        for program in Program::ALL.into_iter().filter(|program| program.filter) {
            let filter = self.attach_one(program, interface, || {
                TcAttachOptions::Netlink(NlOptions {
                    priority: FILTER_PRIORITY,
                    ..NlOptions::default()
                })
            })?;
            attachments.filters.push(filter);
        }
        for program in Program::ALL.into_iter().filter(|program| !program.filter) {
            let first = || TcAttachOptions::TcxOrder(LinkOrder::first());
            let link = match self.attach_one(program, interface, first) {
                Ok(link) => link,
                Err(AttachError::Attach { source, .. }) if is_unsupported(&source) => break,
                Err(error) => return Err(error),
            };
            let link = FdLink::try_from(link).map_err(|source| AttachError::Attach {
                program,
                interface: interface.to_owned(),
                source: Box::new(ProgramError::IOError(io::Error::other(source))),
            })?;
            attachments.links.push(link);
        }
        Ok(attachments)
    }

    fn attach_one(
        &mut self,
        program: Program,
        interface: &str,
        options: impl FnOnce() -> TcAttachOptions,
    ) -> Result<SchedClassifierLink, AttachError> {
        let direction = match program.hook {
            Hook::FromWorkload => TcAttachType::Ingress,
            Hook::ToWorkload | Hook::UplinkIngress => TcAttachType::Egress,
        };
        let attach = |classifier: &mut SchedClassifier| {
            let id = classifier.attach_with_options(interface, direction, options())?;
            classifier.take_link(id)
        };
        programs::program(self.ebpf(), program.name)
            .and_then(attach)
            .map_err(|source| AttachError::Attach {
                program,
                interface: interface.to_owned(),
                source: Box::new(source),
            })
    }
}

/// Whether the kernel knows no tcx (before 6.6): it refuses the attach type.
fn is_unsupported(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(SyscallError { io_error, .. })
        if io_error.raw_os_error() == Some(libc::EINVAL))
}
