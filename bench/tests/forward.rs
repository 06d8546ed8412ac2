//! The forwarding benchmark, run for a moment: what it writes is a promise.

use std::{fs, process::Command};

use cofferdam_tests::{scratch::Scratch, skip::Feature, skip_unless};
use serde_json::Value;

#[test]
fn packets_are_forwarded_with_and_without_a_firewall() {
    skip_unless!(Feature::NetworkNamespaces);
    let scratch = Scratch::new();
    let file = scratch.path().join("forward.json");
    let output = Command::new(env!("CARGO_BIN_EXE_cofferdam-bench"))
        .args(["forward", "--rounds", "2", "--milliseconds", "5"])
        .args(["--config", "cofferdam_1,nft_linear_1000", "--json"])
        .arg(&file)
        .output()
        .expect("the program starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let text = fs::read_to_string(file).expect("results");
    let report: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(report["schema"], "cofferdam/v1");
    let results = report["results"].as_array().expect("results");
    let said = String::from_utf8_lossy(&output.stdout);
    for config in ["none", "empty_tcx", "cofferdam_1", "nft_linear_1000"] {
        if said.contains(&format!("skipped {config}:")) {
            continue;
        }
        for case in ["established", "established_tcp"] {
            let result = results
                .iter()
                .find(|result| result["config"] == config && result["case"] == case)
                .unwrap_or_else(|| panic!("{config} has no {case}: {text}"));
            for field in ["ns", "vs_none", "vs_empty_tcx", "spread"] {
                assert!(result[field].is_number(), "{result}");
            }
        }
    }
}
