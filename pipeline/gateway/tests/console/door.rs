//! The console's door: what comes over a socket before anybody is known, and clients that dawdle, send too
//! much or hang up.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bulkhead_gateway::console::access::Role;
use bulkhead_gateway::console::{api, serve};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Builder, Runtime};

use crate::common::{PATIENCE, wait};
use crate::site::{PASSWORD, Site, Visitor};

/// A console that listens.
struct Door {
    address: SocketAddr,
    runtime: Runtime,
}

impl Door {
    fn of(site: &Site) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let router = api::router(&site.console);
        runtime.spawn(serve::serve(listener, None, Arc::clone(&site.console), router));
        Self { address, runtime }
    }

    /// A connection from 127.0.0.`host`.
    fn connect(&self, host: u8) -> TcpStream {
        let from = SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0));
        let connected = self.runtime.block_on(async {
            let socket = TcpSocket::new_v4()?;
            socket.bind(from)?;
            socket.connect(self.address).await?.into_std()
        });
        let stream = connected.unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Asks one thing from there. Returns status, head and body.
    fn ask(&self, host: u8, request: &str) -> (u16, String, String) {
        let mut stream = self.connect(host);
        stream.write_all(request.as_bytes()).unwrap();
        answer(&mut stream)
    }
}

/// A request whose body has the length that it says.
fn request(method: &str, path: &str, who: &Visitor, body: &str) -> String {
    head(method, path, who, body.len()) + body
}

fn head(method: &str, path: &str, who: &Visitor, length: usize) -> String {
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nhost: console.example\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n"
    );
    for (name, value) in &who.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head + "\r\n"
}

fn log_in(user: &str, password: &str) -> String {
    let body = format!(r#"{{"user": "{user}", "password": "{password}"}}"#);
    request("POST", "/api/v1/login", &Visitor::default(), &body)
}

fn answer(stream: &mut TcpStream) -> (u16, String, String) {
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&read).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                return (status, head.clone(), body.to_owned());
            }
        }
        let count = stream.read(&mut buffer).expect("an answer in time");
        assert!(count > 0, "it ended after {text:?}");
        read.extend_from_slice(&buffer[..count]);
    }
}

#[test]
fn who_dawdles_over_a_body_holds_up_nobody() {
    let site = Site::new();
    let door = Door::of(&site);
    let operator = site.visitor(Role::Operator);
    let begin = |host: u8| {
        let mut stream = door.connect(host);
        let head = head("POST", "/api/v1/login", &Visitor::default(), 1000);
        stream.write_all((head + "{").as_bytes()).unwrap();
        stream
    };
    // More than there are places for all, and from one source more than one may ask at a time.
    let mut slow: Vec<TcpStream> = (0..40).flat_map(|_| [begin(9), begin(10)]).collect();
    std::thread::sleep(Duration::from_millis(100));
    for host in [2, 9, 10] {
        let (status, _, body) = door.ask(host, &request("GET", "/api/v1/session", &operator, ""));
        assert_eq!(status, 200, "from 127.0.0.{host}: {body}");
    }
    let (status, ..) = answer(&mut slow[0]);
    assert_eq!(status, 408, "and it ends");
}

#[test]
fn what_strangers_send_is_short() {
    let site = Site::new();
    let door = Door::of(&site);
    let nobody = Visitor::default();
    for path in ["/api/v1/login", "/api/v1/setup", "/api/v1/users"] {
        // It is refused for what it says, before any of it comes.
        let (status, ..) = door.ask(9, &head("POST", path, &nobody, 100 << 10));
        assert_eq!(status, 413, "{path}");
    }
    let (status, ..) = door.ask(9, &head("POST", "/api/v1/policy/check", &nobody, 10 << 20));
    assert_eq!(status, 401, "a policy may be long, and only who is known sends one");
    // What does not say how long it is ends where it becomes too long.
    let mut stream = door.connect(9);
    let chunk = "x".repeat(16 << 10);
    let mut sent = stream.write_all(
        b"POST /api/v1/login HTTP/1.1\r\nhost: console.example\r\n\
          content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
    );
    for _ in 0..20 {
        sent = sent.and_then(|()| write!(stream, "{:x}\r\n{chunk}\r\n", chunk.len()));
    }
    // Whoever still sends may find the connection closed before the answer is read.
    let mut start = [0; 12];
    let refused = match sent.and_then(|()| stream.read_exact(&mut start)) {
        Ok(()) => start == *b"HTTP/1.1 413",
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    };
    assert!(refused, "a body without an end is taken: {}", String::from_utf8_lossy(&start));
    let long = "x".repeat(2000);
    let (status, ..) = door.ask(9, &log_in("ada", &long));
    assert_eq!(status, 400, "no password is that long");
}

