use super::*;
use crate::flow_stream::{Event, Flow, MacAddress, Message};
use crate::learning::announce::NameSource;
use crate::learning::ingest::{Ingest, Limits};

const DAY_MS: i64 = 86_400_000;

fn flow(client: u8, at_ms: i64) -> Message {
    Message::Flow(Box::new(Flow {
        event: Event::Ended,
        first_ms: at_ms,
        last_ms: at_ms,
        wire: "line3".to_owned(),
        client_side: Side::Outside,
        vlan: [30, 7],
        ether_type: 0x0800,
        protocol: 6,
        client: Some(IpAddr::from([10, 20, 0, client])),
        server: Some(IpAddr::from([10, 30, 3, 11])),
        client_port: 40_000,
        server_port: 502,
        client_mac: MacAddress(Mac([2, 0, 0, 0, 1, client])),
        server_mac: MacAddress(Mac([2, 0, 0, 0, 0, 2])),
        opening_seen: true,
        answered: true,
        client_packets: 5,
        server_packets: 5,
        client_bytes: 300,
        server_bytes: 400,
        end: None,
        allowed: true,
        reason: None,
        rule: "r".to_owned(),
        epoch: 1,
        enforced: true,
        staged: None,
    }))
}

fn batch(messages: &[Message]) -> (Batch, Counters) {
    let mut ingest = Ingest::new(3600, Limits::default(), HashMap::new());
    messages.iter().for_each(|message| ingest.add(message));
    (ingest.take_batch(), ingest.counters)
}

fn open(folder: &Path, retention: Retention) -> (Database, Option<PathBuf>) {
    Database::open(folder, 3600, retention).unwrap_or_else(|e| panic!("{e}"))
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"))
}

fn number(folder: &Path, query: &str) -> i64 {
    let connection = open_read_only(&folder.join(FILE)).unwrap_or_else(|e| panic!("{e}"));
    connection.query_row(query, [], |row| row.get(0)).unwrap_or_else(|e| panic!("{query}: {e}"))
}

#[test]
fn batches_add_up_and_readers_see_them_at_once() {
    let folder = folder();
    let (mut database, aside) = open(folder.path(), Retention::default());
    assert_eq!(aside, None);
    let (batch, counters) = batch(&[flow(1, 5_000), flow(1, 6_000), flow(2, 7_000)]);
    for _ in 0..2 {
        database.store(&batch, &counters).unwrap_or_else(|e| panic!("{e}"));
    }
    assert_eq!(number(folder.path(), "SELECT count(*) FROM edges"), 2);
    assert_eq!(number(folder.path(), "SELECT sum(client_bytes) FROM edges"), 2 * 3 * 300);
    assert_eq!(number(folder.path(), "SELECT count(*) FROM endpoints"), 3);
    let of_view =
        "SELECT count(*) FROM communication WHERE vlan = '30.7' AND client LIKE '10.20.%'";
    assert_eq!(number(folder.path(), of_view), 2);
    // Counters are this process's: what was told before is not added again.
    let read = "SELECT value FROM counters WHERE name = 'flows-read'";
    assert_eq!(number(folder.path(), read), 3);
    assert_eq!(number(folder.path(), "SELECT enforces FROM wires"), 1);
}

#[test]
fn a_damaged_store_is_set_aside_and_kept() {
    for (damage, offset) in [(&b"this is no database"[..], 0), (&[0xff; 9000][..], 4096)] {
        let folder = folder();
        let (mut database, _) = open(folder.path(), Retention::default());
        let (batch, counters) = batch(&[flow(1, 5_000)]);
        database.store(&batch, &counters).unwrap_or_else(|e| panic!("{e}"));
        drop(database);
        let path = folder.path().join(FILE);
        let mut bytes = fs::read(&path).unwrap_or_else(|e| panic!("{e}"));
        let end = (offset + damage.len()).min(bytes.len());
        bytes[offset..end].copy_from_slice(&damage[..end - offset]);
        fs::write(&path, &bytes).unwrap_or_else(|e| panic!("{e}"));
        let (mut database, aside) = open(folder.path(), Retention::default());
        let aside = aside.unwrap_or_else(|| panic!("offset {offset}: not found damaged"));
        assert!(aside.to_string_lossy().contains(".corrupt-"), "{aside:?}");
        let kept = fs::read(&aside).unwrap_or_else(|e| panic!("{e}"));
        assert!(kept[offset..end] == bytes[offset..end], "offset {offset}: not kept as it was");
        database.store(&batch, &counters).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(number(folder.path(), "SELECT count(*) FROM edges"), 1);
    }
}

