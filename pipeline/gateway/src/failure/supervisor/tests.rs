use std::io::{BufRead as _, BufReader};
use std::path::Path;

use super::*;
use crate::failure::relays::COMMAND_LIMIT;

#[test]
fn a_process_is_waited_for_and_killed_when_it_takes_too_long() {
    let spawn = |script: &str| {
        let child = Command::new("/bin/sh").args(["-c", script]).stdin(Stdio::null()).spawn();
        Pid::from_child(&child.unwrap_or_else(|error| panic!("{error}")))
    };
    assert_eq!(wait_for_end(spawn("exit 3"), END_LIMIT, &mut Watchdog::default()), End::Exited(3));
    assert_eq!(
        wait_for_end(spawn("kill -9 $$"), END_LIMIT, &mut Watchdog::default()),
        End::Signalled(9)
    );
    let stuck = spawn("exec sleep 600");
    assert_eq!(
        wait_for_end(stuck, Duration::from_millis(50), &mut Watchdog::default()),
        End::Signalled(9)
    );
    assert_eq!(ended(stuck), Some(End::Unknown), "nobody waits for it twice");
}

const CLOSED: &str = "";

/// A configuration of one wire, whose `bypass-command` writes down what it is told.
fn text(dir: &Path, failure: &str) -> String {
    format!(
        "policy = \"p\"\ncontrol-socket = \"{}\"\n[[wire]]\nname = \"w\"\ninside = \"net_ring0\"\n\
         outside = \"net_ring1\"\n{failure}",
        dir.join("control.sock").display()
    )
}

fn open(dir: &Path) -> String {
    let said = dir.join("said").display().to_string();
    let command = format!("[\"/bin/sh\", \"-c\", '[ $0 = feed ] || echo $0 >> {said}']");
    text(dir, &format!("fail = \"open\"\nbypass-command = {command}\n"))
}

fn said(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("said")).unwrap_or_default()
}

/// A supervisor whose configuration is `text`, in a file and by its own account.
fn supervisor(dir: &Path, text: &str) -> Supervisor {
    let file = dir.join("gateway.toml");
    std::fs::write(&file, text).unwrap();
    let config = Config::of_text(&file, text).unwrap_or_else(|error| panic!("{error}"));
    let args = RunArgs {
        config: file,
        log_level: None,
        log_format: crate::cli::LogFormat::Text,
        supervise: true,
        supervised: false,
        takeover: false,
        adopt: None,
        history: None,
    };
    let program = PathBuf::from("/no/such/program");
    Supervisor { has_guarded: true, ..Supervisor::of(program, args, config, unbounded()) }
}

/// A process that stands for a gateway, and its end of the channel.
fn gateway(config: &str) -> (Process, UnixStream) {
    let child = Command::new("/bin/sleep").arg("600").spawn();
    let pid = Pid::from_child(&child.unwrap_or_else(|error| panic!("{error}")));
    let (stream, theirs) = UnixStream::pair().unwrap();
    let config = Some(config.to_owned());
    let guards = Some(Instant::now());
    let process = Process { has_spoken: true, guards, config, ..Process::new(pid, stream) };
    (process, theirs)
}

fn successor(process: Process, phase: Phase) -> Successor {
    let process = Process { guards: None, ..process };
    Successor { process, phase, since: Instant::now(), closes: None }
}

/// A gateway that guards by one text, and one by another that is to take its place. Returns both processes and their
/// ends of the channels.
fn renewal(
    supervisor: &mut Supervisor,
    [old, new]: [String; 2],
    phase: Phase,
) -> ([Pid; 2], [UnixStream; 2]) {
    let ((old, its_end), (new, end)) = (gateway(&old), gateway(&new));
    let pids = [old.pid, new.pid];
    supervisor.current = Some(old);
    supervisor.successor = Some(successor(new, phase));
    (pids, [its_end, end])
}

fn end(pid: Pid) {
    let _ = kill_process(pid, Signal::KILL);
    let _ = wait_for_end(pid, END_LIMIT, &mut Watchdog::default());
}

/// Looks after everything until `is_so`. The gateway goes on saying that all is well.
fn wait(supervisor: &mut Supervisor, is_so: impl Fn(&Supervisor) -> bool) {
    let begun = Instant::now();
    while !is_so(supervisor) {
        assert!(begun.elapsed() < END_LIMIT, "it does not come to that");
        if let Some(process) = &mut supervisor.current {
            process.alive = Instant::now();
        }
        supervisor.look_after();
        thread::sleep(TICK);
    }
}

