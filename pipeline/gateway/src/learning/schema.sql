-- Who talks to whom, as `bulkhead learn` saw it. Times are milliseconds since the Unix epoch, unless
-- a name says otherwise. Open it with `sqlite3 -readonly`; begin with the view `communication`.

-- schema-version, period-s (seconds of a period), software (what made the file).
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- A MAC address and the network address that came with it ('' where frames are not IP). Behind a
-- router many addresses come with its one MAC address. When each was seen says who had which
-- address over time.
CREATE TABLE endpoints (
    id       INTEGER PRIMARY KEY,
    mac      TEXT NOT NULL,
    address  TEXT NOT NULL,
    wire     TEXT NOT NULL DEFAULT '',  -- where it was seen last
    side     TEXT NOT NULL DEFAULT '',  -- inside or outside
    vlan     TEXT NOT NULL DEFAULT '',  -- '', '30' or '100.30'
    first_ms INTEGER NOT NULL,
    last_ms  INTEGER NOT NULL,
    UNIQUE (mac, address)
);

-- What a client opened on a server in a period.
CREATE TABLE edges (
    period         INTEGER NOT NULL,  -- when it began, in seconds since the Unix epoch
    client         INTEGER NOT NULL,  -- endpoints.id
    server         INTEGER NOT NULL,  -- endpoints.id
    service        TEXT NOT NULL,     -- tcp/502, udp/53, icmp/8, ip/47, eth/0x8892
    wire           TEXT NOT NULL,
    vlan           TEXT NOT NULL,
    client_port    INTEGER NOT NULL,  -- 0, unless client and server may be the other way round
    flows          INTEGER NOT NULL,  -- that began
    answered       INTEGER NOT NULL,  -- records of flows with an answer
    failed         INTEGER NOT NULL,  -- flows that ended without one, or were refused
    denied         INTEGER NOT NULL,  -- packets that an enforcing wire dropped
    would_deny     INTEGER NOT NULL,  -- flows that an observing wire would have dropped
    client_packets INTEGER NOT NULL,
    server_packets INTEGER NOT NULL,
    client_bytes   INTEGER NOT NULL,  -- of frames, without FCS
    server_bytes   INTEGER NOT NULL,
    first_ms       INTEGER NOT NULL,
    last_ms        INTEGER NOT NULL,
    rule           TEXT NOT NULL,     -- that decided last
    reason         TEXT NOT NULL,     -- why it was dropped, or would have been
    PRIMARY KEY (period, client, server, service, wire, vlan, client_port)
) WITHOUT ROWID;

-- Applications that were recognised by their first bytes.
CREATE TABLE services (
    server      INTEGER NOT NULL,  -- endpoints.id
    service     TEXT NOT NULL,
    application TEXT NOT NULL,
    first_ms    INTEGER NOT NULL,
    last_ms     INTEGER NOT NULL,
    PRIMARY KEY (server, service, application)
) WITHOUT ROWID;

-- Names that hosts were called by. The subject is a MAC address or a network address; the source is
-- dhcp, lldp, mdns, netbios, llmnr or dns.
CREATE TABLE names (
    subject  TEXT NOT NULL,
    source   TEXT NOT NULL,
    name     TEXT NOT NULL,
    first_ms INTEGER NOT NULL,
    last_ms  INTEGER NOT NULL,
    PRIMARY KEY (subject, source, name)
) WITHOUT ROWID;

-- Addresses that DHCP gave to devices on the gateway's own networks.
CREATE TABLE leases (
    mac      TEXT NOT NULL,
    address  TEXT NOT NULL,
    first_ms INTEGER NOT NULL,
    last_ms  INTEGER NOT NULL,
    PRIMARY KEY (mac, address)
) WITHOUT ROWID;

-- Devices that say in LLDP that they route.
CREATE TABLE routers (
    mac      TEXT PRIMARY KEY,
    first_ms INTEGER NOT NULL,
    last_ms  INTEGER NOT NULL
) WITHOUT ROWID;

-- Whether a wire enforces, and since when.
CREATE TABLE wires (
    name     TEXT PRIMARY KEY,
    enforces INTEGER NOT NULL,
    since_ms INTEGER NOT NULL
) WITHOUT ROWID;

-- Flows that are open, and what of each is counted in edges already: 500,000 at most, those that were
-- silent longest go first.
CREATE TABLE open_flows (
    flow           BLOB PRIMARY KEY,
    client_packets INTEGER NOT NULL,
    server_packets INTEGER NOT NULL,
    client_bytes   INTEGER NOT NULL,
    server_bytes   INTEGER NOT NULL,
    last_ms        INTEGER NOT NULL
) WITHOUT ROWID;

-- What was read, and what was lost on the way: flows-lost and frames-lost by the gateway,
-- flows-dropped and facts-dropped here, flows-unstored and frames-unstored with a process that ended
-- before it had stored them (meta has how far the gateway's stream was read), edges-pruned and facts-pruned by retention.
CREATE TABLE counters (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;

CREATE VIEW communication AS
SELECT datetime(edges.period, 'unixepoch') AS since,
       c.mac AS client_mac, c.address AS client, s.mac AS server_mac, s.address AS server,
       edges.service, edges.wire, edges.vlan, edges.flows, edges.answered, edges.failed,
       edges.denied, edges.would_deny, edges.client_packets, edges.server_packets,
       edges.client_bytes, edges.server_bytes, edges.rule, edges.reason,
       datetime(edges.first_ms / 1000, 'unixepoch') AS first_seen,
       datetime(edges.last_ms / 1000, 'unixepoch') AS last_seen
  FROM edges
  JOIN endpoints AS c ON c.id = edges.client
  JOIN endpoints AS s ON s.id = edges.server;