#[test]
fn a_store_of_a_newer_version_is_left_as_it_is() {
    let folder = folder();
    let (database, _) = open(folder.path(), Retention::default());
    let text = "UPDATE meta SET value = '99' WHERE key = 'schema-version'";
    database.connection.execute(text, []).unwrap_or_else(|e| panic!("{e}"));
    drop(database);
    let error = Database::open(folder.path(), 3600, Retention::default()).err();
    let error = error.unwrap_or_else(|| panic!("opened"));
    assert_eq!(error.kind(), Kind::Newer);
    assert!(error.to_string().contains("schema 99"), "{error}");
}

#[test]
fn retention_goes_by_days_and_rows_and_counts() {
    let folder = folder();
    let retention = Retention { days: 10, rows: 3, ..Retention::default() };
    let (mut database, _) = open(folder.path(), retention);
    let messages: Vec<Message> = (0..20).map(|day| flow(1, day * DAY_MS)).collect();
    let (batch, counters) = batch(&messages);
    database.store(&batch, &counters).unwrap_or_else(|e| panic!("{e}"));
    let pruned = database.prune(20 * DAY_MS).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(pruned.edges, 17, "ten are too old, seven too many");
    assert_eq!(number(folder.path(), "SELECT min(period) FROM edges"), 17 * DAY_MS / 1000);
    let more = database.store(&Batch::default(), &counters);
    more.unwrap_or_else(|e| panic!("{e}"));
    let told = "SELECT value FROM counters WHERE name = 'edges-pruned'";
    assert_eq!(number(folder.path(), told), 17);
}

#[test]
fn a_full_file_forgets_its_oldest_periods_for_new_ones() {
    let folder = folder();
    let retention = Retention { bytes: 64 * PAGE_BYTES, ..Retention::default() };
    let (mut database, _) = open(folder.path(), retention);
    for hour in 0..200 {
        let messages: Vec<Message> =
            (0..100).map(|client| flow(client, hour * 3_600_000)).collect();
        let (batch, counters) = batch(&messages);
        database.store(&batch, &counters).unwrap_or_else(|e| panic!("hour {hour}: {e}"));
    }
    let newest = number(folder.path(), "SELECT max(period) FROM edges");
    assert_eq!(newest, 199 * 3600);
    assert!(number(folder.path(), "SELECT min(period) FROM edges") > 0);
    let pruned = number(folder.path(), "SELECT value FROM counters WHERE name = 'edges-pruned'");
    let kept = number(folder.path(), "SELECT count(*) FROM edges");
    assert_eq!(pruned + kept, 200 * 100, "nothing is forgotten uncounted");
}

/// A batch of names that a host announced, the later ones later.
fn names(host: u8, numbers: std::ops::Range<u32>) -> Batch {
    let name = |number: u32| {
        let of = Subject::Mac(Mac([2, 0, 0, 0, 9, host]));
        let (name, source) = (format!("{number:0>200}"), NameSource::Mdns);
        let at_ms = 1000 + i64::from(number);
        (Fact::Name { of, name, source }, Seen { first_ms: at_ms, last_ms: at_ms })
    };
    Batch { facts: numbers.map(name).collect(), ..Batch::default() }
}

