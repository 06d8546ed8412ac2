//! Repositories in the forms that they really have, each with all findings that it must give.
//!
//! `findings` in a folder of `tests/repositories` has a line for each, `FILE:LINE CODE`. Nothing
//! in any of them is an error.

use std::collections::BTreeSet;
use std::fs;

use cofferdam_tests::scratch::Scratch;
use serde_json::Value;

use super::{check_in, cofferdam_in, json, repository, text};

fn report(folder: &str, arguments: &[&str]) -> Value {
    let folder = repository("tests/repositories").join(folder);
    let output = check_in(&folder, &[&[".", "--format", "json"], arguments].concat());
    json(&output)
}

/// The findings of a report, as the files of expectations have them.
fn found(report: &Value) -> BTreeSet<String> {
    let diagnostics = report["diagnostics"].as_array().expect("a list").iter();
    let shown = diagnostics.map(|one| {
        let file = one["file"]
            .as_str()
            .expect("a file")
            .trim_start_matches("./");
        format!(
            "{file}:{} {}",
            one["line"],
            one["code"].as_str().expect("a code")
        )
    });
    shown.collect()
}

#[test]
fn each_form_of_a_repository_gives_its_findings_and_no_others() {
    let folders = fs::read_dir(repository("tests/repositories")).expect("the repositories");
    let mut count = 0;
    for folder in folders.map(|entry| entry.expect("a folder").path()) {
        let expected = fs::read_to_string(folder.join("findings")).expect("expectations");
        let expected: BTreeSet<String> = expected.lines().map(str::to_owned).collect();
        let name = folder.file_name().expect("a name").to_string_lossy();
        let report = report(&name, &[]);
        super::assert_valid(
            &report,
            &fs::read_to_string(repository("docs/schemas/check.json")).expect("a schema"),
        );
        assert_eq!(found(&report), expected, "{name}: {report:#}");
        assert_eq!(report["errors"], 0, "{name}");
        count += 1;
    }
    assert_eq!(count, 8);
}

#[test]
fn what_is_no_manifest_is_counted_and_an_error_to_who_asks() {
    let plain = report("plain", &[]);
    assert_eq!(plain["passed_over"]["no_objects"], 4);
    assert_eq!(plain["looked_at"]["policies"], 2);
    assert_eq!(plain["looked_at"]["workloads"], 3);
    assert_eq!(plain["unrendered"], Value::Null);
    let strict = report("plain", &["--strict"]);
    assert!(
        strict["errors"].as_u64().expect("a number") >= 4,
        "{strict:#}"
    );
    let left_out = report(
        "plain",
        &[
            "--strict",
            "--exclude",
            "*.json",
            "--exclude",
            "/values.yaml",
            "--exclude",
            "mkdocs.yml",
        ],
    );
    assert_eq!(left_out["errors"], 0, "{left_out:#}");
    assert_eq!(left_out["passed_over"]["left_out"], 4);
}

#[test]
fn folders_that_something_renders_are_named_with_the_command() {
    let kustomize = report("kustomize", &[]);
    assert_eq!(kustomize["passed_over"]["patches"], 4);
    let commands: Vec<&str> = (kustomize["unrendered"].as_array().expect("a list").iter())
        .map(|one| one["command"].as_str().expect("a command"))
        .collect();
    assert_eq!(
        commands,
        [
            "kubectl kustomize overlays/dev",
            "kubectl kustomize overlays/prod"
        ]
    );
    let chart = report("chart", &[]);
    assert_eq!(chart["passed_over"]["templates"], 2);
    assert_eq!(chart["unrendered"][0]["command"], "helm template web");
    assert_eq!(chart["unrendered"][0]["renderer"], "helm");
    let folder = repository("tests/repositories/chart");
    let shown = text(&check_in(&folder, &["."]));
    for words in [
        "looked at 1 policy, 1 workload",
        "2 documents (no Kubernetes object), 2 templates to be rendered",
        "chart web is not rendered: helm template web | cofferdam check -",
    ] {
        assert!(shown.contains(words), "{words}\n{shown}");
    }
}

