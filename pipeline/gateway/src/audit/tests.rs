#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::BufReader;

use super::verify::{Broken, Failure, Verifier, Whole};
use super::*;

fn draft(detail: &str) -> Draft {
    Draft::new(Who::thing("test"), What::Grant, detail).because(Some("CHG-1"))
}

/// A log of `entries` entries in a folder of its own.
fn log(entries: usize) -> (tempfile::TempDir, Audit) {
    let dir = tempfile::tempdir().unwrap();
    let audit = Audit::new(&dir.path().join("state"));
    audit.begin();
    for entry in 0..entries {
        audit.enter(draft(&format!("the {entry}th"))).unwrap();
    }
    (dir, audit)
}

fn path(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("state").join(LOG_FILE)
}

fn verified(dir: &tempfile::TempDir) -> Result<Whole, Broken> {
    let head = read_head(&dir.path().join("state").join(HEAD_FILE));
    let mut verifier = Verifier::new(None);
    match verifier.read(BufReader::new(File::open(path(dir)).unwrap()), |_, _| ()) {
        Ok(()) => verifier.finish(head.as_ref()),
        Err(Failure::Broken(broken)) => Err(broken),
        Err(Failure::Io(error)) => panic!("{error}"),
    }
}

#[test]
fn what_is_written_is_whole_and_goes_on_after_a_restart() {
    let (dir, audit) = log(3);
    assert_eq!(verified(&dir).unwrap().head, audit.head());
    let again = Audit::new(&dir.path().join("state"));
    again.begin();
    assert_eq!(again.head(), audit.head());
    again.enter(draft("after the restart")).unwrap();
    let whole = verified(&dir).unwrap();
    assert_eq!((whole.head.sequence, &whole.head), (4, &again.head()));
}

#[test]
fn every_changed_byte_is_found_in_its_line() {
    let (dir, _) = log(3);
    let bytes = fs::read(path(&dir)).unwrap();
    let mut line = 1;
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        fs::write(path(&dir), &changed).unwrap();
        let broken = verified(&dir).unwrap_err();
        assert_eq!(broken.line, line, "byte {at}: {broken}");
        line += u64::from(bytes[at] == b'\n');
    }
}

#[test]
fn removed_inserted_and_moved_lines_are_found() {
    let (dir, _) = log(4);
    let text = fs::read_to_string(path(&dir)).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for (order, line) in [
        (&[1, 2, 3][..], 1),
        (&[0, 2, 3], 2),
        (&[0, 1, 1, 2, 3], 3),
        (&[0, 2, 1, 3], 2),
        (&[0, 1, 2], 4),
        (&[], 1),
    ] {
        let text: String = order.iter().map(|&line| format!("{}\n", lines[line])).collect();
        fs::write(path(&dir), text).unwrap();
        assert_eq!(verified(&dir).unwrap_err().line, line, "{order:?}");
    }
}

#[test]
fn a_line_with_a_hash_of_its_own_breaks_the_chain_after_it() {
    let (dir, _) = log(3);
    let text = fs::read_to_string(path(&dir)).unwrap();
    let mut lines: Vec<String> = text.lines().map(|line| format!("{line}\n")).collect();
    let (mut entry, ..) = unsealed(lines[1].trim_end().as_bytes()).unwrap();
    entry.who.name = "somebody else".to_owned();
    lines[1] = String::from_utf8(sealed(&entry).unwrap().0).unwrap();
    fs::write(path(&dir), lines.concat()).unwrap();
    assert_eq!(verified(&dir).unwrap_err().line, 3);
}

#[test]
fn a_torn_end_is_set_aside_and_told() {
    let (dir, audit) = log(2);
    let whole = fs::read(path(&dir)).unwrap();
    audit.enter(draft("that is torn")).unwrap();
    let longer = fs::read(path(&dir)).unwrap();
    for end in (whole.len() + 1..longer.len()).step_by(19).chain([longer.len() - 1]) {
        fs::write(path(&dir), &longer[..end]).unwrap();
        let again = Audit::new(&dir.path().join("state"));
        again.begin();
        again.enter(draft("and on")).unwrap();
        let text = fs::read_to_string(path(&dir)).unwrap();
        assert!(text.lines().nth(2).unwrap().contains("no entry"), "cut at {end}: {text}");
        // The head knew the entry that was torn: that too is told.
        assert!(verified(&dir).is_ok(), "cut at {end}");
    }
    let aside = fs::read_dir(dir.path().join("state")).unwrap().flatten();
    assert!(aside.filter(|e| e.file_name().to_string_lossy().contains("torn-")).count() > 0);
}

