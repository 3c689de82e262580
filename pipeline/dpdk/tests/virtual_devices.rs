//! Ports that need neither privileges nor interfaces: DPDK's virtual devices over ordinary memory.
//! DPDK starts once for all tests of this process.
#![allow(clippy::unwrap_used, reason = "a test whose stage cannot be set fails")]

use std::path::PathBuf;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use bulkhead_dpdk::{
    Backend, Device, DeviceConfig, DpdkPort, Eal, EalConfig, ErrorKind, HugePages, LinkState,
    Mempool, MempoolConfig, register_worker,
};
use bulkhead_pipeline::port::{Burst, Frame, MAX_BURST, Port};

#[test]
fn frames_come_round_a_ring_unchanged_and_in_order() {
    let (mut device, mut port) = start("net_ring0");
    assert_eq!(device.backend(), &Backend::Driver("net_ring".to_owned()));
    assert_eq!(device.link().unwrap(), LinkState::Up);
    assert!(device.take_queue(0).is_none() && device.take_queue(1).is_none());
    assert_eq!((port.name(), port.max_frame_len()), ("net_ring0", 1_522));
    for length in [60, 1_514, 1_522] {
        let mut sent: Burst<_> = (0..MAX_BURST).map(|at| made(&mut port, length, at)).collect();
        let expected: Vec<_> = sent.iter().map(|frame| frame.bytes().to_vec()).collect();
        port.transmit(&mut sent);
        assert!(sent.is_empty());
        let mut got = Burst::new();
        port.receive(&mut got);
        assert_eq!(got.iter().map(|frame| frame.bytes().to_vec()).collect::<Vec<_>>(), expected);
        port.release(&mut got);
        assert!(got.is_empty());
    }
}

#[test]
fn what_a_full_ring_does_not_take_stays_in_order() {
    let (_device, mut port) = start("net_ring1");
    let mut seen = 0;
    let mut burst: Burst<_> = Burst::new();
    // The ring holds 1,023.
    while burst.is_empty() {
        burst.extend((0..50).map(|at| made(&mut port, 100, seen + at)));
        let before = burst.len();
        port.transmit(&mut burst);
        seen += before - burst.len();
        assert!(seen < 5_000, "the ring never fills");
    }
    let first = usize::from(u16::from_be_bytes([burst[0].bytes()[12], burst[0].bytes()[13]]));
    assert_eq!(first, seen, "the front went, the rest stayed");
    let mut got = Burst::new();
    port.receive(&mut got);
    let kept = burst.len();
    // A burst that holds frames receives behind them, up to its room.
    port.receive(&mut burst);
    assert_eq!(burst.len(), MAX_BURST);
    assert_eq!(
        usize::from(u16::from_be_bytes([burst[kept].bytes()[12], burst[kept].bytes()[13]])),
        64
    );
}

#[test]
fn nothing_passes_before_the_start() {
    let mut device = open("net_ring2").unwrap();
    let mut port = device.take_queue(0).unwrap();
    let mut burst = Burst::new();
    burst.push(made(&mut port, 60, 0));
    port.transmit(&mut burst);
    assert_eq!(burst.len(), 1);
    port.receive(&mut Burst::new());
    device.start().unwrap();
    port.transmit(&mut burst);
    assert!(burst.is_empty());
}

#[test]
fn captures_are_read_and_written_and_frames_over_a_buffer_are_counted() {
    let folder = Folder::new("pcap");
    let (from, to) = (folder.0.join("in.pcap"), folder.0.join("out.pcap"));
    let frames = [vec![1_u8; 60], vec![2; 5_000], vec![3; 1_514]];
    std::fs::write(&from, pcap(&frames)).unwrap();
    let name = format!("net_pcap0,rx_pcap={},tx_pcap={}", from.display(), to.display());
    let (device, mut port) = start(&name);
    let mut burst = Burst::new();
    port.receive(&mut burst);
    let got: Vec<_> = burst.iter().map(|frame| frame.bytes().to_vec()).collect();
    assert_eq!(got, [frames[0].clone(), frames[2].clone()]);
    assert_eq!((port.take_discarded(), port.take_discarded()), ((1, 5_000), (0, 0)));
    port.transmit(&mut burst);
    drop((port, device));
    // The driver writes microseconds of its own: compare the frames only.
    let written = std::fs::read(&to).unwrap();
    assert_eq!(&written[24 + 16..24 + 16 + 60], frames[0]);
    assert_eq!(&written[24 + 16 + 60 + 16..], frames[2]);
}

