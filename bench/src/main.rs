//! `bulkhead-bench`: measurements and long verifications.

use std::process::ExitCode;

use bulkhead_bench::{
    analysis, attacks, classify, edits, forwarding, heap, learn, pipeline, rfc2544, rfc9411,
    verify, verify_edits,
};
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
    /// Compare the classifier with the linear scan, tuple space search and librte_acl, packet by packet,
    /// on every ClassBench set of the data folder (BULKHEAD_DATA, by default ../shared), on segmentation
    /// policies and on the example policies. Takes about half an hour.
    VerifyClassifier(verify::Options),
    /// Apply random edits to a segmentation policy, and compare what they leave with the linear scan
    /// and with whole compilations.
    VerifyEdits(verify_edits::Options),
    /// Measure the classifier beside librte_acl and tuple space search, on ClassBench sets and on
    /// segmentation policies: the same rules, the same headers, in turns, all answers compared.
    Classify(classify::Options),
    /// Measure the gateway against dpdk-testpmd on the same pair of DPDK devices, in turns. Needs
    /// huge pages, or root, and a release build of the gateway.
    Forwarding(forwarding::Options),
    /// Measure the whole packet path in one process, without a NIC: known flows, new ones, both, and
    /// a flood, with the cycles of every stage.
    Pipeline(pipeline::Options),
    /// Measure what flow records cost the packet path, beside a worker that tells nothing, and how many
    /// are lost at 100,000 new flows a second.
    Records(pipeline::records::RecordOptions),
    /// Mount attacks on workers in memory: crafted collisions, policies of many masks, a full table, a
    /// greedy host; measure what established flows notice of them.
    Attacks(attacks::Options),
    /// Test the packet path as RFC 2544 has it: throughput without loss, latency, back-to-back frames
    /// and frame loss by frame size, with a tester in this process.
    Rfc2544(rfc2544::Options),
    /// Test the packet path as RFC 9411 has it: new TCP connections a second, concurrent ones, response
    /// times and throughput by object size, with clients and servers in this process.
    Rfc9411(rfc9411::Options),
    /// Measure what a packet of a known flow costs while the policy is edited, and while it is not.
    Edits(edits::Options),
    /// Compare the analysis of policies with the truth of the linear scan, and time it.
    Analysis(analysis::Options),
    /// Learn an allowlist from recorded hours and test it on later ones, beside other ways to make one.
    Learn(learn::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::VerifyClassifier(options) => verify::run(&options),
        Command::VerifyEdits(options) => verify_edits::run(&options),
        Command::Classify(options) => classify::run(&options),
        Command::Analysis(options) => analysis::run(&options),
        Command::Attacks(options) => attacks::run(&options),
        Command::Learn(options) => learn::run(&options).map(|()| 0),
        Command::Pipeline(options) => pipeline::run(&options),
        Command::Records(options) => pipeline::records::run(&options),
        Command::Forwarding(options) => forwarding::run(&options).map(|()| 0),
        Command::Rfc2544(options) => rfc2544::run(&options),
        Command::Rfc9411(options) => rfc9411::run(&options).map(|()| 0),
        Command::Edits(options) => edits::run(&options).map(|()| 0),
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
