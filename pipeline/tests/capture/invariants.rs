//! What holds for the reader of captures, whatever the file. The fuzz target checks the same.

use std::io::{Cursor, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use bulkhead_pipeline::port::capture::{
    CaptureReader, CaptureWriter, Format, MAX_FRAME_BYTES, Record,
};

/// A record of which nothing is borrowed.
type Owned = (u64, u32, Vec<u8>);

/// Reads `file` to its end, writes what it holds, and reads it again. Returns the number of records.
pub(crate) fn check(file: &[u8]) -> usize {
    let Ok(mut reader) =
        CaptureReader::new(Path::new("fuzz"), Box::new(Cursor::new(file.to_vec())))
    else {
        return 0;
    };
    let compressed = file.starts_with(&[0x1f, 0x8b]);
    let records = read(&mut reader, |record| {
        assert!(record.bytes.len() <= MAX_FRAME_BYTES);
        assert_eq!(record.is_cut(), record.bytes.len() < record.original_len as usize);
    });
    let bytes: usize = records.iter().map(|(_, _, bytes)| bytes.len()).sum();
    assert!(compressed || bytes <= file.len(), "{bytes} bytes of frames in {}", file.len());
    let copy = write(&records);
    let copy = CaptureReader::new(Path::new("copy"), Box::new(Cursor::new(copy)));
    let again = read(&mut copy.expect("what was written is a capture"), |_| {});
    assert!(again == records, "what was written reads differently");
    records.len()
}

fn read(reader: &mut CaptureReader, mut look: impl FnMut(&Record<'_>)) -> Vec<Owned> {
    let mut records = Vec::new();
    loop {
        match reader.next_record() {
            Ok(Some(record)) => {
                look(&record);
                records.push((record.timestamp_ns, record.original_len, record.bytes.to_vec()));
            }
            Ok(None) => break,
            Err(error) => {
                assert!(error.to_string().starts_with("fuzz: at byte "), "{error}");
                break;
            }
        }
    }
    assert!(matches!(reader.next_record(), Ok(None)), "the end is the end");
    records
}

fn write(records: &[Owned]) -> Vec<u8> {
    let kept = Kept::default();
    let sink = Box::new(kept.clone());
    let mut writer = CaptureWriter::new(Path::new("copy"), Format::PcapNg, sink)
        .expect("memory takes everything");
    for (timestamp_ns, original_len, bytes) in records {
        writer.write(*timestamp_ns, *original_len, bytes).expect("memory takes everything");
    }
    writer.finish().expect("memory takes everything");
    std::mem::take(&mut kept.0.lock().expect("nobody panicked"))
}

/// A sink of which the bytes can be had afterwards.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panicked").extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