#[test]
fn an_end_that_was_removed_is_told_at_the_next_start() {
    let (dir, audit) = log(3);
    let text = fs::read_to_string(path(&dir)).unwrap();
    let first = text.lines().next().unwrap();
    fs::write(path(&dir), format!("{first}\n")).unwrap();
    assert_eq!(verified(&dir).unwrap_err().line, 2);
    let again = Audit::new(&dir.path().join("state"));
    again.begin();
    let text = fs::read_to_string(path(&dir)).unwrap();
    assert!(text.contains("removed at its end") && text.contains(&audit.head().hash), "{text}");
    // A head that was kept elsewhere shows it for ever.
    let mut verifier = Verifier::new(Some(audit.head().hash));
    verifier.read(BufReader::new(text.as_bytes()), |_, _| ()).unwrap();
    assert!(!verifier.finish(None).unwrap().has_expected);
}

#[test]
fn without_a_disk_what_loosens_is_refused_and_what_tightens_is_entered_later() {
    let (dir, audit) = log(1);
    let kept = fs::read(path(&dir)).unwrap();
    fs::remove_file(path(&dir)).unwrap();
    fs::create_dir(path(&dir)).unwrap();
    let refused = audit.enter(draft("a grant")).unwrap_err();
    assert!(refused.contains("nothing was changed"), "{refused}");
    audit.enter_anyway(draft("a quarantine"));
    audit.catch_up();
    assert_eq!((audit.missing(), audit.failures()), (1, 3));
    fs::remove_dir(path(&dir)).unwrap();
    fs::write(path(&dir), &kept).unwrap();
    audit.catch_up();
    assert_eq!(audit.missing(), 0);
    audit.enter(draft("a grant again")).unwrap();
    let text = fs::read_to_string(path(&dir)).unwrap();
    assert_eq!((verified(&dir).unwrap().head.sequence, text.contains("a quarantine")), (3, true));
}

/// All files of the log in `folder`: the number of its first entry, and that it is whole.
fn checked(folder: &Path) -> Result<(u64, Whole), Broken> {
    let mut verifier = Verifier::new(None).starting_after(files::start(folder));
    for path in files::of(folder).unwrap() {
        match verifier.read(BufReader::new(File::open(path).unwrap()), |_, _| ()) {
            Ok(()) => {}
            Err(Failure::Broken(broken)) => return Err(broken),
            Err(Failure::Io(error)) => panic!("{error}"),
        }
    }
    let first = verifier.first();
    verifier.finish(read_head(&folder.join(HEAD_FILE)).as_ref()).map(|whole| (first, whole))
}

/// A log of small files, of which `kept` are kept, with entries for a few of them.
fn small_files(folder: &Path, kept: usize) -> Audit {
    let audit = Audit::keeping(folder, Keep { file_bytes: 1000, files: kept });
    audit.begin();
    for entry in 0..24 {
        audit.enter(draft(&format!("entry {entry}"))).unwrap();
    }
    audit
}

#[test]
fn a_full_file_is_followed_by_another_and_the_chain_goes_through_all() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("state");
    let keep = Keep { file_bytes: 2000, files: 3 };
    let check = || checked(&folder);
    let mut known = Head::none();
    for run in 0..12 {
        // Whatever file the run before ended with.
        let audit = Audit::keeping(&folder, keep);
        audit.begin();
        assert_eq!(audit.head(), known, "run {run}");
        for entry in 0..3 {
            audit.enter(draft(&format!("run {run}, entry {entry}"))).unwrap();
            let (_, whole) = check().unwrap();
            assert_eq!(whole.head, audit.head());
        }
        known = audit.head();
    }
    let (first, _) = check().unwrap();
    let files = files::of(&folder).unwrap();
    assert!(first > 1 && files.len() == 4, "{first}, {files:?}");
    let oldest = fs::read_to_string(&files[0]).unwrap();
    assert!(!oldest.contains("run 0,"), "{oldest}");
    let all: String = files.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    assert!(all.contains("are removed: 3 full files are kept"), "{all}");

    // A file that is gone from the middle, or from the beginning, is missed.
    for gone in [1, 0] {
        let kept = fs::read(&files[gone]).unwrap();
        fs::remove_file(&files[gone]).unwrap();
        assert!(check().is_err(), "file {gone}");
        fs::write(&files[gone], kept).unwrap();
    }
    assert!(check().is_ok());
}

