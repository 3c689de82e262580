//! Tests of the capture formats, good and hostile, and of the wire that runs from one.

use std::io::{Cursor, Write};
use std::sync::{Arc, Mutex};

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;
use crate::port::{Burst, Frame, Port};

/// What a test wants to know of a record.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Seen {
    timestamp_ns: u64,
    link_type: u16,
    interface: u32,
    original_len: u32,
    bytes: Vec<u8>,
}

fn open(file: &[u8]) -> Result<CaptureReader, CaptureError> {
    CaptureReader::new(Path::new("test.pcap"), Box::new(Cursor::new(file.to_vec())))
}

/// Every frame up to the end or the error.
fn read(file: &[u8]) -> (Vec<Seen>, Option<CaptureError>) {
    let mut seen = Vec::new();
    let mut reader = match open(file) {
        Ok(reader) => reader,
        Err(error) => return (seen, Some(error)),
    };
    loop {
        match reader.next_record() {
            Ok(Some(record)) => seen.push(Seen {
                timestamp_ns: record.timestamp_ns,
                link_type: record.link_type.0,
                interface: record.interface,
                original_len: record.original_len,
                bytes: record.bytes.to_vec(),
            }),
            Ok(None) => return (seen, None),
            Err(error) => {
                assert!(reader.next_record().unwrap().is_none(), "the file has ended");
                return (seen, Some(error));
            }
        }
    }
}

fn read_whole(file: &[u8]) -> Vec<Seen> {
    let (seen, error) = read(file);
    assert!(error.is_none(), "{}", error.unwrap());
    seen
}

fn error_text(file: &[u8]) -> String {
    read(file).1.expect("an error").to_string()
}

/// Builds capture files field by field, in either byte order.
#[derive(Default)]
struct Builder {
    big_endian: bool,
    bytes: Vec<u8>,
}

impl Builder {
    fn new(big_endian: bool) -> Self {
        Self { big_endian, bytes: Vec::new() }
    }

    fn u16(mut self, value: u16) -> Self {
        let field = if self.big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        self.bytes.extend(field);
        self
    }

