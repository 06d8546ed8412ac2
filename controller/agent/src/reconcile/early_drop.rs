//! Interfaces on which frames are dropped early, as the configuration names them.
//!
//! Nothing depends on it: the workloads' own hooks decide. So no problem here keeps anything
//! else from being in force; `status` says in which mode each interface drops, or why not.

use cofferdam_syntax::diagnostic::chain;
use std::collections::{BTreeMap, BTreeSet};

use cofferdam_dataplane::{Uplink, XdpMode, strips_tags};
use cofferdam_protocol::output::UplinkStatus;

use super::Reconciler;
use crate::config::EarlyDrop;
use crate::netlink::{Interface, Kind};

/// Knowledge of the interfaces on which frames are dropped early, by their names.
#[derive(Debug, Default)]
pub(super) struct EarlyDrops {
    standing: BTreeMap<String, Result<XdpMode, String>>,
    /// The program is off where it is not wanted.
    is_settled: bool,
}

impl EarlyDrops {
    /// Lets the next look take the program off where it is not wanted any more.
    pub(super) fn unsettle(&mut self) {
        self.is_settled = false;
    }

    /// Describes them.
    pub(super) fn report(&self) -> Vec<UplinkStatus> {
        let standing = self.standing.iter();
        let described = standing.map(|(interface, drops)| UplinkStatus {
            interface: interface.clone(),
            mode: drops.as_ref().ok().map(|mode| mode.name().to_owned()),
            problem: drops.as_ref().err().cloned(),
        });
        described.collect()
    }
}

impl Reconciler {
    /// Puts the program where the configuration wants it, and takes it off elsewhere.
    pub(super) fn drop_early(&mut self) {
        let config = self.config.clone();
        if config.uplinks.is_off() && self.early_drops.is_settled {
            return;
        }
        let (names, allows_generic) = match &config.uplinks {
            EarlyDrop::Names(names) => (names.clone(), true),
            EarlyDrop::Auto => {
                let all = self.interfaces.by_index.values();
                let devices = all.filter(|one| self.is_device(one));
                (devices.map(|one| one.name.clone()).collect(), false)
            }
        };
        let mut wanted = BTreeSet::new();
        let mut standing = BTreeMap::new();
        for name in names {
            let drops = self.drop_early_on(&name, allows_generic);
            if let Ok((ifindex, _)) = drops {
                wanted.insert(ifindex);
            }
            let drops = drops.map(|(_, mode)| mode);
            let before = self.early_drops.standing.get(&name);
            if before != Some(&drops) {
                match &drops {
                    Ok(mode) => tracing::info!(interface = name, mode = mode.name(), "drops early"),
                    Err(problem) => {
                        tracing::warn!(interface = name, "frames are not dropped early: {problem}");
                    }
                }
            }
            standing.insert(name, drops);
        }
        self.early_drops.standing = standing;
        match self.enforcer.stop_early_drop_but(&wanted) {
            Ok(()) => self.early_drops.is_settled = true,
            // An interface that has just gone will be heard of.
            Err(error) => tracing::debug!("cannot take a program off: {}", chain(&error)),
        }
    }

    /// Returns `true` if an interface is a device, rather than one end of a virtual pair.
    fn is_device(&self, interface: &Interface) -> bool {
        interface.kind == Kind::Ethernet && self.interfaces.uplink(interface) == Some(Uplink::Door)
    }

    /// Puts the program on an interface; returns its index and the mode, or why not.
    fn drop_early_on(
        &mut self,
        name: &str,
        allows_generic: bool,
    ) -> Result<(u32, XdpMode), String> {
        let mut all = self.interfaces.by_index.values();
        let interface = all
            .find(|interface| interface.name == name)
            .ok_or("there is no such interface")?;
        let ifindex = interface.ifindex;
        let mut managed = self
            .endpoints
            .values()
            .chain(self.leaving.values())
            .map(|managed| managed.endpoint.link.host_ifindex);
        if managed.any(|managed| managed == ifindex) {
            return Err("it is an endpoint's".to_owned());
        }
        match strips_tags(name) {
            Ok(false) => {}
            Ok(true) => {
                return Err(format!(
                    "the device takes VLAN tags off frames before they can be looked at: turn \
                     that off by `ethtool -K {name} rxvlan off`"
                ));
            }
            Err(error) => {
                return Err(format!(
                    "the device does not tell its settings: {}",
                    chain(&error)
                ));
            }
        }
        let stood = matches!(self.early_drops.standing.get(name), Some(Ok(_)));
        let drops = self.enforcer.drop_early_on(ifindex, allows_generic);
        let (mode, is_new) = drops.map_err(|error| chain(&error))?;
        if stood && is_new {
            self.tamper_events += 1;
            tracing::error!(
                interface = name,
                "somebody took the program off that drops frames early; it is repaired"
            );
        }
        Ok((ifindex, mode))
    }
}
