//! The gateway against `dpdk-testpmd`: the same pair of DPDK devices, the same frames, one core.
//!
//! Frames come from `net_pcap`, which replays a capture from memory for ever, and go to `net_null`,
//! so that neither a wire nor the kernel sets the pace; or they go round a pair of devices for ever, see
//! [`circle`]. `testpmd` in `io` mode moves buffers and looks at nothing: it is the floor that the
//! drivers themselves cost. In `macswap` mode it exchanges the addresses of each frame.
//!
//! The rate is packets by the forwarding thread's processor time, not by the clock on the wall: a
//! machine that has other work slows all contenders, and this leaves their time out. Caches that
//! others use are still felt, so contenders take turns and medians are compared.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bulkhead_pipeline::worker::Stage;
use serde::Serialize;

use crate::machine::{self, Machine, median};
use crate::tsc;

mod circle;

use circle::Circle;

/// What to measure, and with what.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// The gateway's binary, built for release.
    #[arg(long, default_value = "target/release/bulkhead")]
    pub gateway: PathBuf,
    /// The policy that the gateway enforces.
    #[arg(long, default_value = "deploy/examples/plant-line.yaml")]
    pub policy: PathBuf,
    /// Devices: `pcap` (from a capture in memory to nowhere), `memif`, `ring` (frames go round).
    #[arg(long, value_enum, value_delimiter = ',', default_value = "pcap,memif,ring")]
    devices: Vec<Devices>,
    /// How often each contender runs for each kind of traffic.
    #[arg(long, default_value_t = 5)]
    pub repeat: usize,
    /// How long one run is measured, after two seconds that are not.
    #[arg(long, default_value_t = 4)]
    pub seconds: u64,
    /// The core that forwards. Core 0 has everything else.
    #[arg(long, default_value_t = 1)]
    pub core: usize,
    /// Where the results go as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Where `perf report` of one run of the gateway for each kind of traffic goes.
    #[arg(long)]
    pub profile: Option<PathBuf>,
    /// What runs as a process of its own: a worker on devices on which frames go round.
    #[arg(long, hide = true, requires = "folder")]
    forward: Option<Circle>,
    /// Its folder for a socket.
    #[arg(long, hide = true)]
    folder: Option<PathBuf>,
    /// Whether it takes the time of each stage.
    #[arg(long, hide = true)]
    staged: bool,
}

/// On what to measure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Devices {
    /// `net_pcap` to `net_null`, in one direction.
    Pcap,
    /// Two `net_memif`, each the other's other end, in both.
    Memif,
    /// Two `net_ring`, each its own other end, in both.
    Ring,
}

/// One kind of traffic.
#[derive(Clone, Copy, Debug)]
struct Traffic {
    name: &'static str,
    devices: Devices,
    flows: u16,
    permitted: bool,
}

/// UDP between the two controllers of the example policy, or from a stranger to one of them; and as
/// many frames that go round as their rings hold well.
const TRAFFIC: [Traffic; 5] = [
    Traffic {
        name: "pcap, permitted, 1,024 flows",
        devices: Devices::Pcap,
        flows: 1_024,
        permitted: true,
    },
    Traffic {
        name: "pcap, permitted, 16,384 flows",
        devices: Devices::Pcap,
        flows: 16_384,
        permitted: true,
    },
    Traffic {
        name: "pcap, denied, 1,024 flows",
        devices: Devices::Pcap,
        flows: 1_024,
        permitted: false,
    },
    Traffic {
        name: "memif, 512 flows both ways",
        devices: Devices::Memif,
        flows: 512,
        permitted: true,
    },
    Traffic {
        name: "ring, 512 flows both ways",
        devices: Devices::Ring,
        flows: 512,
        permitted: true,
    },
];

impl Traffic {
    fn circle(&self) -> Option<Circle> {
        match self.devices {
            Devices::Pcap => None,
            Devices::Memif => Some(Circle::Memif),
            Devices::Ring => Some(Circle::Ring),
        }
    }

