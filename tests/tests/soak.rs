//! The soaks, run for a moment: what they print and how they exit is a promise.

use std::process::{Command, Output};

fn soak(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cofferdam-soak"))
        .args(arguments)
        .output()
        .expect("the program starts")
}

#[test]
fn a_short_soak_says_where_it_ran_and_what_it_came_to() {
    let output = soak(&["verdicts", "--packets", "1500", "--seed", "41"]);
    let said = String::from_utf8(output.stdout).expect("text");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}{told}");
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        lines[0].starts_with("soak verdicts: ")
            && lines[0].contains(", Linux ")
            && lines[0].ends_with(", seed 41"),
        "{said}"
    );
    assert_eq!(
        *lines.last().expect("lines"),
        r#"{"schema":"cofferdam/v1","soak":"verdicts","runs":2,"leaked":0,"lost":0,"broken":0,"disagreements":0,"window_ms_max":0,"seed":41}"#
    );
}

#[test]
fn a_soak_that_cannot_be_tried_is_no_failure() {
    for arguments in [&["nothing"][..], &["verdicts", "--packets", "0"], &[]] {
        assert_eq!(soak(arguments).status.code(), Some(2), "{arguments:?}");
    }
}