    fn u32(mut self, value: u32) -> Self {
        let field = if self.big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        self.bytes.extend(field);
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    fn pcap_header(self, magic: u32, link_type: u32) -> Self {
        self.u32(magic).u16(2).u16(4).u32(0).u32(0).u32(65535).u32(link_type)
    }

    fn pcap_record(self, seconds: u32, fraction: u32, original_len: u32, bytes: &[u8]) -> Self {
        self.u32(seconds).u32(fraction).u32(bytes.len() as u32).u32(original_len).raw(bytes)
    }

    /// A pcapng block around what `content` appends.
    fn block(self, block_type: u32, content: impl FnOnce(Self) -> Self) -> Self {
        let content = content(Self::new(self.big_endian)).bytes;
        let padded = content.len().next_multiple_of(4);
        let padding = [0; 3];
        let len = padded as u32 + 12;
        self.u32(block_type).u32(len).raw(&content).raw(&padding[..padded - content.len()]).u32(len)
    }

    fn section(mut self, big_endian: bool) -> Self {
        self.big_endian = big_endian;
        self.block(0x0a0d_0d0a, |b| b.u32(0x1a2b_3c4d).u16(1).u16(0).raw(&[0xff; 8]))
    }

    /// An interface with options as (code, value).
    fn interface(self, link_type: u16, snap_len: u32, options: &[(u16, &[u8])]) -> Self {
        self.block(1, |b| {
            options.iter().fold(b.u16(link_type).u16(0).u32(snap_len), |b, (code, value)| {
                let padding = value.len().next_multiple_of(4) - value.len();
                b.u16(*code).u16(value.len() as u16).raw(value).raw(&[0; 3][..padding])
            })
        })
    }

    fn packet(self, interface: u32, ticks: u64, original_len: u32, bytes: &[u8]) -> Self {
        self.block(6, |b| {
            b.u32(interface)
                .u32((ticks >> 32) as u32)
                .u32(ticks as u32)
                .u32(bytes.len() as u32)
                .u32(original_len)
                .raw(bytes)
        })
    }
}

fn gzip(file: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(file).unwrap();
    encoder.finish().unwrap()
}

const S: u64 = 1_000_000_000;

#[test]
fn pcap_reads_in_both_orders_and_resolutions() {
    for big_endian in [false, true] {
        for (magic, tick_ns) in [(0xa1b2_c3d4, 1000), (0xa1b2_3c4d, 1)] {
            let file = Builder::new(big_endian)
                .pcap_header(magic, 0xf400_0001)
                .pcap_record(7, 999_999, 3, &[1, 2, 3])
                .pcap_record(u32::MAX, 0, 1500, &[])
                .bytes;
            for file in [file.clone(), gzip(&file)] {
                let seen = read_whole(&file);
                assert_eq!(seen.len(), 2);
                assert_eq!(seen[0].timestamp_ns, 7 * S + 999_999 * tick_ns);
                assert_eq!(seen[0].bytes, [1, 2, 3]);
                assert_eq!((seen[0].link_type, seen[0].interface), (1, 0));
                assert_eq!(seen[1].timestamp_ns, u64::from(u32::MAX) * S);
                assert_eq!((seen[1].original_len, seen[1].bytes.len()), (1500, 0));
            }
        }
    }
}

#[test]
fn the_modified_pcap_format_has_longer_record_headers() {
    let file = Builder::new(false)
        .pcap_header(0xa1b2_cd34, 1)
        .u32(1)
        .u32(2)
        .u32(4)
        .u32(4)
        .raw(&[0xee; 8])
        .raw(&[1, 2, 3, 4])
        .bytes;
    let seen = read_whole(&file);
    assert_eq!((seen[0].timestamp_ns, &seen[0].bytes[..]), (S + 2000, &[1, 2, 3, 4][..]));
}

#[test]
fn pcapng_has_sections_interfaces_and_clocks_of_their_own() {
    for big_endian in [false, true] {
        let offset = if big_endian { 100_i64.to_be_bytes() } else { 100_i64.to_le_bytes() };
        let file = Builder::default()
            .section(big_endian)
            .interface(1, 0, &[(2, b"eth0")])
            .interface(113, 0, &[(9, &[9])])
            .interface(1, 0, &[(9, &[0x8a])]) // 2^-10 s
            .interface(1, 0, &[(9, &[3]), (14, &offset)])
            .packet(0, 5_000_001, 3, &[1, 2, 3])
            .packet(1, 5_000_001, 4, &[1, 2, 3, 4])
            .packet(2, 1024 + 512, 0, &[])
            .packet(3, 5_500, 60, &[1])
            .section(!big_endian)
            .interface(147, 0, &[])
            .packet(0, 1, 1, &[9])
            .bytes;
        for file in [file.clone(), gzip(&file)] {
            let seen = read_whole(&file);
            let brief: Vec<_> =
                seen.iter().map(|s| (s.timestamp_ns, s.link_type, s.interface)).collect();
            let expected = [
                (5 * S + 1000, 1, 0),
                (5_000_001, 113, 1),
                (S + S / 2, 1, 2),
                (105 * S + S / 2, 1, 3),
                (1000, 147, 0),
            ];
            assert_eq!(brief, expected);
            assert_eq!((seen[3].original_len, &seen[3].bytes[..]), (60, &[1][..]));
        }
    }
}

#[test]
fn pcapng_blocks_of_other_kinds_are_passed_over() {
    for big_endian in [false, true] {
        let file = Builder::default()
            .section(big_endian)
            .block(0x0bad, |b| b.raw(&[7; 40]))
            .interface(1, 0, &[])
            .block(5, |b| b.raw(&[7; 3]))
            .packet(0, 1, 2, &[1, 2])
            .block(0x8000_0777, |b| b.raw(&vec![7; 3 << 20]))
            .packet(0, 2, 2, &[3, 4])
            .bytes;
        assert_eq!(read_whole(&file).len(), 2);
    }
}

#[test]
fn pcapng_simple_and_obsolete_packets_are_read() {
    for big_endian in [false, true] {
        let file = Builder::default()
            .section(big_endian)
            .interface(1, 5, &[])
            .block(2, |b| b.u16(0).u16(9).u32(0).u32(44).u32(3).u32(70).raw(&[1, 2, 3]))
            .block(3, |b| b.u32(3).raw(&[4, 5, 6]))
            .block(3, |b| b.u32(90).raw(&[1, 2, 3, 4, 5]))
            .bytes;
        let seen = read_whole(&file);
        assert_eq!((seen[0].timestamp_ns, seen[0].original_len), (44_000, 70));
        assert_eq!(seen[0].bytes, [1, 2, 3]);
        // A simple packet has no time of its own, and its interface's limit for its length.
        assert_eq!((seen[1].timestamp_ns, seen[1].original_len), (44_000, 3));
        assert_eq!(seen[1].bytes, [4, 5, 6]);
        assert_eq!((seen[2].original_len, &seen[2].bytes[..]), (90, &[1, 2, 3, 4, 5][..]));
    }
}

#[test]
fn impossible_clocks_give_times_and_no_panic() {
    let past = i64::MIN.to_le_bytes();
    let future = i64::MAX.to_le_bytes();
    let file = Builder::default()
        .section(false)
        .interface(1, 0, &[(9, &[127])])
        .interface(1, 0, &[(9, &[0xff])])
        .interface(1, 0, &[(9, &[0]), (14, &past)])
        .interface(1, 0, &[(9, &[0]), (14, &future)])
        .interface(1, 0, &[(9, &[]), (14, &[1])])
        .packet(0, u64::MAX, 0, &[])
        .packet(1, u64::MAX, 0, &[])
        .packet(2, u64::MAX, 0, &[])
        .packet(3, u64::MAX, 0, &[])
        .packet(4, 6, 0, &[])
        .bytes;
    let times: Vec<_> = read_whole(&file).iter().map(|s| s.timestamp_ns).collect();
    assert_eq!(times, [0, 0, u64::MAX, u64::MAX, 6000]);
}

#[test]
fn errors_name_the_place_after_the_frames_before_it() {
    let good = Builder::new(false).pcap_header(0xa1b2_c3d4, 1).pcap_record(1, 0, 4, &[1, 2, 3, 4]);
    let cut = good.raw(&[0; 8]).raw(&[100, 0, 0, 0, 100, 0, 0, 0, 7, 7]).bytes;
    let (seen, error) = read(&cut);
    let error = error.unwrap();
    assert_eq!((seen.len(), error.offset()), (1, 44));
    assert_eq!(
        error.to_string(),
        "test.pcap: at byte 44: the file ends within a pcap record: \
         it needs 116 bytes from here, 18 are left"
    );
    assert!(error_text(&gzip(&cut)).contains("at byte 44 of the decompressed file: "));
}

#[test]
fn what_is_no_capture_is_named_so() {
    for file in [&b""[..], b"\n", b"version: 1\ndefault: deny\nrules: []\n", &[0; 64]] {
        let (seen, error) = read(file);
        assert!(seen.is_empty() && error.unwrap().is_not_a_capture());
    }
    assert!(error_text(&gzip(b"hello")).contains("neither a pcap nor a pcapng file"));
    let missing = CaptureReader::open(Path::new("no/such/file.pcap")).unwrap_err();
    assert!(missing.to_string().starts_with("no/such/file.pcap: No such file"), "{missing}");
    let version = Builder::new(false).u32(0xa1b2_c3d4).u16(9).u16(4).raw(&[0; 16]).bytes;
    assert!(error_text(&version).contains("version 9.4"));
}

#[test]
fn claims_beyond_the_limits_are_refused_without_memory_for_them() {
    let pcap = Builder::new(true)
        .pcap_header(0xa1b2_c3d4, 1)
        .raw(&[0; 8])
        .u32(u32::MAX)
        .u32(u32::MAX)
        .raw(&[0; 100]);
    let text = error_text(&pcap.bytes);
    assert!(text.contains("claims 4294967295 bytes, over the limit of 262144"), "{text}");

    let section = || Builder::default().section(false).interface(1, 0, &[]);
    let cases = [
        (section().u32(6).u32(0xffff_fff0).raw(&[0; 64]), "over the limit of 1048576"),
        (section().u32(1).u32(0x7fff_fff0).raw(&[0; 64]), "over the limit of 1048576"),
        (section().u32(6).u32(8).raw(&[0; 64]), "below 12 or no multiple of 4"),
        (section().u32(6).u32(34).raw(&[0; 64]), "below 12 or no multiple of 4"),
        (section().u32(6).u32(16).raw(&[0; 64]), "does not fit into its block"),
        (section().u32(0x77).u32(0xffff_fff0).raw(&[0; 64]), "would be skipped"),
        (section().packet(1, 0, 0, &[]), "names interface 1"),
        (Builder::default().section(false).block(3, |b| b.u32(0)), "names interface 0"),
        (
            section().block(6, |b| b.raw(&[0; 12]).u32(5000).u32(5000).raw(&[0; 64])),
            "does not fit into its block",
        ),
        (
            section().block(2, |b| b.raw(&[0; 12]).u32(90).u32(90).raw(&[0; 64])),
            "does not fit into its block",
        ),
        (
            (0..=MAX_INTERFACES)
                .fold(Builder::default().section(false), |b, _| b.interface(1, 0, &[])),
            "more than 65536 interfaces",
        ),
        (Builder::default().raw(&[0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0]), "ends within"),
        (Builder::default().raw(&[0x0a, 0x0d, 0x0d, 0x0a]).raw(&[0; 24]), "does not parse"),
    ];
    for (file, expected) in cases {
        let text = error_text(&file.bytes);
        assert!(text.contains(expected), "{text:?} should contain {expected:?}");
    }
}

#[test]
fn a_damaged_gzip_stream_ends_the_file_after_its_frames() {
    let frames = (0..200u32).fold(Builder::new(false).pcap_header(0xa1b2_c3d4, 1), |b, n| {
        let noise: Vec<u8> = (0..800u32).map(|i| (i.wrapping_mul(n) >> 3) as u8).collect();
        b.pcap_record(n, 0, 800, &noise)
    });
    let packed = gzip(&frames.bytes);
    let (seen, error) = read(&packed[..packed.len() / 2]);
    assert!(!seen.is_empty() && seen.len() < 200, "{}", seen.len());
    assert!(error.is_some());
    let whole = read_whole(&frames.bytes);
    assert_eq!(seen, whole[..seen.len()]);
}

#[test]
fn a_file_cut_anywhere_gives_the_frames_before_the_cut() {
    let pcap = Builder::new(true)
        .pcap_header(0xa1b2_3c4d, 1)
        .pcap_record(1, 1, 5, &[1, 2, 3, 4, 5])
        .pcap_record(2, 1, 2, &[6, 7])
        .bytes;
    let pcapng = Builder::default()
        .section(true)
        .interface(1, 0, &[(9, &[9])])
        .packet(0, 5, 5, &[1, 2, 3, 4, 5])
        .block(4, |b| b.raw(&[1; 9]))
        .packet(0, 6, 2, &[6, 7])
        .bytes;
    for file in [pcap, pcapng] {
        let whole = read_whole(&file);
        for cut in 0..file.len() {
            let (seen, _) = read(&file[..cut]);
            assert!(seen.len() < whole.len());
            assert_eq!(seen, whole[..seen.len()]);
        }
    }
}

/// A writer's sink that a test can look into.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn write(format: Format, frames: &[Seen]) -> Vec<u8> {
    let kept = Kept::default();
    let mut writer = CaptureWriter::new(Path::new("out"), format, Box::new(kept.clone())).unwrap();
    for frame in frames {
        writer.write(frame.timestamp_ns, frame.original_len, &frame.bytes).unwrap();
    }
    writer.finish().unwrap();
    std::mem::take(&mut *kept.0.lock().unwrap())
}