    /// Those that can be compared. The gateway's binary has no means to put the first frames on devices
    /// on which they go round: there its worker runs in a process of this program.
    fn contenders(&self) -> &'static [Contender] {
        match self.devices {
            Devices::Pcap => {
                &[Contender::Io, Contender::Macswap, Contender::Enforce, Contender::Observe]
            }
            Devices::Memif | Devices::Ring => {
                &[Contender::Io, Contender::Macswap, Contender::Worker]
            }
        }
    }
}

/// Who forwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Contender {
    Io,
    Macswap,
    Enforce,
    Observe,
    Worker,
    /// The same with a reading of the time-stamp counter after each stage of each burst: not compared.
    StagedWorker,
}

impl Contender {
    fn name(self) -> &'static str {
        match self {
            Self::Io => "testpmd io",
            Self::Macswap => "testpmd macswap",
            Self::Enforce => "bulkhead enforce",
            Self::Observe => "bulkhead observe",
            Self::Worker | Self::StagedWorker => "bulkhead worker",
        }
    }
}

/// One measured run.
#[derive(Clone, Copy, Debug, Serialize)]
struct Run {
    packets: u64,
    busy_ns: u64,
    wall_ns: u64,
}

impl Run {
    /// Packets per second of processor time.
    fn rate(&self) -> f64 {
        self.packets as f64 * 1e9 / self.busy_ns as f64
    }
}

/// One line of the result.
#[derive(Debug, Serialize)]
struct Outcome {
    traffic: &'static str,
    contender: &'static str,
    packets_per_core_second: f64,
    cycles_per_packet: f64,
    ratio_to_io: f64,
    ratio_to_macswap: f64,
    /// Cycles a packet by stage, of a run of its own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    stages: BTreeMap<String, f64>,
    runs: Vec<Run>,
}

/// Everything, as it is written to the file.
#[derive(Debug, Serialize)]
struct Results {
    machine: Machine,
    frame_bytes: usize,
    seconds: u64,
    outcomes: Vec<Outcome>,
}

/// Measures all contenders in turns and prints a table.
///
/// # Errors
///
/// A program is missing or says something unexpected, or a file cannot be written.
pub fn run(options: &Options) -> io::Result<()> {
    if let (Some(circle), Some(folder)) = (options.forward, &options.folder) {
        return circle::forward(circle, folder, options.core, options.staged);
    }
    let folder = tempfile::tempdir()?;
    let load_before = machine::load();
    let mut outcomes = Vec::new();
    let chosen = |traffic: &&Traffic| options.devices.contains(&traffic.devices);
    for traffic in TRAFFIC.iter().filter(chosen) {
        let place = Bench { traffic, folder: folder.path(), options };
        fs::write(place.capture(), capture_of(*traffic))?;
        let contenders = traffic.contenders();
        let mut runs = vec![Vec::new(); contenders.len()];
        for round in 0..options.repeat {
            for (contender, runs) in contenders.iter().zip(&mut runs) {
                let (run, _) = place.measure(*contender, None)?;
                eprintln!("{}, {}, round {}: {run:?}", traffic.name, contender.name(), round + 1);
                runs.push(run);
            }
        }
        let mut summary = summarise(traffic, runs);
        if let (Some(_), Some(last)) = (traffic.circle(), summary.last_mut()) {
            last.stages = place.measure(Contender::StagedWorker, None)?.1;
        }
        outcomes.extend(summary);
        if let (Some(profile), None) = (&options.profile, traffic.circle()) {
            let report =
                profile.with_extension(format!("{}.txt", traffic.name.replace([',', ' '], "")));
            place.measure(Contender::Enforce, Some(&report))?;
            println!("profile: {}", report.display());
        }
    }
    let results = Results {
        machine: Machine::read(load_before)?,
        frame_bytes: FRAME_BYTES,
        seconds: options.seconds,
        outcomes,
    };
    print(&results);
    if let Some(path) = &options.json {
        fs::write(path, serde_json::to_vec_pretty(&results)?)?;
    }
    Ok(())
}