/// A gateway guards, and everything is told to let go that it tells.
fn release(supervisor: &mut Supervisor) {
    let (process, _its) = gateway("");
    let pid = process.pid;
    supervisor.current = Some(process);
    supervisor.start_release();
    wait(supervisor, |s| s.next_release.is_none() && !s.bypasses.is_releasing());
    supervisor.current = None;
    end(pid);
}

fn hangs(what: &str) -> String {
    format!(
        "fail = \"open\"\nbypass-command = [\"/bin/sh\", \"-c\", \"case $0 in {what}) sleep 600;; esac\"]\n"
    )
}

#[test]
fn relays_that_nothing_tells_to_let_go_stay_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let mut before = supervisor(dir.path(), &open(dir.path()));
    before.bypass("it crashed", Duration::MAX);
    let socket = before.config.control_socket.clone();
    let mut closed = supervisor(dir.path(), &text(dir.path(), CLOSED));
    release(&mut closed);
    let written = Bypassed::read(&socket).expect("they are engaged still");
    assert_eq!((written.wires, written.by.as_str()), (vec!["w".to_owned()], "the supervisor"));
    release(&mut before);
    assert_eq!(Bypassed::read(&socket), None);
    assert_eq!(said(dir.path()), "engage\nrelease\n");
}

#[test]
fn relays_that_were_told_and_have_said_nothing_stay_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let mut open = supervisor(dir.path(), &text(dir.path(), &hangs("engage")));
    let socket = open.config.control_socket.clone();
    open.bypass("it crashed", Duration::ZERO);
    let written = Bypassed::read(&socket).expect("ahead of its answer");
    assert_eq!((written.wires, written.relays), (Vec::new(), vec!["w".to_owned()]));
    wait(&mut open, |supervisor| supervisor.engaging.is_none());
    assert!(open.history.last.as_ref().is_some_and(|last| last.contains("cut")));
    let mut closed = supervisor(dir.path(), &text(dir.path(), CLOSED));
    release(&mut closed);
    assert_eq!(Bypassed::read(&socket).map(|by| by.may_pass()), Some(vec!["w".to_owned()]));
    release(&mut open);
    assert_eq!(Bypassed::read(&socket), None);
}

#[test]
fn relays_of_a_wire_that_another_configuration_closes_let_go_beside_the_next_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(dir.path(), &open(dir.path()));
    supervisor.bypass("it crashed", Duration::MAX);
    let socket = supervisor.config.control_socket.clone();
    std::fs::write(&supervisor.args.config, text(dir.path(), CLOSED)).unwrap();
    assert!(supervisor.take_config());
    assert_eq!(Bypassed::read(&socket).map(|by| by.relays), Some(vec!["w".to_owned()]));
    wait(&mut supervisor, |supervisor| !supervisor.bypasses.is_releasing());
    assert_eq!((Bypassed::read(&socket), supervisor.current.is_none()), (None, true));
    assert_eq!(said(dir.path()), "engage\nrelease\n");
}

#[test]
fn relays_of_a_wire_with_another_name_let_go_before_they_are_engaged_by_that() {
    let dir = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(dir.path(), &open(dir.path()));
    supervisor.bypass("it crashed", Duration::MAX);
    let before = supervisor.config.control_socket.clone();
    let renamed = open(dir.path()).replace("name = \"w\"", "name = \"x\"");
    let renamed = renamed.replace("control.sock", "other.sock");
    std::fs::write(&supervisor.args.config, renamed).unwrap();
    assert!(supervisor.take_config());
    supervisor.bypass("the configuration was changed", Duration::ZERO);
    wait(&mut supervisor, |supervisor| supervisor.engaging.is_none());
    assert_eq!(said(dir.path()), "engage\nrelease\nengage\n");
    let written = Bypassed::read(&supervisor.config.control_socket).map(|by| by.wires);
    assert_eq!((written, Bypassed::read(&before)), (Some(vec!["x".to_owned()]), None));
}

