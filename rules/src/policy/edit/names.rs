//! The names that the text defines.

use std::collections::HashMap;
use std::sync::Arc;

use crate::policy::EndpointBox;
use crate::policy::boxes::device_box;
use crate::policy::endpoints::{Host, is_built_in, unknown};
use crate::policy::services::Named;
use crate::syntax::Findings;
use crate::syntax::document::{Device, Group, Member};
use crate::syntax::span::Spanned;

/// What the text defines by name. No edit changes it.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) hosts: HashMap<Arc<str>, Host>,
    pub(super) devices: Vec<EndpointBox>,
    services: Named,
}

impl Names {
    pub(super) fn new(devices: &[Device], groups: &[Group], services: &Named) -> Self {
        let device_names = devices.iter().map(|device| &device.name.value);
        let device_names = device_names.enumerate().map(|(i, name)| (name, Host::Device(i)));
        let group_names = groups.iter().map(|group| &group.name.value);
        let group_names = group_names.enumerate().map(|(i, name)| (name, Host::Group(i)));
        let hosts = device_names.chain(group_names);
        Self {
            hosts: hosts.map(|(name, host)| (Arc::clone(name), host)).collect(),
            devices: devices.iter().map(device_box).collect(),
            services: services.clone(),
        }
    }

    /// The defined services.
    pub(super) fn services(&self) -> &Named {
        &self.services
    }

    /// The names of devices and groups, in no order.
    pub(super) fn host_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.hosts.keys()
    }

    /// Whether a device or a group has the name.
    pub(super) fn is_host(&self, name: &str) -> bool {
        self.hosts.contains_key(name)
    }

    /// The node of a group.
    pub(super) fn group(&self, name: &str) -> Option<u32> {
        match self.hosts.get(name) {
            Some(&Host::Group(index)) => Some(index as u32),
            _ => None,
        }
    }

    /// Whether a member is or names something; reported where it does not.
    pub(super) fn is_known(&self, member: &Spanned<Member>, findings: &mut Findings) -> bool {
        let Member::Name(name) = &member.value else { return true };
        let known = is_built_in(name) || self.hosts.contains_key(name);
        if !known {
            let hosts = self.hosts.keys().map(|name| &**name);
            let is_service = self.services.contains_key(name);
            findings.push(unknown(name, member.span, hosts, is_service));
        }
        known
    }
}
