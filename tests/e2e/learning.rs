//! The learning process dies, its disk fills, its store is damaged, while packets flow: they do not
//! notice, and every flow record is stored, or known to be lost.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bulkhead_tests::flows::Echo;
use bulkhead_tests::frames::{ethernet, udp4};
use bulkhead_tests::gateway::binary;
use bulkhead_tests::load::{Kind, Load};
use bulkhead_tests::raw::RawPort;
use bulkhead_tests::{Driver, Gateway, Rig, Settings, skip};

use crate::over_af_xdp;

over_af_xdp!(packets_do_not_notice_what_becomes_of_the_learner);

const NOTHING: &str = "version: 1\ndefault: deny\n";

/// New flows a second, each of which is recorded.
const FLOWS_PER_S: u32 = 1_500;

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// The byte of a store's shared memory that SQLite locks while a transaction is being written.
const WRITE_LOCK: &str = "120 120";

/// A learning process, killed with the test.
struct Learner<'a> {
    child: Child,
    gateway: &'a Gateway<'a>,
    folder: &'a Path,
}

impl<'a> Learner<'a> {
    fn start(gateway: &'a Gateway<'a>, folder: &'a Path) -> Self {
        let log =
            File::options().append(true).create(true).open(gateway.folder().join("learn.log"));
        let child = Command::new(binary())
            .args(["learn", "--config", "gateway.toml", "--dir"])
            .arg(folder)
            .current_dir(gateway.folder())
            .stdin(Stdio::null())
            .stderr(log.expect("a log"))
            .spawn()
            .expect("the learner starts");
        Self { child, gateway, folder }
    }

    fn status(&self) -> String {
        let folder = self.folder.to_string_lossy();
        let args = ["learn", "--config", "gateway.toml", "--dir", &folder, "--status", "--json"];
        self.gateway.bulkhead(&args).1
    }

    fn wait_for(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if is_so(&status) {
                return status;
            }
            let log = || fs::read_to_string(self.gateway.folder().join("learn.log"));
            assert!(Instant::now() < deadline, "not {what}: {status}\n{:?}", log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills it while it writes a batch: it holds the lock under which a transaction is written.
    fn kill_in_a_batch(mut self) {
        let holder = format!(" {} ", self.child.id());
        let deadline = Instant::now() + PATIENCE;
        loop {
            let locks = fs::read_to_string("/proc/locks").expect("the kernel tells of locks");
            let writes = |line: &&str| {
                line.contains(&holder) && line.contains("WRITE") && line.ends_with(WRITE_LOCK)
            };
            if locks.lines().find(writes).is_some() {
                break;
            }
            assert!(Instant::now() < deadline, "never in a batch:\n{locks}");
        }
        self.child.kill().expect("it dies");
        self.child.wait().expect("it is dead");
    }
}

impl Drop for Learner<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A small file system in memory.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: PathBuf) -> Option<Self> {
        fs::create_dir(&path).ok()?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=48m", "bulkhead-test"])
            .arg(&path)
            .stderr(Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(path))
    }