#[test]
fn an_ignore_file_leaves_out_below_its_folder() {
    let scratch = Scratch::new();
    let write = |name: &str, text: &str| {
        let path = scratch.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect(name);
    };
    write("a/wrong.yaml", "kind: [");
    write("a/.cofferdamignore", "# broken on purpose\nwrong.yaml\n");
    write(
        "b/good.yaml",
        "{apiVersion: v1, kind: Pod, metadata: {name: a}}",
    );
    std::os::unix::fs::symlink("nowhere", scratch.path().join("b/link.yaml")).expect("a link");
    std::os::unix::fs::symlink("../b", scratch.path().join("b/again")).expect("a link");
    let output = check_in(scratch.path(), &[".", "--format", "json"]);
    let report = json(&output);
    assert!(output.status.success(), "{report:#}");
    assert_eq!(report["files"], 1);
    assert_eq!(report["passed_over"]["left_out"], 1);
    assert_eq!(report["passed_over"]["unreadable"], 1);
    write("b/wrong.yaml", "kind: [");
    assert_eq!(check_in(scratch.path(), &["."]).status.code(), Some(1));
}

#[test]
fn findings_are_allowed_by_code_object_annotation_and_file() {
    let folder = repository("tests/repositories/plain");
    let count = |arguments: &[&str]| {
        let output = check_in(&folder, &[&[".", "--format", "json"], arguments].concat());
        let report = json(&output);
        report["diagnostics"].as_array().expect("a list").len()
    };
    assert_eq!(count(&[]), 1);
    assert_eq!(count(&["--allow", "CD0501"]), 0);
    assert_eq!(count(&["--allow", "CD0501=default/web"]), 0);
    assert_eq!(count(&["--allow", "CD0501=default/db"]), 1);
    assert_eq!(
        check_in(&folder, &[".", "--allow", "CD9999"]).status.code(),
        Some(2)
    );
    let scratch = Scratch::new();
    let file = scratch.path().join("allow.yaml");
    let with_file = |text: &str| {
        fs::write(&file, text).expect("a file");
        check_in(
            &folder,
            &[
                ".",
                "--format",
                "json",
                "--allow-file",
                file.to_str().expect("a path"),
            ],
        )
    };
    let codes = |text: &str| {
        let report = json(&with_file(text));
        let diagnostics = report["diagnostics"].as_array().expect("a list").iter();
        // By their places, of which one is in another folder.
        let mut codes: Vec<String> = diagnostics
            .map(|one| one["code"].as_str().expect("a code").to_owned())
            .collect();
        codes.sort();
        codes
    };
    let entry = |rest: &str| format!("allow:\n- {{code: CD0501, reason: 'on its way'{rest}}}\n");
    assert_eq!(codes(&entry("")), [""; 0]);
    assert_eq!(codes(&entry(", until: 2999-12-31")), [""; 0]);
    assert_eq!(codes(&entry(", until: 2020-12-31")), ["CD0501", "CD0603"]);
    assert_eq!(codes(&entry(", object: default/db")), ["CD0501", "CD0603"]);
    for wrong in [
        "allow:\n- {code: CD0501}\n",
        "allow:\n- {code: CD0501, reason: ''}\n",
        "allow:\n- {code: CD1, reason: x}\n",
        "allow:\n- {code: CD0501, reason: x, until: soon}\n",
        "allow:\n- {code: CD0501, reason: x, untill: 2999-12-31}\n",
        "- x\n",
    ] {
        assert_eq!(with_file(wrong).status.code(), Some(2), "{wrong}");
    }
}

#[test]
fn answers_say_which_policies_of_other_products_may_be_about_an_end() {
    let folder = repository("tests/repositories/vendors");
    let output = cofferdam_in(
        &folder,
        &["matrix", ".", "--probe", "tcp/80", "--format", "json"],
    );
    let matrix = json(&output);
    let not_judged: Vec<&str> = (matrix["ends"][0]["not_judged"]
        .as_array()
        .expect("a list")
        .iter())
    .map(|one| one["name"].as_str().expect("a name"))
    .collect();
    assert_eq!(not_judged, ["guard", "l7", "sg", "old"]);
    assert_eq!(matrix["rules"][0]["tier"], "admin");
    let output = cofferdam_in(
        &folder,
        &[
            "explain", ".", "--from", "shop/web", "--to", "shop/web", "--port", "tcp/80",
        ],
    );
    assert!(
        text(&output).contains("are not judged: CiliumNetworkPolicy shop/l7"),
        "{output:?}"
    );
    let converted = cofferdam_in(&folder, &["convert", "."]);
    assert!(converted.status.success(), "{converted:?}");
    let printed = text(&converted);
    assert!(
        printed.contains("tier: Admin") && printed.contains("action: Accept"),
        "{printed}"
    );
    assert_eq!(
        cofferdam_in(&repository("tests/repositories/plain"), &["convert", "."])
            .status
            .code(),
        Some(2)
    );
}