#[test]
fn the_writer_tells_what_it_cannot_write() {
    let mut writer =
        CaptureWriter::new(Path::new("out"), Format::PcapNano, Box::<Kept>::default()).unwrap();
    let late = writer.write(u64::MAX, 0, &[]).unwrap_err();
    assert!(late.to_string().contains("does not fit the pcap format"), "{late}");
    let long = writer.write(0, 0, &vec![0; MAX_FRAME_BYTES + 1]).unwrap_err();
    assert!(long.to_string().contains("over the limit"), "{long}");
    assert_eq!(Format::for_path(Path::new("a/b.pcapng")), Format::PcapNg);
    assert_eq!(Format::for_path(Path::new("a/b.pcap")), Format::PcapNano);
}

fn frames() -> impl Strategy<Value = Vec<Seen>> {
    let frame = (0..u64::from(u32::MAX) * S, 0..9u32, prop::collection::vec(any::<u8>(), 0..200))
        .prop_map(|(timestamp_ns, cut, bytes)| Seen {
            timestamp_ns,
            link_type: 1,
            interface: 0,
            original_len: bytes.len() as u32 + cut,
            bytes,
        });
    prop::collection::vec(frame, 0..20)
}

proptest! {
    #[test]
    fn what_is_written_reads_the_same(frames in frames()) {
        for format in [Format::PcapNano, Format::PcapNg] {
            let file = write(format, &frames);
            prop_assert_eq!(&read_whole(&file), &frames);
            prop_assert_eq!(&read_whole(&gzip(&file)), &frames);
        }
        let mut micro = frames;
        for frame in &mut micro {
            frame.timestamp_ns -= frame.timestamp_ns % 1000;
        }
        prop_assert_eq!(&read_whole(&write(Format::PcapMicro, &micro)), &micro);
    }

    #[test]
    fn no_damage_makes_the_reader_panic(
        frames in frames(),
        big_endian: bool,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let mut foreign = Builder::default().section(big_endian).interface(1, 96, &[(9, &[0x8a])]);
        for frame in &frames {
            foreign = foreign.packet(0, frame.timestamp_ns, frame.original_len, &frame.bytes);
        }
        let files =
            [write(Format::PcapNano, &frames), write(Format::PcapNg, &frames), foreign.bytes];
        for mut file in files {
            for (index, value) in &damage {
                let place = index.index(file.len());
                file[place] = *value;
            }
            let bound = file.len();
            let (seen, _) = read(&file);
            let bytes: usize = seen.iter().map(|frame| frame.bytes.len()).sum();
            prop_assert!(bytes <= bound, "frames hold no more bytes than the file");
        }
    }

    #[test]
    fn any_bytes_at_all_end_in_a_value(file in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&file);
        let mut pcapng = Builder::default().section(false).interface(1, 0, &[]).bytes;
        pcapng.extend(&file);
        let _ = read(&pcapng);
    }
}