    fn fill(&self) -> PathBuf {
        let filler = self.0.join("filler");
        let mut file = File::create(&filler).expect("room for a name");
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        filler
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Tells a thread to stop, even where the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A number of a status, by its key.
fn number(status: &str, key: &str) -> u64 {
    let after = status.split(&format!("\"{key}\": ")).nth(1).unwrap_or_default();
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

fn in_trouble(status: &str) -> bool {
    status.contains("make room on its disk")
}

/// Opens new flows until it is told to stop; returns how many.
fn open_flows(rig: &Rig, stop: &AtomicBool) -> u32 {
    let (inside, outside) = (rig.inside(0), rig.outside(0));
    let port = RawPort::open(outside);
    let begun = Instant::now();
    let mut opened = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = (begun.elapsed().as_secs_f64() * f64::from(FLOWS_PER_S)) as u32;
        while opened < due {
            // Each of another client: another edge, so that batches are large.
            let [_, high, middle, low] = opened.to_be_bytes();
            let client = Ipv4Addr::new(10, 100 + high, middle, low);
            let packet = udp4((client, 40_000), (inside.v4, 161), b"who are you?");
            port.send(&ethernet(inside.mac, outside.mac, &[], 0x0800, &packet));
            opened += 1;
        }
        thread::sleep(Duration::from_millis(2));
    }
    opened
}

fn packets_do_not_notice_what_becomes_of_the_learner(rig: &Rig) {
    let name = "learning::packets_do_not_notice_what_becomes_of_the_learner";
    let mut settings = Settings::new(Driver::AfXdp, NOTHING).observing();
    settings.extra = "[records]\nbacklog-mib = 64\ncopies = false\n".to_owned();
    let gateway = Gateway::start(rig, settings);
    let Some(disk) = Disk::mount(gateway.folder().join("disk")) else {
        return skip(name, "no file system can be mounted here");
    };
    let store = disk.0.join("learn");
    let inside = rig.inside(0);
    let _server = Echo::udp(inside, 5000);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        let flows = scope.spawn(|| open_flows(rig, &stop));
        let to = SocketAddr::new(inside.v4.into(), 5000);
        let load = Load::start(rig.outside(0), Kind::Udp(to), 1_000, 200).expect("a load");

        // Killed in the middle of a batch: the next one goes on with a sound store.
        let learner = Learner::start(&gateway, &store);
        learner.wait_for("storing", |status| number(status, "batches") >= 2);
        let stored_before = number(&learner.status(), "flows-in-store");
        learner.kill_in_a_batch();
        let learner = Learner::start(&gateway, &store);
        let status = learner.wait_for("storing", |status| number(status, "batches") >= 1);
        assert!(number(&status, "flows-in-store") > stored_before, "{status}");
        assert!(status.contains("\"set-aside\": []"), "a kill damages nothing: {status}");

        // The disk is full: what is read waits in memory, and nothing of it is dropped.
        let filler = disk.fill();
        learner.wait_for("in trouble", in_trouble);
        thread::sleep(Duration::from_secs(1));
        let full = learner.status();
        assert!(in_trouble(&full) && number(&full, "edges-waiting") > 0, "{full}");
        fs::remove_file(filler).expect("the filler goes");
        let freed = learner.wait_for("writing again", |status| {
            status.contains("\"trouble\": null") && number(status, "edges-waiting") < 3_000
        });
        assert_eq!(number(&freed, "flows-dropped"), 0, "{freed}");
        // What has been read but not stored dies with it.
        let status = learner.status();
        let (first_store, with_first) =
            (number(&status, "flows-in-store"), number(&status, "flows-unstored"));
        assert!(with_first > 0, "a batch was being written: {status}");
        drop(learner);

        // The store is damaged: it is set aside, and a new one begun.
        // Its log too: from that alone it would be made whole again.
        for file in ["communication.db", "communication.db-wal"] {
            let length = fs::metadata(store.join(file)).map_or(0, |metadata| metadata.len());
            fs::write(store.join(file), vec![0x5a; length as usize]).expect("it is damaged");
        }
        let learner = Learner::start(&gateway, &store);
        let status = learner.wait_for("storing", |status| number(status, "batches") >= 1);
        assert!(status.contains("communication.db.corrupt-"), "{status}");

        stop.store(true, Ordering::Relaxed);
        let opened = flows.join().expect("flows were opened");
        let tally = load.stop().expect("the load ran");
        assert_eq!(tally.lost(), 0, "no packet notices: {tally:?}");
        // Once all is told and read: what is neither stored nor counted died with the second kill, of which
        // the damaged store alone could have told.
        let told = |gateway: &Gateway<'_>| {
            let metrics = gateway.metrics();
            metrics.count("bulkhead_flow_records_total", &[])
        };
        let last = learner.wait_for("all read", |status| {
            number(status, "edges-waiting") == 0 && {
                let before = told(&gateway);
                thread::sleep(Duration::from_millis(1_500));
                before == told(&gateway) && number(&learner.status(), "edges-waiting") == 0
            }
        });
        let second_store = number(&last, "flows-in-store");
        let metrics = gateway.metrics();
        let lost = metrics.count("bulkhead_flow_records_lost_total", &[])
            + number(&last, "flows-lost")
            + number(&last, "flows-dropped");
        let told = told(&gateway);
        let with_second = told.saturating_sub(first_store + second_store + lost + with_first);
        println!(
            "packets: {} sent, {} answered, {} lost; {opened} flows opened; records: {told} told, \
             {first_store} in the first store, {second_store} in the second, {lost} counted as lost, \
             {with_first} counted as gone with the first kill, {with_second} gone with the second",
            tally.sent,
            tally.answered,
            tally.lost()
        );
        assert_eq!(lost, 0, "nothing is lost but with the kills");
        assert!(told >= u64::from(opened), "every flow has a record");
        // A batch a second, and what is on its way: by far not what a full disk held back.
        let most = 3 * u64::from(FLOWS_PER_S);
        assert!(with_first <= most, "{with_first} records died with the first kill");
        assert!(with_second <= 2 * most, "{with_second} records died with the second kill");
    });
    let log = fs::read_to_string(gateway.folder().join("learn.log")).expect("a log");
    assert!(log.contains("set aside") && log.contains("can be written again"), "{log}");
    gateway.stop();
}
