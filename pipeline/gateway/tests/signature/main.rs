//! Signed policies, over in-memory ports: each way into force, and each way in which a signature fails.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../common/mod.rs"]
mod common;
mod invariants;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use bulkhead_gateway::audit::LOG_FILE;
use bulkhead_gateway::config::Limits;
use bulkhead_gateway::control::client::ask;
use bulkhead_gateway::control::{Answer, Ask};
use bulkhead_gateway::policy_files::PolicyFiles;
use bulkhead_gateway::reload::{ReloadOutcome, ReloadReport};
use bulkhead_gateway::signature::manifest::Manifest;
use bulkhead_gateway::signature::{Envelope, NAMESPACE, places};
use bulkhead_gateway::status::Status;
use bulkhead_gateway::workflow::{Change, ChangeReport, PolicyTexts};
use common::{Running, policy, wait};
use ssh_key::private::Ed25519Keypair;
use ssh_key::{HashAlg, LineEnding, PrivateKey};

/// Monday, 2026-11-23, 06:30 UTC.
const MONDAY_S: i64 = 1_795_415_400;

const REQUIRED: &str = "[signatures]\ntrusted-keys = \"trusted-keys\"\nname = \"plant-7\"\n\
                        [lockdown]\nmin-staged-s = 0\n";
const OPTIONAL: &str = "[signatures]\ntrusted-keys = \"trusted-keys\"\nrequired = false\n";

fn key(seed: u8) -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]))
}

fn trust(folder: &Path, seed: u8) {
    let public = key(seed).public_key().to_openssh().unwrap();
    fs::write(folder.join("trusted-keys"), format!("ops@plant {public}\n")).unwrap();
}

fn fingerprint(seed: u8) -> String {
    key(seed).fingerprint(HashAlg::Sha256).to_string()
}

fn sign(manifest: &str, seed: u8, namespace: &str) -> String {
    let signature = key(seed).sign(namespace, HashAlg::Sha512, manifest.as_bytes()).unwrap();
    signature.to_pem(LineEnding::LF).unwrap()
}

fn read(path: &Path) -> PolicyFiles {
    PolicyFiles::read(path, &Limits::default()).unwrap()
}

/// What a person with the key 7 makes of the policy at `path`.
fn envelope(path: &Path, issued_s: i64) -> Envelope {
    let manifest = Manifest::of(&read(path), Some("plant-7".to_owned()), issued_s).unwrap();
    let manifest = manifest.to_string();
    Envelope { signature: sign(&manifest, 7, NAMESPACE), manifest }
}

fn put_beside(path: &Path, envelope: &Envelope) {
    let [manifest, signature] = places(path);
    fs::write(manifest, &envelope.manifest).unwrap();
    fs::write(signature, &envelope.signature).unwrap();
}

/// A policy of two files, as a folder, that permits `port`.
fn write_folder(folder: &Path, port: u16) {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir(folder).unwrap();
    fs::write(folder.join("00-guard.yaml"), "version: 1\ndefault: deny\n").unwrap();
    fs::write(folder.join("10-site.yaml"), policy(port)).unwrap();
}

fn texts(folder: &Path, envelope: Option<Envelope>) -> PolicyTexts {
    let files = read(folder).sources.into_iter();
    let files = files.map(|source| (source.name.to_string(), source.text)).collect();
    PolicyTexts { source: folder.display().to_string(), files, envelope }
}

fn change(running: &Running, change: Change, force: bool) -> ChangeReport {
    let order = serde_json::json!({
        "command": "change", "change": change, "reason": "CHG-1", "force": force,
    });
    match ask(&running.socket(), serde_json::from_value::<Ask>(order).unwrap()) {
        Ok(Answer::Change(report)) => *report,
        other => panic!("no report: {other:?}"),
    }
}

fn refusals(running: &Running, reason: &str) -> f64 {
    let sample = format!("bulkhead_policy_signature_refusals_total{{reason=\"{reason}\"}}");
    running.metric(&sample).unwrap()
}

fn audit(running: &Running) -> String {
    fs::read_to_string(running.folder.join("state").join(LOG_FILE)).unwrap()
}

fn codes(report: &ReloadReport) -> Vec<&str> {
    report.findings.iter().map(|finding| finding.code.as_str()).collect()
}