#[test]
fn guesses_count_though_nobody_waits_for_the_answer() {
    let site = Site::new();
    let door = Door::of(&site);
    site.visitor(Role::Operator);
    let source = Ipv4Addr::new(127, 0, 0, 9).into();
    let throttle = &site.console.access.throttle;
    let waits = || throttle.check(source, Some("the.operator"), Instant::now()).is_err();
    let mut guesses = 0;
    wait("guesses are counted", || {
        if !waits() {
            let mut stream = door.connect(9);
            stream.write_all(log_in("the.operator", "not the password").as_bytes()).unwrap();
            guesses += 1;
        }
        waits()
    });
    assert!(guesses >= 5, "the first ones cost nothing: {guesses}");
    let (status, head, _) = door.ask(9, &log_in("the.operator", PASSWORD));
    assert_eq!(status, 429);
    assert!(head.contains("retry-after: "), "{head}");
}

#[test]
fn guesses_at_once_are_as_few_as_one_by_one() {
    let site = Site::new();
    let door = Door::of(&site);
    site.visitor(Role::Operator);
    let mut guessers: Vec<TcpStream> = (0..30).map(|_| door.connect(9)).collect();
    for guesser in &mut guessers {
        guesser.write_all(log_in("the.operator", "not the password").as_bytes()).unwrap();
    }
    let answers: Vec<u16> = guessers.iter_mut().map(|guesser| answer(guesser).0).collect();
    let judged = answers.iter().filter(|status| **status == 401).count();
    // Five cost nothing, and two are hashed at a time.
    assert!((1..=6).contains(&judged), "{answers:?}");
    assert!(answers.iter().all(|status| [401, 429].contains(status)), "{answers:?}");
}

#[test]
fn who_hangs_up_does_not_free_the_place_of_work_that_goes_on() {
    let site = Site::new();
    let door = Door::of(&site);
    let free = || site.console.heavy.available_permits();
    let all = free();
    let (end, wait_for_end) = mpsc::channel::<()>();
    door.runtime.block_on(async {
        let work = api::heavy(&site.console, move || Ok(wait_for_end.recv()));
        let left = tokio::time::timeout(Duration::from_millis(50), work).await;
        assert!(left.is_err(), "it is still at it");
    });
    assert_eq!(free(), all - 1);
    end.send(()).unwrap();
    wait("its place is free again", || free() == all);
}

#[test]
fn who_hangs_up_during_a_change_is_in_the_audit_log() {
    let site = Site::new();
    let door = Door::of(&site);
    let admin = site.visitor(Role::Admin);
    site.visitor(Role::Viewer);
    let change = format!(r#"{{"role": "operator", "password": "{PASSWORD} too"}}"#);
    let change = request("PATCH", "/api/v1/users/the.viewer", &admin, &change);
    let role = || site.console.access.users.find("the.viewer").unwrap().unwrap().role;
    wait("the role is changed", || {
        if role() == Role::Viewer {
            let mut stream = door.connect(9);
            stream.write_all(change.as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(2));
            drop(stream);
            std::thread::sleep(Duration::from_millis(50));
        }
        role() == Role::Operator
    });
    wait("the change is entered", || {
        let audit = site.get("/audit", &admin).body;
        let entries = audit["entries"].as_array().unwrap();
        entries.iter().any(|entry| {
            let detail = entry["detail"].as_str().unwrap();
            detail.contains("the.viewer") && detail.contains("operator")
        })
    });
}

#[test]
fn every_answer_says_what_browsers_may_do_with_it() {
    let site = Site::new();
    let door = Door::of(&site);
    let operator = site.visitor(Role::Operator);
    for (path, who, wanted) in [
        ("/", &Visitor::default(), 0),
        ("/api/v1/session", &Visitor::default(), 401),
        ("/api/v1/session", &operator, 200),
        ("/api/v1/nowhere", &operator, 404),
    ] {
        let (status, head, _) = door.ask(2, &request("GET", path, who, ""));
        assert!(wanted == 0 || status == wanted, "{path}: {status}");
        for header in [
            "content-security-policy: default-src 'none'; script-src 'self';",
            "x-content-type-options: nosniff",
            "x-frame-options: deny",
            "referrer-policy: no-referrer",
            "cross-origin-opener-policy: same-origin",
        ] {
            assert!(head.contains(header), "{path} lacks {header}: {head}");
        }
        let kept_by_nobody = head.contains("cache-control: no-store");
        assert!(kept_by_nobody || path == "/", "{path}: {head}");
    }
}
