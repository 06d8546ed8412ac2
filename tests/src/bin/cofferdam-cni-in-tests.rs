//! `cofferdam-cni`, where tests of this package find it.

use std::process::ExitCode;

fn main() -> ExitCode {
    cofferdam_cni::main()
}