/// A gateway whose policy is a signed folder that permits port 502.
fn start(dir: &Path, more: &str) -> (Running, PathBuf) {
    let place = dir.join("policy.yaml");
    trust(dir, 7);
    write_folder(&place, 502);
    put_beside(&place, &envelope(&place, MONDAY_S));
    let running = Running::start(dir, "enforce", more);
    running.wait_ready();
    (running, place)
}

/// What somebody did to a signed policy, the code and the reason by which it is refused.
type Case = (&'static str, fn(&Path), &'static str, &'static str);

const CASES: &[Case] = &[
    (
        "nothing is signed",
        |p| places(p).iter().for_each(|f| fs::remove_file(f).unwrap()),
        "unsigned",
        "unsigned",
    ),
    (
        "the signature was removed",
        |p| fs::remove_file(&places(p)[1]).unwrap(),
        "unsigned",
        "unsigned",
    ),
    (
        "the manifest was removed",
        |p| fs::remove_file(&places(p)[0]).unwrap(),
        "unsigned",
        "unsigned",
    ),
    (
        "a file was changed",
        |p| fs::write(p.join("10-site.yaml"), policy(23)).unwrap(),
        "not-as-signed",
        "other_files",
    ),
    (
        "a file was removed",
        |p| fs::remove_file(p.join("00-guard.yaml")).unwrap(),
        "not-as-signed",
        "other_files",
    ),
    (
        "learning has added its file",
        |p| fs::write(p.join("80-learned.yaml"), "version: 1\n").unwrap(),
        "not-as-signed",
        "other_files",
    ),
    (
        "two files were swapped",
        |p| {
            let [a, b] = ["00-guard.yaml", "10-site.yaml"].map(|name| p.join(name));
            let text = fs::read(&a).unwrap();
            fs::rename(&b, &a).unwrap();
            fs::write(&b, text).unwrap();
        },
        "not-as-signed",
        "other_files",
    ),
    (
        "a file and its hash were changed",
        |p| {
            fs::write(p.join("10-site.yaml"), policy(23)).unwrap();
            fs::write(&places(p)[0], envelope(p, MONDAY_S + 60).manifest).unwrap();
        },
        "bad-signature",
        "bad_signature",
    ),
    (
        "the signature is another manifest's",
        |p| fs::write(&places(p)[1], envelope(p, MONDAY_S + 61).signature).unwrap(),
        "bad-signature",
        "bad_signature",
    ),
    (
        "it was signed for something else",
        |p| {
            let text = fs::read_to_string(&places(p)[0]).unwrap();
            fs::write(&places(p)[1], sign(&text, 7, "file")).unwrap();
        },
        "bad-signature",
        "bad_signature",
    ),
    (
        "somebody else has signed",
        |p| {
            let text = fs::read_to_string(&places(p)[0]).unwrap();
            fs::write(&places(p)[1], sign(&text, 8, NAMESPACE)).unwrap();
        },
        "unknown-key",
        "unknown_key",
    ),
    (
        "the signature is a text",
        |p| {
            fs::write(
                &places(p)[1],
                "-----BEGIN SSH SIGNATURE-----\nYWJj\n-----END SSH SIGNATURE-----\n",
            )
            .unwrap()
        },
        "malformed-signature",
        "malformed",
    ),
    (
        "a signed text is no manifest",
        |p| {
            let text = "00-guard.yaml\n".to_owned();
            put_beside(p, &Envelope { signature: sign(&text, 7, NAMESPACE), manifest: text });
        },
        "malformed-signature",
        "malformed",
    ),
    (
        "the manifest is a folder",
        |p| {
            let [m, _] = places(p);
            fs::remove_file(&m).unwrap();
            fs::create_dir(&m).unwrap();
        },
        "malformed-signature",
        "malformed",
    ),
    ("it is older", |p| put_beside(p, &envelope(p, MONDAY_S - 1)), "older", "older"),
    ("it is no newer", |p| put_beside(p, &envelope(p, MONDAY_S)), "older", "older"),
    (
        "it is of the next century",
        |p| put_beside(p, &envelope(p, 4_000_000_000)),
        "issued-in-future",
        "future",
    ),
    (
        "it is another plant's",
        |p| {
            let manifest =
                Manifest::of(&read(p), Some("plant-8".to_owned()), MONDAY_S + 60).unwrap();
            let manifest = manifest.to_string();
            put_beside(p, &Envelope { signature: sign(&manifest, 7, NAMESPACE), manifest });
        },
        "other-policy",
        "other_policy",
    ),
    (
        "the trusted keys are gone",
        |p| fs::remove_file(p.with_file_name("trusted-keys")).unwrap(),
        "trusted-keys",
        "keys",
    ),
    (
        "the trusted keys are none",
        |p| fs::write(p.with_file_name("trusted-keys"), "# none\nops nonsense\n").unwrap(),
        "trusted-keys",
        "keys",
    ),
];

#[test]
fn what_is_not_as_it_was_signed_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (running, place) = start(dir.path(), REQUIRED);
    let mut port = 30_000;
    for (what, spoil, code, reason) in CASES {
        trust(dir.path(), 7);
        let before = refusals(&running, reason);
        let beside = dir.path().join("beside");
        write_folder(&beside, 22);
        put_beside(&beside, &envelope(&beside, MONDAY_S + 60));
        spoil(&beside);
        let _ = fs::remove_dir_all(&place);
        fs::rename(&beside, &place).unwrap();
        let report = running.reload();
        assert_eq!(
            (report.outcome, codes(&report)),
            (ReloadOutcome::Refused, vec![*code]),
            "{what}"
        );
        let finding = &report.findings[0];
        assert!(finding.help.as_ref().is_some_and(|help| help.len() > 20), "{what}: {finding:?}");
        // The watcher may have seen it as well.
        assert!(refusals(&running, reason) > before, "{what}");
        port += 2;
        assert!(running.passes(port, 502), "{what}");
        assert!(!running.passes(port + 1, 22), "{what}");
        assert!(
            audit(&running).contains(&finding.message.replace('"', "\\\"")),
            "{what}: {}",
            audit(&running)
        );
    }
    trust(dir.path(), 7);
    write_folder(&place, 22);
    put_beside(&place, &envelope(&place, MONDAY_S + 60));
    let report = running.reload();
    assert!(report.outcome.is_success(), "{report:?}");
    assert!(running.passes(40_000, 22) && !running.passes(40_001, 502));
    let entered = format!("signed by ops@plant ({}), issued 2026-11-23T06:31:00Z", fingerprint(7));
    assert!(audit(&running).contains(&entered), "{}", audit(&running));
    assert!(Status::of(&running.gateway).standing.contains(&entered));
    assert_eq!(running.metric("bulkhead_policy_signed"), Some(1.0));
    let issued = running.metric("bulkhead_policy_issued_timestamp_seconds");
    assert_eq!(issued, Some((MONDAY_S + 60) as f64));
}

