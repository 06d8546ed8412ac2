//! Programs of the system, run in a namespace: `nft`, `tc`.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use crate::world::Namespace;

/// Runs a program in a namespace; returns what it prints.
///
/// # Panics
///
/// Panics if it cannot be started or fails; says its words.
pub fn run(namespace: &Namespace, program: &str, arguments: &[&str], input: &str) -> String {
    let _inside = namespace.enter().expect("a namespace of the stage");
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} (`cargo xtask setup` installs it): {error}"));
    let mut stdin = child.stdin.take().expect("a pipe was asked for");
    // Its end tells the program that this is all.
    let written = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("a child that was started");
    assert!(
        output.status.success() && written.is_ok(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
