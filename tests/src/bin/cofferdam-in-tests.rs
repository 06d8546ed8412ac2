//! `cofferdam`, where tests of this package find it.

use std::process::ExitCode;

fn main() -> ExitCode {
    cofferdam_controller::cli::main()
}