#[test]
fn a_start_falls_back_and_the_watcher_takes_what_is_signed_at_last() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("policy.yaml");
    trust(dir.path(), 7);
    fs::write(&place, policy(502)).unwrap();
    let running = Running::start(dir.path(), "enforce", REQUIRED);
    wait("the start was refused", || refusals(&running, "unsigned") >= 1.0);
    assert!(!running.gateway.is_guarding(), "nothing was ever accepted: the ports stay down");
    // Nobody commands: the signature of a single file lies beside it, and is seen.
    put_beside(&place, &envelope(&place, MONDAY_S));
    running.wait_ready();
    assert!(running.passes(40_000, 502));
    assert_eq!(running.metric("bulkhead_policy_signed"), Some(1.0));

    running.write_policy(&policy(22));
    wait("the watcher saw it", || refusals(&running, "other_files") >= 1.0);
    assert!(running.passes(40_001, 502) && !running.passes(40_002, 22));
    drop(running);

    let running = Running::start(dir.path(), "enforce", REQUIRED);
    running.wait_ready();
    assert!(running.passes(40_003, 502) && !running.passes(40_004, 22));
    assert_eq!(running.metric("bulkhead_policy_fallback"), Some(1.0));
    assert_eq!(running.metric("bulkhead_policy_signed"), Some(1.0), "it was signed when it came");
    put_beside(&place, &envelope(&place, MONDAY_S - 60));
    wait("an older one is known after a restart", || refusals(&running, "older") >= 1.0);
    put_beside(&place, &envelope(&place, MONDAY_S + 60));
    wait("the watcher took it", || running.metric("bulkhead_policy_fallback") == Some(0.0));
    assert!(running.passes(40_005, 22));
}