#[test]
fn relays_that_another_program_works_are_said_to_carry_once_it_has_engaged_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(dir.path(), &open(dir.path()));
    supervisor.bypass("it crashed", Duration::MAX);
    let socket = supervisor.config.control_socket.clone();
    let other = open(dir.path()).replace("[ $0", "sleep 0.1; [ $0");
    std::fs::write(&supervisor.args.config, other).unwrap();
    assert!(supervisor.take_config());
    supervisor.bypass("the configuration was changed", Duration::MAX);
    supervisor.look_after();
    assert_eq!(said(dir.path()), "engage\nrelease\nengage\n");
    assert_eq!(Bypassed::read(&socket).map(|by| by.wires), Some(vec!["w".to_owned()]));
    // The older program is the slower one now, and its wire guarded before it has let go.
    std::fs::write(&supervisor.args.config, open(dir.path())).unwrap();
    assert!(supervisor.take_config());
    release(&mut supervisor);
    assert_eq!(Bypassed::read(&socket), None);
}

#[test]
fn a_wire_that_the_successor_closes_is_not_bypassed_by_what_the_file_says() {
    let dir = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(dir.path(), &open(dir.path()));
    let texts = [open(dir.path()), text(dir.path(), CLOSED)];
    let ([pid, heir], _ends) = renewal(&mut supervisor, texts, Phase::Prepares);
    assert_eq!(supervisor.gone(pid), None);
    end(heir);
    assert!(!said(dir.path()).contains("engage"), "{}", said(dir.path()));
    assert_eq!(supervisor.config.open_wires().count(), 0);
}

#[test]
fn relays_carry_until_a_successor_guards_whose_predecessor_died() {
    for phase in [Phase::Prepares, Phase::Closes] {
        let dir = tempfile::tempdir().unwrap();
        let mut supervisor = supervisor(dir.path(), &open(dir.path()));
        let texts = [open(dir.path()), open(dir.path())];
        let ([pid, heir], [_its, its_end]) = renewal(&mut supervisor, texts, phase);
        assert_eq!(supervisor.gone(pid), None);
        let mut told = BufReader::new(its_end).lines().map(|line| line.unwrap());
        let history = told.next().unwrap();
        assert!(history.contains("\"crashes\":1") && history.contains("it ended by itself"));
        assert_eq!(told.next().as_deref(), Some("\"take-over\""));
        wait(&mut supervisor, |_| said(dir.path()).contains("engage"));
        assert_eq!(supervisor.history.bypasses, 1, "{phase:?}");
        assert_eq!(supervisor.current.as_ref().map(|process| process.pid), Some(heir));
        supervisor.hear(heir, Said::Guards);
        wait(&mut supervisor, |_| said(dir.path()).ends_with("release\n"));
        end(heir);
    }
}

#[test]
fn a_successor_that_was_given_the_ports_of_a_dead_one_and_does_not_open_them_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(dir.path(), &open(dir.path()));
    let texts = [open(dir.path()), open(dir.path())];
    let ([pid, heir], _ends) = renewal(&mut supervisor, texts, Phase::Closes);
    assert_eq!(supervisor.gone(pid), None);
    let hung = |supervisor: &Supervisor| supervisor.current.as_ref().unwrap().hung.is_some();
    supervisor.look_after();
    assert!(!hung(&supervisor));
    let process = supervisor.current.as_mut().unwrap();
    assert!(process.guards_until.is_some_and(|until| until <= Instant::now() + HANDOVER_LIMIT));
    process.guards_until = Instant::now().checked_sub(HANDOVER_LIMIT);
    supervisor.look_after();
    assert!(hung(&supervisor));
    assert_eq!(supervisor.gone(heir), None);
    assert_eq!(supervisor.history.hangs, 1);
    assert!(supervisor.current.is_none() && supervisor.next_start <= Instant::now());
}

#[test]
fn relays_that_do_not_let_go_keep_nobody_from_hearing_of_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let lines = hangs("release");
    let mut supervisor = supervisor(dir.path(), &text(dir.path(), &lines));
    let (mut process, _its) = gateway("");
    let pid = process.pid;
    process.guards = None;
    supervisor.current = Some(process);
    let begun = Instant::now();
    supervisor.bypass("it starts", Duration::MAX);
    supervisor.hear(pid, Said::Guards);
    supervisor.look_after();
    assert!(supervisor.bypasses.is_releasing() && !supervisor.can_renew_itself());
    assert_eq!(supervisor.gone(pid), None);
    wait(&mut supervisor, |supervisor| supervisor.engaging.is_none());
    assert!(begun.elapsed() < COMMAND_LIMIT, "{:?}", begun.elapsed());
    assert!(supervisor.history.last.as_ref().is_some_and(|last| last.ends_with("unjudged: w")));
    assert_eq!(supervisor.history.bypasses, 2, "each is counted");
}