/// Assigns by the first byte and keeps what it hears.
struct Listener {
    settled: Arc<Mutex<Vec<Entry>>>,
    originated: Arc<Mutex<Vec<Answer>>>,
}

/// A settled frame's number, its bytes, and whether it was sent.
type Entry = (u64, Vec<u8>, bool);

/// Where an originated frame went, and its bytes.
type Answer = (Side, Vec<u8>);

impl CaptureHandler for Listener {
    fn assign(&mut self, record: &Record<'_>) -> Assign {
        match record.bytes.first() {
            Some(b'i') => Assign::ArriveRestored(Side::Inside),
            Some(b'o') => Assign::Arrive(Side::Outside),
            _ => Assign::Skip,
        }
    }

    fn settled(&mut self, frame: &Settled<'_>) -> Result<(), CaptureError> {
        let entry = (frame.number, frame.bytes.to_vec(), frame.transmitted);
        self.settled.lock().unwrap().push(entry);
        Ok(())
    }

    fn originated(&mut self, side: Side, bytes: &[u8]) {
        self.originated.lock().unwrap().push((side, bytes.to_vec()));
    }
}

#[test]
fn a_wire_keeps_the_order_of_the_file() {
    let file = ["i1", "i2", "x", "o3", "o4", "i5", "o6"].iter().zip(0u32..);
    let file = file
        .fold(Builder::new(false).pcap_header(0xa1b2_c3d4, 1), |b, (name, n)| {
            b.pcap_record(n, 0, 5, name.as_bytes())
        })
        .bytes;
    let (settled, originated) = (Arc::default(), Arc::default());
    let listener = Listener { settled: Arc::clone(&settled), originated: Arc::clone(&originated) };
    let (mut inside, mut outside, session) = wire(open(&file).unwrap(), listener);

    let mut burst = Burst::new();
    inside.receive(&mut burst);
    assert_eq!(burst.len(), 1, "only the first frame's time has come");
    assert_eq!(session.next_arrival_ns(), Some(S));
    session.advance(10 * S);
    outside.receive(&mut burst);
    assert_eq!(burst.len(), 1, "it is not the outside's turn");
    inside.receive(&mut burst);
    assert_eq!(
        burst.iter().map(|f| f.bytes()).collect::<Vec<_>>(),
        [
            b"i1\0\0\0", // Restored to the length that it had.
            b"i2\0\0\0",
        ]
    );
    let mut other = Burst::new();
    outside.receive(&mut other);
    assert_eq!(other.iter().map(|f| f.bytes()).collect::<Vec<_>>(), [b"o3", b"o4"]);
    assert_eq!(other[0].timestamp_ns(), Some(3 * S));

    // The later frames leave first, and two of the earlier are given up in other ways.
    inside.transmit(&mut other);
    assert!(settled.lock().unwrap().is_empty(), "their turn has not come");
    drop(burst.remove(1));
    inside.release(&mut burst);
    inside.receive(&mut burst);
    outside.receive(&mut burst);
    let mut answer = inside.originate(3).unwrap();
    answer.bytes_mut().copy_from_slice(b"rst");
    burst.push(answer);
    assert!(inside.is_exhausted() && outside.is_exhausted());
    assert_eq!(session.next_arrival_ns(), None);
    outside.transmit(&mut burst);
    let (handler, error) = session.finish();
    assert!(handler.is_some() && error.is_none());
    let entry = |number, name: &str, sent| (number, name.as_bytes().to_vec(), sent);
    let expected = [
        entry(1, "i1", false),
        entry(2, "i2", false),
        entry(4, "o3", true),
        entry(5, "o4", true),
        entry(6, "i5", true),
        entry(7, "o6", true),
    ];
    assert_eq!(*settled.lock().unwrap(), expected);
    assert_eq!(*originated.lock().unwrap(), [(Side::Outside, b"rst".to_vec())]);
}

#[test]
fn a_wire_tells_why_its_capture_ended_early() {
    let file = Builder::new(false).pcap_header(0xa1b2_c3d4, 1).pcap_record(0, 0, 2, b"i1");
    let (settled, originated) = (Arc::default(), Arc::default());
    let listener = Listener { settled: Arc::clone(&settled), originated };
    let (mut inside, _outside, session) = wire(open(&file.raw(&[1; 5]).bytes).unwrap(), listener);
    let mut burst = Burst::new();
    inside.receive(&mut burst);
    assert!(inside.is_exhausted());
    inside.release(&mut burst);
    let (_, error) = session.finish();
    assert_eq!(error.unwrap().offset(), 42);
    assert_eq!(settled.lock().unwrap().len(), 1);
}