#[test]
fn facts_go_by_their_number_and_are_counted() {
    let folder = folder();
    let retention = Retention { facts: 20, ..Retention::default() };
    let (mut database, _) = open(folder.path(), retention);
    // 40 clients of one server, the later ones later, and two hosts of many names.
    let flows: Vec<Message> =
        (0..40).map(|client| flow(client, 100_000 + i64::from(client))).collect();
    let (batch, counters) = batch(&flows);
    database.store(&batch, &counters).unwrap_or_else(|e| panic!("{e}"));
    for (host, numbers) in [(1, 0..64), (2, 64..74)] {
        database.store(&names(host, numbers), &counters).unwrap_or_else(|e| panic!("{e}"));
    }
    let pruned = database.prune(200_000).unwrap_or_else(|e| panic!("{e}"));
    // Of 64 names 16 stay, of these and the other ten the 20 last ones; of 41 endpoints 20.
    assert_eq!(pruned, Pruned { edges: 21, facts: 48 + 6 + 21 });
    let number = |query: &str| number(folder.path(), query);
    assert_eq!(number("SELECT count(*) FROM names"), 20);
    assert_eq!(number("SELECT min(CAST(name AS INTEGER)) FROM names"), 54);
    assert_eq!(number("SELECT count(*) FROM endpoints"), 20);
    assert_eq!(number("SELECT count(*) FROM edges"), 19);
    assert_eq!(number("SELECT count(*) FROM communication"), 19, "each knows its two ends");
    database.store(&Batch::default(), &counters).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(number("SELECT value FROM counters WHERE name = 'facts-pruned'"), 75);
    assert_eq!(number("SELECT value FROM counters WHERE name = 'edges-pruned'"), 21);
}

#[test]
fn announcements_do_not_drive_out_what_others_have_done() {
    let folder = folder();
    let retention = Retention { bytes: 256 * PAGE_BYTES, ..Retention::default() };
    let (mut database, _) = open(folder.path(), retention);
    let (batch, counters) = batch(&[flow(1, 5_000), flow(2, 3_600_000 * 5)]);
    database.store(&batch, &counters).unwrap_or_else(|e| panic!("{e}"));
    // Five times what the file has room for.
    for nth in 0..200 {
        let announced = names(1, nth * 100..nth * 100 + 100);
        database.store(&announced, &counters).unwrap_or_else(|e| panic!("batch {nth}: {e}"));
    }
    let number = |query: &str| number(folder.path(), query);
    assert_eq!(number("SELECT count(*) FROM edges"), 2);
    let kept = number("SELECT count(*) FROM names");
    let pruned = number("SELECT value FROM counters WHERE name = 'facts-pruned'");
    assert_eq!(kept + pruned, 200 * 100, "nothing is forgotten uncounted");
}

#[test]
fn open_flows_are_found_again() {
    let folder = folder();
    let (mut database, _) = open(folder.path(), Retention::default());
    let Message::Flow(mut record) = flow(1, 5_000) else { panic!("a flow") };
    record.event = Event::Continues;
    let (batch, counters) = batch(&[Message::Flow(record)]);
    database.store(&batch, &counters).unwrap_or_else(|e| panic!("{e}"));
    let open = database.open_flows().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(open.len(), 1);
    assert!(open.values().all(|counted| counted.client_packets == 5));
    let over = batch.flows.keys().map(|key| (key.clone(), None)).collect();
    let batch = Batch { flows: over, ..Batch::default() };
    database.store(&batch, &counters).unwrap_or_else(|e| panic!("{e}"));
    assert!(database.open_flows().unwrap_or_else(|e| panic!("{e}")).is_empty());
}

#[test]
fn open_flows_are_bounded_and_the_silent_ones_go_first() {
    let folder = folder();
    let retention = Retention { facts: 20, ..Retention::default() };
    let (mut database, _) = open(folder.path(), retention);
    let open_flow = |client: u8| {
        let Message::Flow(mut record) = flow(client, 100_000 + i64::from(client)) else {
            panic!("a flow")
        };
        record.event = Event::Continues;
        Message::Flow(record)
    };
    let (batch, counters) = batch(&(0..40).map(open_flow).collect::<Vec<_>>());
    database.store(&batch, &counters).unwrap_or_else(|e| panic!("{e}"));
    database.prune(200_000).unwrap_or_else(|e| panic!("{e}"));
    let number = |query: &str| number(folder.path(), query);
    assert_eq!(number("SELECT count(*) FROM open_flows"), 20);
    let all: Vec<i64> = batch.flows.values().flatten().map(|counted| counted.last_ms).collect();
    let latest = all.iter().max().copied().unwrap_or(0);
    assert_eq!(number("SELECT min(last_ms) FROM open_flows"), latest - 19, "the youngest stay");
}
