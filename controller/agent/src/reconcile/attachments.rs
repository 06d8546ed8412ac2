//! Attachments of containers to networks, as the CNI plugin ends them.

use cofferdam_protocol::output::RemoveReport;
use cofferdam_protocol::{Attachment, Collection, EndpointSpec, removals};
use cofferdam_syntax::diagnostic::chain;

use super::Reconciler;

impl Reconciler {
    /// Removes the endpoints of an attachment that its runtime has ended.
    pub(super) fn detach(&mut self, attachment: &Attachment) -> RemoveReport {
        self.leave_those(|endpoint| endpoint.is_of(attachment))
    }

    /// Removes the endpoints of a network that belong to none of its valid attachments.
    pub(super) fn collect(&mut self, collection: &Collection) -> RemoveReport {
        self.leave_those(|endpoint| {
            let member_of = endpoint.member_of.as_ref();
            member_of.is_some_and(|member| member.network == collection.network)
                && !collection.valid.iter().any(|valid| endpoint.is_of(valid))
        })
    }

    /// Removes the endpoints of attachments that ended while no agent answered, and returns
    /// those attachments. Their notes stay until the removal is remembered.
    pub(super) fn read_removals(&mut self) -> Vec<Attachment> {
        let run_dir = &self.config.run_dir;
        let noted = removals::noted(run_dir).unwrap_or_else(|error| {
            tracing::error!(
                "cannot read the notes of removals in {}: {}; endpoints that were removed \
                 while no agent ran go on until their interfaces have gone",
                run_dir.display(),
                chain(&error)
            );
            Vec::new()
        });
        for attachment in &noted {
            self.detach(attachment);
        }
        noted
    }

    /// Removes the note about the attachment that an endpoint is added for: the attachment is
    /// there again.
    pub(super) fn forget_removal_of(&self, spec: &EndpointSpec) {
        if let Some(container_id) = &spec.container_id {
            let member = spec.member_of.as_ref();
            self.forget_removal(&Attachment {
                container_id: container_id.clone(),
                interface: member.map_or(&spec.interface, |one| &one.interface).clone(),
            });
        }
    }

    /// Removes the note about an attachment.
    pub(super) fn forget_removal(&self, attachment: &Attachment) {
        if let Err(error) = removals::forget(&self.config.run_dir, attachment) {
            tracing::warn!(
                container_id = %attachment.container_id,
                interface = %attachment.interface,
                "cannot remove the note that an attachment has ended: {}", chain(&error)
            );
        }
    }
}
