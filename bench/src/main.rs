//! `bulkhead-bench`: measurements and long verifications.

use std::io;
use std::process::ExitCode;

use bulkhead_bench::classbench::Family;
use bulkhead_bench::verify::{Report, compare};
use bulkhead_bench::{classify, data, forwarding, heap};
use bulkhead_rules::headers::{ETHER_IPV6, Headers};
use bulkhead_rules::packet::in_words;
use bulkhead_rules::policy::Policy;
use clap::{Parser, Subcommand};

#[global_allocator]
static HEAP: heap::Counting = heap::Counting;

#[derive(Parser)]
#[command(about = "Measurements and long verifications of Bulkhead", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compare the classifier with the linear scan on every ClassBench set of the data folder
    /// (BULKHEAD_DATA, by default ../shared) and on the example policies.
    VerifyClassifier {
        /// Packets for each set.
        #[arg(long, default_value_t = 1_000_000)]
        packets: u64,
        /// Packets for each set of 100,000 rules, where the linear scan takes about a millisecond
        /// a packet.
        #[arg(long, default_value_t = 20_000)]
        packets_100k: u64,
        /// Seed of the packets.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Measure the classifier beside librte_acl and tuple space search, on ClassBench sets and on
    /// segmentation policies: the same rules, the same headers, in turns, all answers compared.
    Classify(classify::Options),
    /// Measure the gateway against dpdk-testpmd on the same pair of DPDK devices, in turns. Needs
    /// huge pages, or root, and a release build of the gateway.
    Forwarding(forwarding::Options),
    /// Compare the analysis of policies with the truth of the linear scan, and time it.
    Analysis(bulkhead_bench::analysis::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::VerifyClassifier { packets, packets_100k, seed } => {
            verify_classifier(packets, packets_100k, seed)
        }
        Command::Classify(options) => classify::run(&options),
        Command::Analysis(options) => bulkhead_bench::analysis::run(&options),
        Command::Forwarding(options) => forwarding::run(&options).map(|()| 0),
    };
    match result {
        Ok(0) => ExitCode::SUCCESS,
        Ok(wrong) => {
            println!("{wrong} wrong");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a line for each set, and returns the number of wrong packets.
fn verify_classifier(packets: u64, packets_100k: u64, seed: u64) -> io::Result<u64> {
    println!(
        "{:<30} {:>7} {:>9} {:>9} {:>6} {:>11} {:>10}",
        "set", "rules", "packets", "matched", "wrong", "compile ms", "size KiB"
    );
    let mut wrong = 0;
    let mut run = |name: &str, policy: &Policy, packets, wanted: fn(&Headers) -> bool| {
        let report = compare(policy, packets, seed, wanted).map_err(io::Error::other)?;
        print(name, policy, &report);
        wrong += report.wrong;
        io::Result::Ok(())
    };
    for (name, policy) in data::examples()? {
        run(&name, &policy, packets, |_| true)?;
        run(&format!("{name}, IPv6"), &policy, packets, |h| h.ether_type == ETHER_IPV6)?;
    }
    let Some(folder) = data::folder() else {
        println!("skipped: ClassBench sets: no data folder; BULKHEAD_DATA names it");
        return Ok(wrong);
    };
    for (family, label) in [(Family::V4, ""), (Family::V6, ", IPv6")] {
        for rules in [1_000, 10_000, 100_000] {
            for kind in data::CLASSBENCH_KINDS {
                let policy = data::classbench(&folder, kind, rules, family)?;
                let packets = if rules < 100_000 { packets } else { packets_100k };
                run(&format!("{kind} {rules}{label}"), &policy, packets, |_| true)?;
            }
        }
    }
    Ok(wrong)
}

fn print(name: &str, policy: &Policy, report: &Report) {
    println!(
        "{:<30} {:>7} {:>9} {:>9} {:>6} {:>11} {:>10}",
        name,
        policy.rules().len(),
        report.packets,
        report.matched,
        report.wrong,
        report.compile.as_millis(),
        report.size_bytes >> 10,
    );
    if let Some((headers, at, found, expected)) = &report.first_wrong {
        let (found, expected) = (policy.rule_name(*found), policy.rule_name(*expected));
        let packet = in_words(headers, policy.wires());
        println!("  {packet} at {at:?}: {found} instead of {expected}; {headers:?}");
    }
}