#[test]
fn a_gateway_that_does_not_end_keeps_nobody_from_hearing_of_its_successor() {
    let dir = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(dir.path(), &text(dir.path(), CLOSED));
    let texts = [String::new(), String::new()];
    let ([pid, heir], _ends) = renewal(&mut supervisor, texts, Phase::Closes);
    let begun = Instant::now();
    supervisor.hear(pid, Said::Closed);
    supervisor.hear(heir, Said::Guards);
    supervisor.look_after();
    assert!(begun.elapsed() < COMMAND_LIMIT, "{:?}", begun.elapsed());
    assert_eq!(supervisor.current.as_ref().map(|process| process.pid), Some(heir));
    assert!(!supervisor.can_renew_itself(), "the renewed program would not know of the old one");
    end(pid);
    supervisor.look_after();
    assert!(supervisor.can_renew_itself());
    supervisor.current.as_mut().unwrap().retired = true;
    assert!(!supervisor.can_renew_itself(), "it would not know that another is to take over");
    end(heir);
}

#[test]
fn ports_that_are_closed_behind_a_successor_that_was_given_up_are_bypassed() {
    let dir = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(dir.path(), &open(dir.path()));
    let texts = [open(dir.path()), open(dir.path())];
    let ([pid, heir], _ends) = renewal(&mut supervisor, texts, Phase::Closes);
    assert_eq!(supervisor.gone(heir), None);
    supervisor.hear(pid, Said::Closed);
    assert_eq!(supervisor.gone(pid), None);
    wait(&mut supervisor, |_| said(dir.path()).contains("engage"));
    assert_eq!((supervisor.history.bypasses, supervisor.history.hangs), (1, 1));
    end(heir);
}

#[test]
fn what_a_supervisor_has_yet_to_hear_is_heard_before_it_renews_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(dir.path(), &open(dir.path()));
    let (process, _its) = gateway("");
    let pid = process.pid;
    assert!(!supervisor.can_renew_itself(), "nobody guards");
    supervisor.current = Some(process);
    assert!(supervisor.can_renew_itself());
    for event in [Event::Said(pid, Said::Alive), Event::Gone(pid)] {
        supervisor.sender.send(event).unwrap();
    }
    supervisor.renew_itself();
    assert!(supervisor.next_renewal_of_itself.is_some(), "it is tried again");
    assert!(matches!(supervisor.events.try_recv(), Ok(Event::Said(_, Said::Alive))));
    assert!(matches!(supervisor.events.try_recv(), Ok(Event::Gone(gone)) if gone == pid));
    supervisor.sender.send(Event::Said(pid, Said::Alive)).unwrap();
    supervisor.renew_itself();
    assert!(supervisor.next_renewal_of_itself.is_none(), "there is no such program");
    end(pid);
}

#[test]
fn relays_that_hang_do_not_keep_the_next_gateway_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let text = text(dir.path(), &hangs("*"));
    let mut supervisor = supervisor(dir.path(), &text);
    let (old, _its) = gateway(&text);
    let pid = old.pid;
    supervisor.current = Some(old);
    let begun = Instant::now();
    assert_eq!(supervisor.gone(pid), None);
    assert!(supervisor.next_start <= Instant::now());
    assert!(begun.elapsed() < COMMAND_LIMIT, "{:?}", begun.elapsed());
    // They may carry everything from now on.
    assert_eq!(supervisor.history.bypasses, 1);
    wait(&mut supervisor, |supervisor| {
        supervisor.history.last.as_ref().is_some_and(|last| last.contains("cut"))
    });
}

#[test]
fn relays_that_take_a_while_are_said_to_carry_once_they_do() {
    let dir = tempfile::tempdir().unwrap();
    let slow = "fail = \"open\"\nbypass-command = [\"/bin/sh\", \"-c\", \"sleep 1\"]\n";
    let mut supervisor = supervisor(dir.path(), &text(dir.path(), slow));
    let socket = supervisor.config.control_socket.clone();
    let carried = || Bypassed::read(&socket).map_or_else(Vec::new, |written| written.wires);
    supervisor.bypass("it crashed", PATIENCE);
    assert_eq!(carried(), Vec::<String>::new());
    wait(&mut supervisor, |_| carried() == ["w"]);
    assert_eq!(supervisor.history.bypasses, 1, "one bypass");
    // A gateway that guards before they have said so has them let go all the same.
    supervisor.bypass("it crashed again", PATIENCE);
    release(&mut supervisor);
    assert_eq!((Bypassed::read(&socket), supervisor.engaging.take()), (None, None));
}

