//! Documentation that is generated from the code is what the code says.

#[path = "documentation/glossary.rs"]
mod glossary;
#[path = "documentation/links.rs"]
mod links;
#[path = "documentation/speech.rs"]
mod speech;

use std::{collections::HashSet, env, fs, path::Path};

use cofferdam_agent::config::reference::{self, Key};
use cofferdam_controller::schemas;
use cofferdam_syntax::diagnostic::Code;
use cofferdam_telemetry::metrics::list;
use cofferdam_tests::evasions::Row;
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

/// `docs/diagnostics.md`, from the one table of codes.
fn diagnostics() -> String {
    let mut text = String::from(
        "# Diagnostics\n\n\
         What can be wrong with documents, as `cofferdam check`, `sync` and `status` report it.\n\
         Codes never change their meaning.\n\n\
         An *error* leaves its document out. A *warning* leaves it in force; those of the last\n\
         chapter are found by `cofferdam check` alone, and only where the documents have\n\
         something to hold a policy against. `# cofferdam: allow CD0510` at the end of the line\n\
         of a warning, or on a line of its own before it, says that it is meant so.\n",
    );
    let mut chapter = "";
    for &code in Code::ALL {
        let subject = code.subject();
        if subject != chapter {
            text += &format!("\n## {subject}\n\n| code | meaning |\n|---|---|\n");
            chapter = subject;
        }
        text += &format!("| `{code}` | {} |\n", code.summary());
    }
    text + "\nGenerated from `policies/syntax/src/diagnostic.rs`: after a change there, run the test\n\
            `documentation` with `COFFERDAM_BLESS=1`.\n"
}

/// `docs/configuration.md`, from the types of the configuration.
fn configuration() -> String {
    let mut text = String::from(
        "# Configuration\n\n\
         The agent reads one YAML file, `cofferdam agent --config FILE`. Every key has a default.\n\
         `cofferdam agent --config FILE --print-config` prints all of them, each below what it is\n\
         for. Every mistake is told with its line and column, and ends the agent before anything\n\
         is changed. [`schemas/configuration.json`](schemas/configuration.json) is the schema, for\n\
         editors.\n\n\
         Times have a unit: `250ms`, `30s`, `5m`, `6h`. So have sizes: `64KiB`, `100MiB`, `1GiB`.\n\n\
         ## Reload\n\n\
         On SIGHUP (`systemctl reload cofferdam`) the agent reads the file again, and then all\n\
         documents. Keys that say so below change in force. The log names each other key that has\n\
         changed: it takes effect at the next start. A file with a mistake changes nothing: the\n\
         log has every mistake, and the configuration from before stays.\n\n\
         ## Keys\n\n\
         | key | default | meaning |\n|---|---|---|\n",
    );
    for key in reference::keys() {
        let default = key
            .default
            .as_ref()
            .map_or_else(String::new, |value| format!("`{value}`"));
        text += &format!("| `{}` | {default} | {} |\n", key.path, meaning(&key));
    }
    text + "\nGenerated from `controller/agent/src/config.rs`: after a change there, run the test\n\
            `documentation` with `COFFERDAM_BLESS=1`.\n"
}

/// `docs/metrics.md`, from the one list of metrics.
fn metrics() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         The agent serves `/metrics` in the text format of Prometheus at `metrics` of its\n\
         [configuration](configuration.md), beside `/healthz` and `/readyz`. Each page is there\n\
         within 100 ms: an agent that is busy for longer gives what it knew last, with its age.\n\n\
         No label has an address, a port, a pod or a label of a workload, unless `metrics_labels`\n\
         asks for it. At most `metrics_series` series name policies or workloads; what is beyond\n\
         that is counted together, in series whose labels of policies and workloads say\n\
         `overflow`. A series ends with the policy or workload that it names.\n\n\
         | metric | type | unit | labels | meaning |\n|---|---|---|---|---|\n",
    );
    for metric in list::ALL {
        let labels = metric.labels.iter();
        let labels: Vec<String> = labels.map(|label| format!("`{label}`")).collect();
        text += &format!(
            "| `{}` | {} | {} | {} | {} |\n",
            metric.name,
            metric.kind.as_str(),
            metric.unit.as_str(),
            labels.join(", "),
            metric.help()
        );
    }
    text + "\nGenerated from `controller/telemetry/src/metrics/list.rs`: after a change there, run the\n\
            test `documentation` with `COFFERDAM_BLESS=1`.\n"
}