#[test]
fn jumbo_frames_come_round_in_one_piece() {
    let (eal, _) = environment();
    let config = MempoolConfig { buffers: 1_024, max_frame_len: 9_022 };
    let pool = Mempool::new(eal, config).unwrap();
    let config = DeviceConfig { mtu: Some(9_000), ..DeviceConfig::new("net_ring8") };
    let mut device = Device::open(eal, &pool, &config).unwrap();
    let mut port = device.take_queue(0).unwrap();
    device.start().unwrap();
    assert_eq!((device.mtu(), port.max_frame_len()), (9_000, 9_022));
    let mut burst = Burst::new();
    burst.push(made(&mut port, 9_022, 1));
    let sent = burst[0].bytes().to_vec();
    port.transmit(&mut burst);
    port.receive(&mut burst);
    assert_eq!(burst[0].bytes(), sent);
    assert_eq!(port.take_discarded(), (0, 0));
    let longer = MempoolConfig { buffers: 1_024, max_frame_len: 9_023 };
    assert_eq!(Mempool::new(eal, longer).unwrap_err().kind(), ErrorKind::Config);
}

#[test]
fn frames_cross_shared_memory() {
    let folder = Folder::new("memif");
    let socket = folder.0.join("memif.sock");
    let name = |at: u32, role: &str| {
        format!("net_memif{at},role={role},id=0,socket-abstract=no,socket={}", socket.display())
    };
    let (server, mut here) = start(&name(0, "server"));
    let (client, mut there) = start(&name(1, "client"));
    assert_eq!(server.backend(), &Backend::Driver("net_memif".to_owned()));
    let give_up = Instant::now() + Duration::from_secs(10);
    while [&server, &client].map(|device| device.link().unwrap()) != [LinkState::Up; 2] {
        assert!(Instant::now() < give_up, "the two never connect");
        thread::sleep(Duration::from_millis(10));
    }
    let mut burst = Burst::new();
    burst.push(made(&mut here, 700, 3));
    let sent = burst[0].bytes().to_vec();
    // The receiver gives the sender its buffers, so both must poll.
    let mut got = Burst::new();
    while got.is_empty() {
        assert!(Instant::now() < give_up, "nothing arrives");
        here.transmit(&mut burst);
        there.receive(&mut got);
    }
    assert_eq!(got[0].bytes(), sent);
}

#[test]
fn a_name_serves_one_port_at_a_time() {
    let first = open("net_null0").unwrap();
    let error = open("net_null0").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    drop(first);
    open("net_null0").unwrap();
}

#[test]
fn a_device_says_what_it_cannot_do() {
    for (name, mtu, queues, kind) in [
        ("net_unheard0", None, 1, ErrorKind::NotFound),
        ("net_ring7", None, 200, ErrorKind::Queues),
        ("net_null7", Some(9_000), 1, ErrorKind::Config),
    ] {
        let config = DeviceConfig { mtu, queues, ..DeviceConfig::new(name) };
        let (eal, pool) = environment();
        let error = Device::open(eal, pool, &config).unwrap_err();
        assert_eq!((error.kind(), error.port()), (kind, Some(name)), "{error}");
        assert!(!error.remedy().is_empty(), "{error}");
    }
}

#[test]
fn several_queues_without_a_hash_are_said_to_have_none() {
    let (eal, pool) = environment();
    for name in ["net_null5", "net_ring5"] {
        let config = DeviceConfig { queues: 2, ..DeviceConfig::new(name) };
        let mut device = Device::open(eal, pool, &config).unwrap();
        assert_eq!(device.hash_table_len(), None, "{name}");
        assert!(device.take_queue(0).is_some() && device.take_queue(1).is_some());
        assert!(device.take_queue(2).is_none());
    }
}

#[test]
fn counters_start_at_zero_and_statistics_have_names() {
    let (device, mut port) = start("net_null1,size=200");
    assert_eq!(device.counters().unwrap(), Default::default());
    let mut burst = Burst::new();
    port.receive(&mut burst);
    assert_eq!((burst.len(), burst[0].bytes().len()), (MAX_BURST, 200));
    let statistics = device.xstats().unwrap();
    let good = statistics.iter().find(|(name, _)| name == "rx_good_packets").unwrap();
    assert_eq!(good.1, 64);
}

