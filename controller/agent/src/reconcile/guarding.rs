//! The guard: packets of veths that nobody has adopted are dropped, if the configuration says
//! so.
//!
//! A veth is adopted when this agent's filters judge on it, and as long as its interface is
//! there; so is one that somebody released, and one that the configuration names as an
//! uplink. The rules stay when the agent ends: what comes up while none runs is dropped.

use cofferdam_syntax::diagnostic::chain;
use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use cofferdam_dataplane::{AdoptedInterface, Guard as Rules};

use super::Reconciler;
use crate::config::Guard;
use crate::netlink::Kind;

/// The rules, and how they stand.
#[derive(Debug, Default)]
pub(super) struct Guarding {
    rules: Option<Rules>,
    /// Reason, if they are not as they should be.
    problem: Option<String>,
}

impl Guarding {
    /// Returns `true` if packets of veths that nobody has adopted are dropped.
    pub(super) fn is_on(&self) -> bool {
        self.rules.is_some()
    }

    /// Reason, if the rules are not as they should be.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Packets that the rules have dropped; `None` without rules, or where the kernel does
    /// not tell.
    pub(super) fn dropped(&self) -> Option<u64> {
        self.rules.as_ref()?;
        Rules::dropped().ok()
    }
}

impl Reconciler {
    /// Puts the rules there, or takes away those of an agent with another configuration.
    ///
    /// # Errors
    /// When the kernel cannot do it: an agent that is to guard and cannot does not start.
    pub(super) fn begin_guarding(&mut self) -> Result<()> {
        match self.config.guard {
            Guard::None => {
                if let Err(error) = Rules::remove() {
                    tracing::error!("cannot take away the rules of a guard: {}", chain(&error));
                }
            }
            Guard::Nftables => {
                let rules = Rules::install(self.may_send()).context(
                    "cannot put up the guard: `guard: nftables` needs a kernel with nftables for \
                     the families inet, bridge and arp",
                )?;
                self.guarding.rules = Some(rules);
            }
        }
        Ok(())
    }

    /// The veths whose packets pass the guard.
    fn may_send(&self) -> BTreeSet<AdoptedInterface> {
        let interfaces = self.interfaces.by_index.values();
        let adopted = interfaces.filter(|interface| {
            interface.kind == Kind::Veth
                && (self.enforcer.is_guarded(interface.ifindex)
                    || self.enforcer.is_open(interface.ifindex)
                    || self.released.contains_key(&interface.ifindex)
                    || self.is_named_uplink(interface))
        });
        adopted
            .map(|interface| AdoptedInterface {
                ifindex: interface.ifindex,
                name: interface.name.clone(),
            })
            .collect()
    }

    /// Lets through what has been adopted, and nothing that has gone.
    pub(super) fn keep_guard(&mut self) {
        let may_send = self.may_send();
        let Some(rules) = &mut self.guarding.rules else {
            return;
        };
        if let Err(error) = rules.adopt(may_send) {
            tracing::warn!(
                "the guard's rules cannot be changed ({}): they are put up anew",
                chain(&error)
            );
            self.put_guard_up_again();
        }
    }

    /// Looks whether the rules stand, and puts them up again where others took them away.
    pub(super) fn look_at_guard(&mut self) {
        let Some(rules) = &mut self.guarding.rules else {
            return;
        };
        match rules.stands() {
            Ok(true) if self.guarding.problem.is_none() => {}
            Ok(true) | Err(_) => self.put_guard_up_again(),
            Ok(false) => {
                self.tamper_events += 1;
                tracing::error!("somebody changed the guard's rules; they are put up again");
                self.put_guard_up_again();
            }
        }
    }

    fn put_guard_up_again(&mut self) {
        self.guarding.problem = match Rules::install(self.may_send()) {
            Ok(rules) => {
                self.guarding.rules = Some(rules);
                None
            }
            Err(error) => {
                let problem = format!(
                    "the guard is not up: {}; packets of interfaces that nobody has adopted may \
                     pass",
                    chain(&error)
                );
                if self.guarding.problem.as_ref() != Some(&problem) {
                    tracing::error!("{problem}");
                }
                Some(problem)
            }
        };
    }

    /// Takes the rules away.
    pub(super) fn end_guarding(&mut self) {
        if self.guarding.rules.take().is_some()
            && let Err(error) = Rules::remove()
        {
            tracing::error!("cannot take away the rules of the guard: {}", chain(&error));
        }
    }
}
