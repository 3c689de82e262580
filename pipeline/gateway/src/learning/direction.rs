//! Which end of a flow serves, where its opening was not seen: what was recognised by its first bytes
//! says so. What stays unknown the learner settles by how many meet at a socket, or holds back.

use std::collections::HashSet;

use bulkhead_learn::observe::Service;

use super::database::StoreError;
use super::report::{EdgeRow, Reader};

/// Services that were recognised, by the number of the endpoint that serves.
#[derive(Clone, Debug, Default)]
pub struct Directions(HashSet<(i64, Service)>);

impl Directions {
    /// Reads what was recognised.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn read(reader: &Reader) -> Result<Self, StoreError> {
        let services = reader.services()?.into_iter();
        Ok(Self(services.map(|(server, service, _)| (server, service)).collect()))
    }

    /// Turns an edge the right way round, where that is known, and says that it is.
    pub fn settle(&self, edge: &mut EdgeRow) {
        let Service::Port(protocol, _) = edge.service else { return };
        if edge.client_port == 0 {
            return;
        }
        let turned = Service::Port(protocol, edge.client_port);
        let (is_right, is_turned) = (
            self.0.contains(&(edge.server, edge.service)),
            self.0.contains(&(edge.client, turned)),
        );
        match (is_right, is_turned) {
            (true, false) => edge.client_port = 0,
            (false, true) => {
                std::mem::swap(&mut edge.client, &mut edge.server);
                edge.service = turned;
                edge.client_port = 0;
            }
            // Both ends serve, or neither is known to.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_learn::observe::PortProtocol;

    use super::*;
    use crate::learning::ingest::Seen;

    fn edge(client: i64, client_port: u16, server: i64, port: u16) -> EdgeRow {
        EdgeRow {
            period: 0,
            client,
            server,
            service: Service::Port(PortProtocol::Tcp, port),
            wire: String::new(),
            vlan: [0, 0],
            client_port,
            flows: 1,
            answered: 1,
            failed: 0,
            denied: 0,
            would_deny: 0,
            packets: 0,
            bytes: 0,
            seen: Seen { first_ms: 0, last_ms: 0 },
            rule: String::new(),
            reason: String::new(),
        }
    }

    #[test]
    fn what_is_recognised_turns_a_flow_the_right_way_round() {
        let modbus = Service::Port(PortProtocol::Tcp, 502);
        let known = Directions(HashSet::from([(7, modbus)]));
        for (client, client_port, server, port) in [(1, 4000, 7, 502), (7, 502, 1, 4000)] {
            let mut edge = edge(client, client_port, server, port);
            known.settle(&mut edge);
            assert_eq!((edge.client, edge.server, edge.service), (1, 7, modbus));
            assert_eq!(edge.client_port, 0);
        }
        let mut unknown = edge(1, 4000, 2, 4001);
        known.settle(&mut unknown);
        assert_eq!((unknown.client, unknown.client_port), (1, 4000));
    }
}
