//! Which requirements of which standards a report speaks to, and what it does not show. Neither depends
//! on a gateway.

use super::Requirement;

/// What no report of one gateway can show.
pub fn not_shown() -> Vec<String> {
    [
        "Traffic that does not cross one of the wires above: between hosts on one side of a wire, over \
         other cables, radio or modems. Whether there are such ways is not known to a gateway.",
        "Hosts that were silent in the time asked for, and services that nobody used.",
        "What permitted connections carry: rules decide by addresses, ports, times and hardware \
         addresses, and the content is not inspected.",
        "Who a user is: rules name hosts. That a host with the right addresses is the right host rests \
         on the bindings of addresses and on the network behind the wire.",
        "Whether the owners named by purpose or ticket agreed to a conduit: the words are copied from \
         the policy.",
        "That nobody with root on the gateway replaced the audit log as a whole: the hash chain shows \
         changes within it, and a head kept elsewhere (`bulkhead audit verify --expect-head`) shows the \
         rest.",
        "Physical access, the hosts' own software and configuration, and the correctness of the \
         standards' application: this is evidence, and judging it is for people.",
    ]
    .map(str::to_owned)
    .into()
}

/// Which requirements the sections speak to.
pub fn requirements() -> Vec<Requirement> {
    let rows = [
        (
            "IEC 62443-3-3:2013",
            "SR 5.1 Network segmentation",
            "Scope (wires and their modes), zones, conduits: which groups are kept apart and what is \
             permitted between them",
            "Physical segmentation (RE 1) and independence from other networks (RE 2), (RE 3)",
        ),
        (
            "IEC 62443-3-3:2013",
            "SR 5.2 Zone boundary protection",
            "Default denial with its proof (RE 1, deny by default), conduits with purpose and use, \
             counters of what was dropped",
            "Island mode (RE 2); what happens on failure (RE 3) as far as events tell; boundaries that \
             are not wires of this gateway",
        ),
        (
            "SEMI E187-0122",
            "Network security: segmentation and control of the equipment's network traffic",
            "Conduits of the equipment's groups, exceptions with their ends, the inventory of who talks",
            "Operating system support, endpoint protection and monitoring of the equipment itself",
        ),
        (
            "NIST SP 800-82r3",
            "Network segmentation and isolation; OT overlay SC-7, SC-7(5), AC-4",
            "Deny by default and permit by exception: default denial, conduits, declared against \
             observed",
            "Boundary protection outside of these wires",
        ),
        (
            "NIST SP 800-82r3",
            "OT overlay AU-9, AU-10, CM-3 (changes and their record)",
            "Policy changes with who, when, why and hashes; the state of the hash chain",
            "Review and retention of records by the organisation",
        ),
    ];
    rows.map(|(standard, requirement, evidence, remains)| Requirement {
        standard: standard.to_owned(),
        requirement: requirement.to_owned(),
        evidence: evidence.to_owned(),
        remains: remains.to_owned(),
    })
    .into()
}