#[test]
fn a_supervisor_goes_by_the_text_of_the_renewed_gateway_before_it_renews_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(dir.path(), &open(dir.path()));
    let (new, _end) = gateway(&text(dir.path(), CLOSED));
    let pid = new.pid;
    supervisor.successor = Some(successor(new, Phase::Opens));
    supervisor.change_places();
    assert_eq!(supervisor.config.open_wires().count(), 0);
    assert!(supervisor.bypasses.is_empty(), "its death opens nothing");
    wait(&mut supervisor, |_| said(dir.path()) == "release\n");
    end(pid);
}

#[test]
fn relays_of_a_wire_that_comes_with_a_renewal_are_told_to_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(dir.path(), &text(dir.path(), CLOSED));
    let (new, _end) = gateway(&open(dir.path()));
    let pid = new.pid;
    supervisor.successor = Some(successor(new, Phase::Opens));
    supervisor.change_places();
    wait(&mut supervisor, |_| said(dir.path()) == "release\n");
    end(pid);
}

#[test]
fn relays_carry_from_the_moment_that_a_gateway_hangs_whether_or_not_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(dir.path(), &open(dir.path()));
    let (process, _its) = gateway(&open(dir.path()));
    let pid = process.pid;
    supervisor.current = Some(process);
    supervisor.next_release = Some(Instant::now());
    supervisor.hear(pid, Said::Hangs("worker 0 stands still".to_owned()));
    // Nobody says that it has ended.
    wait(&mut supervisor, |supervisor| supervisor.engaging.is_none());
    assert_eq!((said(dir.path()).as_str(), supervisor.history.bypasses), ("engage\n", 1));
    supervisor.look_after();
    assert_eq!(said(dir.path()), "engage\n", "nobody judges");
    assert_eq!(supervisor.gone(pid), None);
    assert_eq!((supervisor.history.bypasses, supervisor.history.hangs), (1, 1));
}

#[test]
fn relays_that_fail_are_told_again_while_nobody_guards() {
    let dir = tempfile::tempdir().unwrap();
    let there = dir.path().join("there");
    let failing = format!(
        "fail = \"open\"\nbypass-command = [\"/bin/sh\", \"-c\", \"[ -e {} ]\"]\n",
        there.display()
    );
    let mut supervisor = supervisor(dir.path(), &text(dir.path(), &failing));
    let socket = supervisor.config.control_socket.clone();
    supervisor.bypass("no gateway runs yet", Duration::MAX);
    assert_eq!(Bypassed::read(&socket).map(|by| by.wires), Some(Vec::new()));
    std::fs::write(there, "").unwrap();
    wait(&mut supervisor, |_| Bypassed::read(&socket).is_some_and(|by| by.wires == ["w"]));
    assert_eq!(supervisor.history.bypasses, 1);
}

#[test]
fn a_program_is_run_once_while_the_relays_of_another_wire_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let other = |name: &str| {
        open(dir.path())
            .replace("name = \"w\"", &format!("name = \"{name}\""))
            .replace("net_ring", &format!("net_ring_{name}"))
    };
    let slow = other("v").replace("/bin/sh", "/bin/dash").replace("[ $0", "sleep 0.3; [ $0");
    let both = format!("{}{}", open(dir.path()), &slow[slow.find("[[wire]]").unwrap()..]);
    let mut supervisor = supervisor(dir.path(), &both);
    std::fs::write(&supervisor.args.config, open(dir.path())).unwrap();
    assert!(supervisor.take_config());
    supervisor.bypass("the configuration was changed", Duration::MAX);
    assert_eq!(said(dir.path()).matches("engage").count(), 1, "{}", said(dir.path()));
}

#[test]
fn a_reload_that_is_asked_for_too_early_is_passed_on_to_the_gateway_that_guards() {
    let dir = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(dir.path(), &text(dir.path(), CLOSED));
    let texts = [String::new(), String::new()];
    let ([pid, heir], _ends) = renewal(&mut supervisor, texts, Phase::TakesOver);
    supervisor.reload();
    thread::sleep(TICK);
    assert_eq!((ended(pid), ended(heir)), (None, None), "neither would hear it");
    supervisor.change_places();
    // What stands for it is ended by the signal.
    let begun = Instant::now();
    while ended(heir).is_none() {
        assert!(begun.elapsed() < END_LIMIT);
        thread::sleep(TICK);
    }
    end(pid);
}