#[test]
fn an_older_one_needs_an_order_with_a_reason_and_a_signature_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (running, place) = start(dir.path(), REQUIRED);
    write_folder(&place, 22);
    put_beside(&place, &envelope(&place, MONDAY_S - 60));
    assert_eq!(codes(&running.reload()), ["older"]);
    let report = change(&running, Change::TakeOlder {}, true);
    assert!(report.done, "{report:?}");
    assert!(running.passes(40_000, 22) && !running.passes(40_001, 502));
    assert!(audit(&running).contains("an older signed policy may be taken into force"));
    assert!(running.reload().outcome.is_success(), "it is the newest now");
    drop(running);

    let running = Running::start(dir.path(), "enforce", REQUIRED);
    running.wait_ready();
    assert_eq!(running.metric("bulkhead_policy_fallback"), Some(0.0), "and is so after a restart");
    fs::write(place.join("10-site.yaml"), policy(23)).unwrap();
    let report = change(&running, Change::TakeOlder {}, true);
    assert!(!report.done && report.findings[0].code == "not-as-signed", "{report:?}");
    assert!(!running.passes(40_002, 23));
}

#[test]
fn what_is_staged_and_locked_down_is_signed_and_a_rollback_was() {
    let dir = tempfile::tempdir().unwrap();
    let (running, _place) = start(dir.path(), REQUIRED);
    let other = dir.path().join("other");
    write_folder(&other, 22);
    let older = envelope(&other, MONDAY_S - 60);
    let newer = envelope(&other, MONDAY_S + 60);
    let stage =
        |envelope| change(&running, Change::Stage { policy: texts(&other, envelope) }, true);
    let lockdown = |policy, force| {
        let wires = Vec::new();
        change(&running, Change::Lockdown { wires, policy, expect: None }, force)
    };

    let report = stage(None);
    assert!(!report.done && report.findings[0].code == "unsigned", "{report:?}");
    let mut spoilt = newer.clone();
    spoilt.manifest = spoilt.manifest.replace("06:31:00", "06:32:00");
    let report = stage(Some(spoilt));
    assert!(!report.done && report.findings[0].code == "bad-signature", "{report:?}");
    let report = lockdown(Some(texts(&other, None)), true);
    assert!(!report.done && report.findings[0].code == "unsigned", "no force helps: {report:?}");

    let report = stage(Some(older));
    assert!(report.done && report.findings.iter().any(|f| f.code == "older"), "{report:?}");
    let report = lockdown(None, false);
    assert!(
        !report.done && report.obstacles.iter().any(|o| o.contains("was in force")),
        "{report:?}"
    );
    assert!(running.passes(40_000, 502));

    let report = stage(Some(newer.clone()));
    assert!(report.done && !report.findings.iter().any(|f| f.code == "older"), "{report:?}");
    let report = lockdown(Some(texts(&other, Some(newer))), true);
    assert!(report.done, "{report:?}");
    assert!(running.passes(40_001, 22) && !running.passes(40_002, 502));
    assert_eq!(
        running.metric("bulkhead_policy_issued_timestamp_seconds"),
        Some((MONDAY_S + 60) as f64)
    );

    let report = change(&running, Change::Rollback { version: None }, false);
    assert!(report.done, "{report:?}");
    assert!(running.passes(40_003, 502), "it was accepted before");
    assert_eq!(running.metric("bulkhead_policy_issued_timestamp_seconds"), Some(MONDAY_S as f64));
}

/// The changes that a test of staging makes.
fn stage(running: &Running, folder: &Path, envelope: Option<Envelope>) -> ChangeReport {
    change(running, Change::Stage { policy: texts(folder, envelope) }, false)
}

fn lock_down(running: &Running, force: bool) -> ChangeReport {
    change(running, Change::Lockdown { wires: Vec::new(), policy: None, expect: None }, force)
}

