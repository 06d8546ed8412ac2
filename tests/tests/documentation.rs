//! Documentation that is generated from the code is what the code says.

use std::{env, fs, path::Path};

use cofferdam_controller::schemas;
use cofferdam_verdict::reason::Reason;

/// `docs/reasons.md`, from the one table of reasons.
fn reasons() -> String {
    let mut text = String::from(
        "# Reasons\n\n\
         Why a packet was allowed or denied. The name is the `reason` in JSON, in logs and\n\
         in metrics; numbers and names never change their meaning.\n\n\
         | number | name | meaning |\n|---|---|---|\n",
    );
    for &reason in Reason::ALL {
        text += &format!(
            "| {} | `{}` | {} |\n",
            reason as u8,
            reason.name(),
            reason.help()
        );
    }
    text + "\nGenerated from `dataplane/verdict/src/reason.rs`: after a change there, run the test\n\
            `documentation` with `COFFERDAM_BLESS=1`.\n"
}

#[test]
fn reasons_are_documented_as_they_are() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reasons.md");
    if env::var_os("COFFERDAM_BLESS").is_some() {
        fs::write(&path, reasons()).expect("the file can be written");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == reasons(),
        "docs/reasons.md is out of date: run with COFFERDAM_BLESS=1"
    );
}

#[test]
fn schemas_are_those_of_what_commands_read_and_print() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schemas");
    for schema in schemas::all() {
        let path = folder.join(schema.file());
        if env::var_os("COFFERDAM_BLESS").is_some() {
            fs::write(&path, &schema.text).expect("the file can be written");
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == schema.text,
            "docs/schemas/{} is out of date: run with COFFERDAM_BLESS=1",
            schema.file()
        );
    }
}