#[test]
fn a_crash_between_two_files_breaks_nothing() {
    let (dir, audit) = log(3);
    let folder = dir.path().join("state");
    files::set_apart(&folder, audit.head().sequence).unwrap();
    let again = Audit::new(&folder);
    again.begin();
    assert_eq!(again.head(), audit.head());
    again.enter(draft("in the next file")).unwrap();
    // The first line of a file may be torn, too.
    let whole = fs::read(path(&dir)).unwrap();
    fs::write(path(&dir), &whole[..whole.len() / 2]).unwrap();
    let third = Audit::new(&folder);
    third.begin();
    third.enter(draft("and on")).unwrap();
    let mut verifier = Verifier::new(None);
    for path in files::of(&folder).unwrap() {
        verifier.read(BufReader::new(File::open(path).unwrap()), |_, _| ()).unwrap();
    }
    assert_eq!(verifier.finish(None).unwrap().head, third.head());
}

#[test]
fn a_start_that_no_entry_names_is_forged() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let audit = small_files(folder, 2);
    let (first, _) = checked(folder).unwrap();
    assert!(first > 1);
    // Whoever takes away the oldest file, or its first line, says where the log begins now.
    let oldest = files::of(folder).unwrap().swap_remove(0);
    let text = fs::read_to_string(&oldest).unwrap();
    for taken in [1, text.lines().count()] {
        let (last, ..) = unsealed(text.lines().nth(taken - 1).unwrap().as_bytes()).unwrap();
        let hash = unsealed(text.lines().nth(taken - 1).unwrap().as_bytes()).unwrap().1;
        let rest: String = text.lines().skip(taken).map(|line| format!("{line}\n")).collect();
        fs::write(&oldest, rest).unwrap();
        let kept = fs::read(folder.join(files::START_FILE)).unwrap();
        let forged = Head { sequence: last.sequence, hash };
        write_json(folder, files::START_FILE, &forged).unwrap();
        let broken = checked(folder).unwrap_err();
        assert!(broken.why.contains("somebody took them away"), "{broken}");
        fs::write(folder.join(files::START_FILE), kept).unwrap();
        fs::write(&oldest, &text).unwrap();
    }
    assert_eq!(checked(folder).unwrap().1.head, audit.head());
}

#[test]
fn a_removal_that_was_interrupted_breaks_nothing_and_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let audit = small_files(folder, 64);
    for round in 0..3 {
        let oldest = files::of(folder).unwrap().swap_remove(0);
        let kept = fs::read(&oldest).unwrap();
        let last = Tail::read(&mut File::open(&oldest).unwrap()).unwrap().head;
        let entered = draft("a removal").removing(last.clone());
        audit.enter(Draft { what: What::Log, ..entered }).unwrap();
        assert!(checked(folder).is_ok(), "before the start is known, round {round}");
        files::remove(folder, &oldest, &last).unwrap();
        let (first, _) = checked(folder).unwrap();
        assert_eq!(first, last.sequence + 1, "round {round}");
        // As if the machine had stopped before the file was gone.
        fs::write(&oldest, kept).unwrap();
        assert!(checked(folder).is_ok(), "round {round}");
        files::finish_removal(folder).unwrap();
        assert!(!oldest.exists() && checked(folder).is_ok(), "round {round}");
    }
}

#[test]
fn a_file_that_is_not_what_its_name_says_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    drop(small_files(folder, 64));
    let oldest = files::of(folder).unwrap().swap_remove(0);
    let mut bytes = fs::read(&oldest).unwrap();
    let last = bytes.len() - 10;
    bytes[last] ^= 1;
    fs::write(&oldest, &bytes).unwrap();
    fs::write(folder.join("audit-1.jsonl"), "").unwrap();
    // It returns, and nothing is lost but what was to be removed.
    let audit = small_files(folder, 2);
    assert_eq!(files::of(folder).unwrap().len(), 3);
    let names = fs::read_dir(folder).unwrap().flatten();
    let names: Vec<_> = names.map(|e| e.file_name().into_string().unwrap()).collect();
    let mut aside: Vec<_> = names.iter().filter(|name| name.contains(".jsonl.aside-")).collect();
    aside.sort();
    assert_eq!(aside.len(), 2, "{names:?}");
    assert_eq!(fs::read(folder.join(aside[0])).unwrap(), bytes);
    assert_eq!(checked(folder).unwrap().1.head, audit.head());
}