fn summarise(traffic: &Traffic, runs: Vec<Vec<Run>>) -> Vec<Outcome> {
    let hertz = machine::processor_mhz() * 1e6;
    let rates: Vec<f64> =
        runs.iter().map(|runs| median(runs.iter().map(Run::rate).collect())).collect();
    let ratio = |rate: f64, to: usize| rates.get(to).map_or(f64::NAN, |other| rate / other);
    traffic
        .contenders()
        .iter()
        .zip(runs)
        .zip(&rates)
        .map(|((contender, runs), &rate)| Outcome {
            traffic: traffic.name,
            contender: contender.name(),
            packets_per_core_second: rate,
            cycles_per_packet: hertz / rate,
            ratio_to_io: ratio(rate, 0),
            ratio_to_macswap: ratio(rate, 1),
            stages: BTreeMap::new(),
            runs,
        })
        .collect()
}

fn print(results: &Results) {
    let Machine { processor, kernel, dpdk, commit, load_before, .. } = &results.machine;
    println!(
        "{processor}, Linux {kernel}, {dpdk}, commit {commit}, load {load_before} at the start"
    );
    println!(
        "{:<30} {:<18} {:>10} {:>12} {:>8} {:>11}",
        "traffic", "contender", "Mpps/core", "cycles/pkt", "of io", "of macswap"
    );
    for outcome in &results.outcomes {
        println!(
            "{:<30} {:<18} {:>10.2} {:>12.0} {:>7.0}% {:>10.0}%",
            outcome.traffic,
            outcome.contender,
            outcome.packets_per_core_second / 1e6,
            outcome.cycles_per_packet,
            outcome.ratio_to_io * 100.0,
            outcome.ratio_to_macswap * 100.0,
        );
        if !outcome.stages.is_empty() {
            let stages: Vec<String> = (outcome.stages.iter())
                .map(|(stage, cycles)| format!("{stage} {cycles:.0}"))
                .collect();
            println!("{:<30} cycles by stage: {}", "", stages.join(", "));
        }
    }
}

/// One kind of traffic, about to be measured.
struct Bench<'a> {
    traffic: &'a Traffic,
    folder: &'a Path,
    options: &'a Options,
}

impl Bench<'_> {
    fn capture(&self) -> PathBuf {
        self.folder.join("traffic.pcap")
    }

    /// The two devices.
    fn devices(&self) -> [String; 2] {
        match self.traffic.circle() {
            Some(circle) => circle.devices(self.folder),
            None => [source(&self.capture()), SINK.to_owned()],
        }
    }

    fn start(&self, contender: Contender) -> io::Result<Process> {
        // A predecessor's socket, which nobody listens to.
        let _ = fs::remove_file(self.folder.join("memif.sock"));
        match (contender, self.traffic.circle()) {
            (Contender::Io, _) => Process::testpmd("io", self),
            (Contender::Macswap, _) => Process::testpmd("macswap", self),
            (Contender::Worker, Some(circle)) => Process::worker(circle, self, false),
            (Contender::StagedWorker, Some(circle)) => Process::worker(circle, self, true),
            (Contender::Observe, _) => Process::gateway("observe", self),
            (Contender::Enforce | Contender::Worker | Contender::StagedWorker, _) => {
                Process::gateway("enforce", self)
            }
        }
    }

    /// Runs a contender once; with `profile`, lets `perf` watch it and writes its report there. Returns
    /// the cycles of its stages as well, where it tells.
    fn measure(
        &self,
        contender: Contender,
        profile: Option<&Path>,
    ) -> io::Result<(Run, BTreeMap<String, f64>)> {
        let seconds = self.options.seconds;
        let mut process = self.start(contender)?;
        process.wait_until_forwarding()?;
        let warming = process.sample()?;
        thread::sleep(Duration::from_secs(2));
        let before = process.sample()?;
        let begin = Instant::now();
        if let Some(path) = profile {
            process.profile(before.busiest_since(&warming.threads)?, seconds, path)?;
        } else {
            thread::sleep(Duration::from_secs(seconds));
        }
        let after = process.sample()?;
        let thread = after.busiest_since(&before.threads)?;
        let run = Run {
            packets: after.packets - before.packets,
            busy_ns: after.busy_of(thread) - before.busy_of(thread),
            wall_ns: begin.elapsed().as_nanos() as u64,
        };
        Ok((run, after.stages_since(&before)))
    }
}

