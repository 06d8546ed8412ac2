//! Builds again when the policy library has other files: the macro that takes it into
//! the binary follows only the files that it saw.

fn main() {
    println!("cargo:rerun-if-changed=../policies/library");
}
