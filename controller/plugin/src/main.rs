//! The CNI plugin, `cofferdam-cni`.

use std::process::ExitCode;

fn main() -> ExitCode {
    cofferdam_cni::main()
}