/// Packets so far, and the processor time of every thread so far.
struct Sample {
    packets: u64,
    threads: Vec<(u32, u64)>,
    /// Ticks of each stage so far, where the contender tells.
    stages: Vec<u64>,
}

impl Sample {
    /// Cycles a packet since `before`, less what it costs to tell. A processor that others use as well
    /// stops a stage in its middle, and the time counts for it: read them as shares there.
    fn stages_since(&self, before: &Self) -> BTreeMap<String, f64> {
        let packets = (self.packets - before.packets).max(1) as f64;
        let telling = tsc::cost() as f64 / 64.0;
        let ticks = self.stages.iter().zip(&before.stages).map(|(after, before)| after - before);
        Stage::ALL
            .iter()
            .zip(ticks)
            .map(|(stage, ticks)| {
                (format!("{stage:?}").to_lowercase(), (ticks as f64 / packets - telling).max(0.0))
            })
            .collect()
    }

    fn busy_of(&self, thread: u32) -> u64 {
        self.threads.iter().find(|(id, _)| *id == thread).map_or(0, |(_, busy)| *busy)
    }

    /// The thread that has worked most since `before`: the one that forwards.
    fn busiest_since(&self, before: &[(u32, u64)]) -> io::Result<u32> {
        let since = |(id, busy): &(u32, u64)| {
            let earlier = before.iter().find(|(other, _)| other == id).map_or(0, |(_, busy)| *busy);
            busy.saturating_sub(earlier)
        };
        self.threads
            .iter()
            .max_by_key(|thread| since(thread))
            .map(|(id, _)| *id)
            .ok_or_else(|| io::Error::other("the contender has ended"))
    }
}

/// A contender that runs; ended when dropped.
struct Process {
    child: Child,
    answers: Answers,
}

/// How a contender tells what it did.
enum Answers {
    /// testpmd, on its standard output.
    Testpmd(BufReader<ChildStdout>),
    /// A worker, one line of numbers for each question.
    Worker(BufReader<ChildStdout>),
    /// The gateway, over HTTP.
    Metrics,
}

/// Where the gateway's metrics are during a run.
const METRICS: &str = "127.0.0.1:9631";

