//! The binary `bulkhead`; everything it does is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    bulkhead_gateway::cli::main()
}