#[test]
fn a_second_start_of_the_environment_is_refused() {
    environment();
    let config = EalConfig { huge_pages: HugePages::Never, memory_bytes: 0, pci: false };
    assert_eq!(Eal::init(&config).unwrap_err().kind(), ErrorKind::InUse);
}

#[test]
fn threads_keep_their_processors_and_register_and_leave() {
    let allowed = || {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        status.lines().find(|line| line.starts_with("Cpus_allowed:")).unwrap().to_owned()
    };
    let before = thread::spawn(allowed).join().unwrap();
    let (eal, pool) = environment();
    assert_eq!(thread::spawn(allowed).join().unwrap(), before);
    // More one after the other than DPDK knows at a time: each leaves its place.
    for _ in 0..300 {
        thread::spawn(move || {
            let worker = register_worker(eal).unwrap();
            drop(pool.allocate(64).unwrap());
            drop(worker);
        })
        .join()
        .unwrap();
    }
}

/// As workers hand frames to each other: received by one, sent or given back by the other, more of
/// them than the pool has buffers.
#[test]
fn a_frame_may_be_sent_and_given_back_by_another_worker() {
    const BURSTS: usize = 2_000;
    let (eal, pool) = environment();
    let config = DeviceConfig { queues: 2, ..DeviceConfig::new("net_null9,size=64") };
    let mut device = Device::open(eal, pool, &config).unwrap();
    let [mut near, mut far] = [0, 1].map(|queue| device.take_queue(queue).unwrap());
    device.start().unwrap();
    let (sender, receiver) = std::sync::mpsc::sync_channel::<Burst<_>>(4);
    thread::scope(|scope| {
        scope.spawn(move || {
            let _worker = register_worker(eal).unwrap();
            for nth in 0..BURSTS {
                let mut burst = Burst::new();
                near.receive(&mut burst);
                assert_eq!(burst.len(), MAX_BURST, "buffers come back");
                burst.iter_mut().for_each(|frame| frame.bytes_mut()[0] = nth as u8);
                sender.send(burst).unwrap();
            }
        });
        scope.spawn(move || {
            let _worker = register_worker(eal).unwrap();
            for (nth, mut burst) in receiver.into_iter().enumerate() {
                assert!(burst.iter().all(|frame| frame.bytes()[0] == nth as u8));
                match nth % 3 {
                    0 => far.transmit(&mut burst),
                    1 => far.release(&mut burst),
                    _ => burst.clear(),
                }
                assert!(burst.is_empty());
            }
        });
    });
    const { assert!(BURSTS * MAX_BURST > 4 * 16_384, "more than the pool has buffers") };
}

/// DPDK and a pool, the same for every test of this process.
fn environment() -> (&'static Eal, &'static Mempool) {
    static ENVIRONMENT: OnceLock<(Eal, Mempool)> = OnceLock::new();
    let (eal, pool) = ENVIRONMENT.get_or_init(|| {
        let config = MempoolConfig { buffers: 16_384, max_frame_len: 1_522 };
        let eal = EalConfig {
            huge_pages: HugePages::Never,
            // And a pool for jumbo frames.
            memory_bytes: config.memory_bytes() + (16 << 20),
            pci: false,
        };
        let eal = Eal::init(&eal).unwrap();
        (eal, Mempool::new(&eal, config).unwrap())
    });
    (eal, pool)
}

fn open(name: &str) -> bulkhead_dpdk::Result<Device> {
    let (eal, pool) = environment();
    Device::open(eal, pool, &DeviceConfig::new(name))
}

fn start(name: &str) -> (Device, DpdkPort) {
    let mut device = open(name).unwrap();
    let port = device.take_queue(0).unwrap();
    device.start().unwrap();
    (device, port)
}

/// A frame that carries its number after the addresses.
fn made(port: &mut DpdkPort, length: usize, number: usize) -> <DpdkPort as Port>::Frame {
    let mut frame = port.originate(length).unwrap();
    frame.bytes_mut().fill(0xa5);
    frame.bytes_mut()[12..14].copy_from_slice(&(number as u16).to_be_bytes());
    frame
}

/// A capture file of microseconds, little-endian, Ethernet.
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(word.to_le_bytes());
    }
    for frame in frames {
        for word in [0, 0, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    file
}

/// A folder of this test's own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bulkhead-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