impl Process {
    fn testpmd(mode: &str, bench: &Bench<'_>) -> io::Result<Self> {
        let [first, second] = bench.devices();
        let goes_round = bench.traffic.circle().is_some();
        let buffers = if goes_round { circle::BUFFERS } else { 65_536 };
        // By lines, because its output goes to a pipe.
        let mut child = Command::new("stdbuf")
            .args(["--output=L", "dpdk-testpmd"])
            .args(["--in-memory", "--no-pci", "--no-telemetry", "--iova-mode=va"])
            .arg(format!("--lcores=0@0,1@{}", bench.options.core))
            .arg(format!("--vdev={first}"))
            .arg(format!("--vdev={second}"))
            .args(["--", "--interactive", "--burst=64", "--nb-cores=1", "--txd=1024", "--rxd=1024"])
            .args([&format!("--txpkts={FRAME_BYTES}"), "--txonly-multi-flow", "--mbcache=256"])
            .arg(format!("--total-num-mbufs={buffers}"))
            .arg(format!("--forward-mode={mode}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| said("dpdk-testpmd", &error))?;
        let output = child.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
        let mut process = Self { child, answers: Answers::Testpmd(BufReader::new(output)) };
        if goes_round {
            // Until both ends of the shared memory have met: what is sent before is lost.
            thread::sleep(Duration::from_secs(2));
            process.tell(&format!("start tx_first {}", circle::SEED_BURSTS))?;
        } else {
            process.tell("start")?;
        }
        Ok(process)
    }

    fn worker(circle: Circle, bench: &Bench<'_>, staged: bool) -> io::Result<Self> {
        let circle = clap::ValueEnum::to_possible_value(&circle)
            .ok_or_else(|| io::Error::other("no such devices"))?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["forwarding", "--forward", circle.get_name(), "--folder"])
            .arg(bench.folder)
            .arg(format!("--core={}", bench.options.core))
            .args(staged.then_some("--staged"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
        Ok(Self { child, answers: Answers::Worker(BufReader::new(output)) })
    }

    fn gateway(mode: &str, bench: &Bench<'_>) -> io::Result<Self> {
        let Bench { folder, options, .. } = bench;
        let [first, second] = bench.devices();
        let config = folder.join("gateway.toml");
        let policy = fs::canonicalize(&options.policy)?;
        fs::write(
            &config,
            format!(
                "policy = {policy:?}\nstate-dir = {:?}\ncontrol-socket = {:?}\n\
                 workers = 1\ncores = [{}]\npoll = \"busy\"\n\
                 [[wire]]\nname = \"bench\"\ninside = {first:?}\noutside = {second:?}\nmode = {mode:?}\n\
                 [flows]\ncapacity = 131072\nper-source-limit = 65536\n\
                 [metrics]\nlisten = \"{METRICS}\"\n",
                folder.join("state"),
                folder.join("control.sock"),
                options.core,
            ),
        )?;
        let child = Command::new(&options.gateway)
            .arg("run")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("gateway.log"))?)
            .spawn()
            .map_err(|error| said(&options.gateway.display().to_string(), &error))?;
        Ok(Self { child, answers: Answers::Metrics })
    }

    fn wait_until_forwarding(&mut self) -> io::Result<()> {
        let give_up = Instant::now() + Duration::from_secs(60);
        while Instant::now() < give_up {
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!("a contender ended: {status}")));
            }
            if self.numbers().is_ok_and(|numbers| numbers.first().is_some_and(|&first| first > 0)) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(200));
        }
        Err(io::Error::other("a contender forwards nothing"))
    }

    fn sample(&mut self) -> io::Result<Sample> {
        let numbers = self.numbers()?;
        let mut threads = Vec::new();
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))?.flatten() {
            let Some(id) = task.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // Nanoseconds on a processor, then nanoseconds of waiting for one.
            let times = fs::read_to_string(task.path().join("schedstat"))?;
            let busy = times.split(' ').next().and_then(|busy| busy.parse().ok());
            threads.push((id, busy.ok_or_else(|| io::Error::other("no schedstat"))?));
        }
        let (&packets, stages) =
            numbers.split_first().ok_or_else(|| io::Error::other("a contender has ended"))?;
        Ok(Sample { packets, threads, stages: stages.to_vec() })
    }

    /// Frames received so far, then what the contender tells besides.
    fn numbers(&mut self) -> io::Result<Vec<u64>> {
        match self.answers {
            Answers::Testpmd(_) => self.tell("show port stats all")?,
            Answers::Worker(_) => self.tell("")?,
            Answers::Metrics => {}
        }
        let ended = || io::Error::other("a contender has ended");
        let mut line = String::new();
        match &mut self.answers {
            Answers::Testpmd(output) => {
                let (mut ports, mut sum) = (0, 0);
                while ports < 2 {
                    line.clear();
                    if output.read_line(&mut line)? == 0 {
                        return Err(ended());
                    }
                    if let Some(rest) = line.trim_start().strip_prefix("RX-packets:") {
                        let count =
                            rest.split_whitespace().next().and_then(|word| word.parse().ok());
                        sum += count.unwrap_or(0_u64);
                        ports += 1;
                    }
                }
                Ok(vec![sum])
            }
            Answers::Worker(output) => {
                output.read_line(&mut line)?;
                let numbers: Option<Vec<u64>> =
                    line.split_whitespace().map(|word| word.parse().ok()).collect();
                numbers.filter(|numbers| !numbers.is_empty()).ok_or_else(ended)
            }
            Answers::Metrics => {
                let page = metrics()?;
                let line = page.lines().find(|line| {
                    line.starts_with("bulkhead_received_packets_total{")
                        && line.contains("port=\"inside\"")
                });
                line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                    .map(|packets| vec![packets as u64])
                    .ok_or_else(|| {
                        io::Error::other("the gateway's metrics have no received packets")
                    })
            }
        }
    }

    fn tell(&mut self, command: &str) -> io::Result<()> {
        let input = self.child.stdin.as_mut().ok_or_else(|| io::Error::other("no input"))?;
        writeln!(input, "{command}")?;
        input.flush()
    }

    fn profile(&self, thread: u32, seconds: u64, to: &Path) -> io::Result<()> {
        let data = to.with_extension("data");
        let perf = |arguments: &[&str]| {
            Command::new("perf")
                .args(arguments)
                .stdin(Stdio::null())
                .output()
                .map_err(|error| said("perf", &error))
        };
        let (thread, seconds, file) =
            (thread.to_string(), seconds.to_string(), data.display().to_string());
        // Virtual machines have no cycle counter: sample by time.
        let record = ["record", "-q", "-e", "cpu-clock", "-F", "1999", "-o", &file, "-t", &thread];
        perf(&[&record[..], &["--", "sleep", &seconds]].concat())?;
        let report =
            ["report", "-i", &file, "--stdio", "-q", "--no-children", "--percent-limit", "0.5"];
        let output = perf(&[&report[..], &["-F", "overhead,dso,symbol"]].concat())?;
        fs::write(to, output.stdout)?;
        fs::remove_file(data)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both end at once; what they hold ends with them.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The device that frames come from. It keeps one buffer for each frame of the capture.
fn source(capture: &Path) -> String {
    format!("net_pcap0,rx_pcap={},infinite_rx=1", capture.display())
}

/// The device that frames go to; by itself it would also invent some.
const SINK: &str = "net_null0,no-rx=1";

fn metrics() -> io::Result<String> {
    let mut stream = TcpStream::connect(METRICS)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {METRICS}\r\nConnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}

/// Bytes of a frame without FCS: the shortest there are.
const FRAME_BYTES: usize = 60;

/// A capture file of one frame for each flow.
fn capture_of(traffic: Traffic) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(word.to_le_bytes());
    }
    for flow in 0..traffic.flows {
        for word in [0, 0, FRAME_BYTES as u32, FRAME_BYTES as u32] {
            file.extend(word.to_le_bytes());
        }
        file.extend(datagram(1_024 + flow, if traffic.permitted { 11 } else { 99 }));
    }
    file
}