#[test]
fn what_is_staged_is_not_locked_down_once_its_key_is_trusted_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let (running, _place) = start(dir.path(), REQUIRED);
    let other = dir.path().join("other");
    write_folder(&other, 22);
    let signed = envelope(&other, MONDAY_S + 60);
    assert!(stage(&running, &other, Some(signed)).done);

    let refused = |running: &Running, code: &str, word: &str| {
        let before = refusals(running, word);
        let report = lock_down(running, true);
        assert!(!report.done && report.what.contains("stays staged"), "{report:?}");
        assert_eq!(report.findings[0].code, code, "no force helps: {report:?}");
        assert_eq!(refusals(running, word), before + 1.0);
        assert!(!running.passes(40_000, 22) && running.passes(40_001, 502));
    };
    trust(dir.path(), 8);
    refused(&running, "unknown-key", "unknown_key");
    assert!(audit(&running).contains("which is not trusted"), "{}", audit(&running));
    fs::remove_file(dir.path().join("trusted-keys")).unwrap();
    refused(&running, "trusted-keys", "keys");
    drop(running);

    // So it is after a restart, which does not forget what it was signed with either.
    trust(dir.path(), 8);
    let running = Running::start(dir.path(), "enforce", REQUIRED);
    running.wait_ready();
    refused(&running, "unknown-key", "unknown_key");
    trust(dir.path(), 7);
    let report = lock_down(&running, true);
    assert!(report.done && report.what.contains("signed by ops@plant"), "{report:?}");
    assert!(running.passes(40_002, 22));
}

#[test]
fn what_is_in_force_enforces_further_wires_whatever_became_of_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let (running, place) = start(dir.path(), REQUIRED);
    let beside = fs::read_to_string(&places(&place)[1]).unwrap();
    let manifest = fs::read_to_string(&places(&place)[0]).unwrap();
    assert!(stage(&running, &place, Some(Envelope { manifest, signature: beside })).done);
    trust(dir.path(), 8);
    let report = lock_down(&running, true);
    assert!(report.done, "{report:?}");
}

#[test]
fn a_refusal_of_what_is_not_signed_says_which_command_signs_it() {
    let dir = tempfile::tempdir().unwrap();
    let (running, _place) = start(dir.path(), REQUIRED);
    let other = dir.path().join("other");
    write_folder(&other, 22);
    let help = |report: ChangeReport| report.findings[0].help.clone().unwrap();
    let said = help(stage(&running, &other, None));
    let command = format!("`bulkhead sign {} --key KEY --name plant-7`", other.display());
    assert!(said.contains(&command), "{said}");
    let of_console =
        PolicyTexts { source: "the console's editor".to_owned(), ..texts(&other, None) };
    let said = help(change(&running, Change::Stage { policy: of_console }, false));
    assert!(
        said.contains("`ssh-keygen -Y sign -n bulkhead-policy -f KEY policy.manifest`"),
        "{said}"
    );
}

#[test]
fn where_signatures_are_not_required_a_wrong_one_is_wrong_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (running, place) = start(dir.path(), OPTIONAL);
    write_folder(&place, 22);
    assert!(running.reload().outcome.is_success(), "not signed");
    assert!(running.passes(40_000, 22));
    assert_eq!(running.metric("bulkhead_policy_signed"), Some(0.0));
    let of_before = envelope(&place, MONDAY_S + 60);
    write_folder(&place, 23);
    put_beside(&place, &of_before);
    assert_eq!(codes(&running.reload()), ["not-as-signed"]);
    assert!(!running.passes(40_001, 23));
}

/// Whether OpenSSH is there; with CI=true it has to be.
fn has_ssh_keygen(test: &str) -> bool {
    let found = Command::new("ssh-keygen").arg("-?").output().is_ok();
    let is_ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
    assert!(found || !is_ci, "ssh-keygen is missing: apt-get install openssh-client");
    if !found {
        println!("SKIPPED: {test}: no ssh-keygen; apt-get install openssh-client");
    }
    found
}