fn meaning(key: &Key) -> String {
    let words = key.words.iter();
    let words: String = words
        .map(|(word, about)| format!(" `{word}`: {about}"))
        .collect();
    let range = key.range.map_or_else(String::new, |[least, most]| {
        format!(" From {least} to {most}.")
    });
    format!("{}{words}{range}", key.about)
}

/// Holds a file of `docs` against what it is generated from.
fn assert_written(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(name);
    if env::var_os("COFFERDAM_BLESS").is_some() {
        fs::write(&path, text).expect("the file can be written");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == text,
        "docs/{name} is out of date: run with COFFERDAM_BLESS=1"
    );
}

#[test]
fn the_configuration_is_documented_as_it_is() {
    assert_written("configuration.md", &configuration());
}

#[test]
fn diagnostics_are_documented_as_they_are() {
    assert_written("diagnostics.md", &diagnostics());
}

#[test]
fn metrics_are_documented_as_they_are() {
    assert_written("metrics.md", &metrics());
}

#[test]
fn reasons_are_documented_as_they_are() {
    assert_written("reasons.md", &reasons());
}

#[test]
fn schemas_are_those_of_what_commands_read_and_print() {
    for schema in schemas::all() {
        assert_written(&format!("schemas/{}", schema.file()), &schema.text);
    }
}

/// Adds the names of functions in the sources below a folder.
fn functions(folder: &Path, names: &mut HashSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder of the repository") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            functions(&path, names);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = fs::read_to_string(&path).expect("a source");
            let lines = text.lines().map(str::trim_start);
            let found = lines.filter_map(|line| line.strip_prefix("fn ")?.split('(').next());
            names.extend(found.map(str::to_owned));
        }
    }
}

#[test]
fn every_row_of_the_security_model_names_tests_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("../docs/security-model.md")).expect("the page");
    let (_, chapter) = (page.split_once("## Which test shows it")).expect("the chapter");
    let (chapter, _) = chapter.split_once("\n## ").expect("one behind it");
    let rows = chapter.lines().filter_map(|line| {
        let mut columns = line.strip_prefix("| ")?.split(" | ");
        (columns.next() != Some("tried")).then(|| columns.next().unwrap_or_default())
    });
    let mut known: HashSet<String> = Row::ALL.iter().map(|row| format!("{row:?}")).collect();
    let mut unnamed = known.clone();
    for folder in ["tests", "../dataplane/verdict/tests"] {
        functions(&root.join(folder), &mut known);
    }
    let mut count = 0;
    for row in rows {
        let names: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "nothing shows it: {row}");
        for name in names {
            assert!(known.contains(name), "there is no {name}");
            unnamed.remove(name);
        }
        count += 1;
    }
    assert!(count >= Row::ALL.len(), "{count}");
    assert!(unnamed.is_empty(), "{unnamed:?}");
}

#[test]
fn failures_are_described_by_tests_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("../docs/limits.md")).expect("the page");
    let mut known = HashSet::new();
    functions(&root.join("tests"), &mut known);
    let spans = page
        .lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2));
    let named: Vec<&str> = spans
        .filter_map(|span| Some(span.rsplit_once("::")?.1))
        .collect();
    assert!(named.len() >= 20, "{named:?}");
    for name in named {
        assert!(known.contains(name), "there is no {name}");
    }
}