/// `10.30.3.{host}:port` to `10.30.3.12:2222`, UDP.
fn datagram(port: u16, host: u8) -> [u8; FRAME_BYTES] {
    let mut frame = [0; FRAME_BYTES];
    frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 12, 2, 0, 0, 0, 0, host, 0x08, 0x00]);
    frame[14..34].copy_from_slice(&[
        0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 30, 3, host, 10, 30, 3, 12,
    ]);
    let words =
        frame[14..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    frame[24..26].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    frame[34..36].copy_from_slice(&port.to_be_bytes());
    frame[36..38].copy_from_slice(&2_222_u16.to_be_bytes());
    frame[38..40].copy_from_slice(&26_u16.to_be_bytes());
    frame
}

fn said(program: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{program}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_valid_and_flows_differ() {
        let words = |frame: &[u8]| -> u32 {
            frame.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
        };
        let frame = datagram(1_024, 11);
        let sum = words(&frame[14..34]);
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "the header's checksum");
        assert_ne!(frame, datagram(1_025, 11));
        let file = capture_of(TRAFFIC[0]);
        assert_eq!(file.len(), 24 + 1_024 * (16 + FRAME_BYTES));
    }

    #[test]
    fn every_stage_has_its_cycles() {
        let sample = |packets, ticks| Sample {
            packets,
            threads: Vec::new(),
            stages: vec![ticks; Stage::ALL.len()],
        };
        let stages = sample(1_100, 1_000_000).stages_since(&sample(100, 0));
        assert_eq!(stages.len(), Stage::ALL.len());
        assert!(stages["parse"] > 900.0 && stages["parse"] <= 1_000.0, "{stages:?}");
    }

    #[test]
    fn the_busiest_thread_is_the_one_that_worked_since() {
        let threads = vec![(1, 900), (2, 500)];
        let sample = Sample { packets: 0, threads, stages: Vec::new() };
        assert_eq!(sample.busiest_since(&[(1, 890), (2, 100)]).ok(), Some(2));
        assert_eq!(sample.busy_of(1), 900);
    }
}