fn run(program: &str, arguments: &[&str], folder: &Path) -> (bool, String) {
    let mut command = Command::new(program);
    let output = command.args(arguments).current_dir(folder).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn what_openssh_signs_is_taken_and_openssh_finds_it_well() {
    if !has_ssh_keygen("signing with ssh-keygen") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let bulkhead = env!("CARGO_BIN_EXE_bulkhead");
    let config = "policy = \"policy\"\n[signatures]\ntrusted-keys = \"trusted-keys\"\n\
                  [[wire]]\nname = \"line3\"\ninside = \"a\"\noutside = \"b\"\n";
    fs::write(folder.join("gateway.toml"), config).unwrap();
    write_folder(&folder.join("policy"), 502);
    for (kind, port) in [("ed25519", 22), ("ecdsa", 23)] {
        let made = ["-q", "-t", kind, "-b", "256", "-N", "", "-C", "anna", "-f", kind];
        assert!(run("ssh-keygen", &made, folder).0);
        let public = fs::read_to_string(folder.join(format!("{kind}.pub"))).unwrap();
        let trusted = format!("anna namespaces=\"{NAMESPACE}\" {public}");
        fs::write(folder.join("trusted-keys"), trusted).unwrap();
        let (ok, said) = run(bulkhead, &["sign", "policy", "--key", kind], folder);
        assert!(ok && said.contains("2 files, issued"), "{said}");
        let checked = ["check", "--config", "gateway.toml"];
        let (ok, said) = run(bulkhead, &checked, folder);
        assert!(ok && !said.contains("left-out"), "{said}");
        // The same by hand.
        let by_hand = format!(
            "ssh-keygen -Y verify -f trusted-keys -I anna -n {NAMESPACE} \
             -s policy/policy.manifest.sig <policy/policy.manifest && \
             cd policy && sha256sum --check --strict policy.manifest"
        );
        let (ok, said) = run("sh", &["-c", &by_hand], folder);
        assert!(ok && said.contains("10-site.yaml: OK"), "{said}");
        fs::write(folder.join("policy/10-site.yaml"), policy(port)).unwrap();
        let (ok, said) = run(bulkhead, &checked, folder);
        assert!(!ok && said.contains("10-site.yaml is not as it was signed"), "{said}");
    }
    // Signing again is later, even within the same second; a key that is not there spoils nothing.
    let manifest = || fs::read_to_string(folder.join("policy/policy.manifest")).unwrap();
    let before = manifest();
    assert!(!run(bulkhead, &["sign", "policy", "--key", "none"], folder).0);
    assert_eq!(manifest(), before);
    assert!(run(bulkhead, &["sign", "policy", "--key", "ecdsa"], folder).0);
    let issued = |text: &str| Manifest::parse(text).unwrap().issued_s;
    assert!(issued(&manifest()) > issued(&before));
    let (ok, said) = run(bulkhead, &["sign", "policy"], folder);
    assert!(ok && said.contains("ssh-keygen -Y sign -n bulkhead-policy"), "{said}");
    assert!(!folder.join("policy/policy.manifest.sig").exists(), "of another manifest");
}

/// Name and text of each file that the fuzzer starts from.
fn corpus() -> Vec<(String, String)> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/signature");
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        (
            path.file_name().unwrap().to_string_lossy().into_owned(),
            fs::read_to_string(&path).unwrap(),
        )
    };
    fs::read_dir(corpus).unwrap().map(read).collect()
}

#[test]
fn what_the_fuzzer_started_from_is_what_it_says() {
    let corpus = corpus();
    assert!(corpus.len() >= 4);
    for (name, text) in corpus {
        let kinds = invariants::check(&text);
        assert_eq!(kinds, (name.starts_with("keys"), name.starts_with("manifest")), "{name}");
    }
}

/// The same changes in each run: bytes flipped, cut out, doubled, and put in from another file.
#[test]
fn no_change_of_a_file_gets_through_or_stops_the_reader() {
    let corpus = corpus();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap() % below.max(1)
    };
    let cases = if std::env::var_os("BULKHEAD_FULL").is_some_and(|full| full == "1") {
        50_000
    } else {
        3000
    };
    for _ in 0..cases {
        let mut bytes = corpus[random(corpus.len())].1.clone().into_bytes();
        for _ in 0..=random(3) {
            let place = random(bytes.len());
            let end = (place + 1 + random(8)).min(bytes.len());
            match random(4) {
                0 => bytes[place] ^= 1 << random(7),
                1 => drop(bytes.drain(place..end)),
                2 => {
                    let again = bytes[place..end].to_vec();
                    bytes.splice(place..place, again);
                }
                _ => {
                    let other = corpus[random(corpus.len())].1.as_bytes();
                    let from = random(other.len());
                    let piece = other[from..(from + random(80)).min(other.len())].to_vec();
                    bytes.splice(place..end, piece);
                }
            }
            if bytes.is_empty() {
                bytes.push(b'\n');
            }
        }
        invariants::check(&String::from_utf8_lossy(&bytes));
    }
}
