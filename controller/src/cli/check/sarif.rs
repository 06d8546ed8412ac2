//! The report as SARIF 2.1.0, which code hosts and editors show beside the lines.
//!
//! <https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html>

use std::collections::HashMap;
use std::hash::Hasher as _;
use std::path::{Component, Path};

use cofferdam_protocol::output::{Diagnostic, Severity};
use cofferdam_syntax::diagnostic::Code;
use serde_json::{Value, json};

use super::excerpt::Texts;
use crate::output::CheckReport;

/// The folder that relative addresses of files are relative to.
const ROOT: &str = "%SRCROOT%";

/// Address of the schema of such logs.
const SCHEMA: &str =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";

pub(super) fn log(report: &CheckReport, texts: &Texts<'_>, is_good: bool) -> Value {
    let mut seen = HashMap::new();
    let results: Vec<Value> = (report.diagnostics.iter())
        .map(|diagnostic| result(diagnostic, texts, &mut seen))
        .collect();
    let rules = Code::ALL.iter().map(|code| rule(*code)).collect();
    let mut log = one_run(rules, results);
    log["runs"][0]["invocations"] = json!([{
        "executionSuccessful": true,
        "exitCode": u8::from(!is_good),
    }]);
    log
}

/// Returns the log of one run, with the kinds of its results.
pub(in crate::cli) fn one_run(rules: Vec<Value>, results: Vec<Value>) -> Value {
    json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": {
                "driver": {
                    "name": "cofferdam",
                    "version": env!("CARGO_PKG_VERSION"),
                    "rules": rules,
                },
            },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn rule(code: Code) -> Value {
    json!({
        "id": code.as_str(),
        "name": format!("{code:?}"),
        "shortDescription": {"text": code.summary()},
        "help": {
            "text": format!("{}: {}", code.subject(), code.summary()),
            "markdown": format!(
                "**{}**: {} A comment `# cofferdam: allow {code}` on the line takes a warning \
                 away.",
                code.subject(),
                code.summary(),
            ),
        },
        "properties": {"tags": ["network-policy", code.subject()]},
    })
}

fn result(diagnostic: &Diagnostic, texts: &Texts<'_>, seen: &mut HashMap<u64, u32>) -> Value {
    let index = Code::ALL
        .iter()
        .position(|code| code.as_str() == diagnostic.code);
    let message = match &diagnostic.hint {
        Some(hint) => format!("{} ({hint})", diagnostic.message),
        None => diagnostic.message.clone(),
    };
    let mut result = json!({
        "ruleId": diagnostic.code,
        "ruleIndex": index,
        "level": match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        },
        "message": {"text": message},
        "partialFingerprints": {"cofferdam/v1": fingerprint(diagnostic, texts, seen)},
    });
    if !diagnostic.file.is_empty() && diagnostic.line == 0 {
        result["locations"] = json!([object(&diagnostic.file)]);
    } else if !diagnostic.file.is_empty() {
        let mut region = json!({
            "startLine": diagnostic.line,
            "startColumn": diagnostic.column,
        });
        if let Some(excerpt) = texts.excerpt(diagnostic) {
            let characters = excerpt.line[excerpt.part].chars().count();
            let end = diagnostic.column as usize + characters;
            region["endColumn"] = json!(end);
            region["snippet"] = json!({"text": excerpt.line});
        }
        result["locations"] = json!([{
            "physicalLocation": {
                "artifactLocation": artifact(&diagnostic.file),
                "region": region,
            },
        }]);
    }
    result
}

/// The location of an object of an API server, which has no lines.
pub(in crate::cli) fn object(name: &str) -> Value {
    json!({"logicalLocations": [{"fullyQualifiedName": name, "kind": "resource"}]})
}

/// The address of a file: relative to where the command runs, if it lies below.
pub(in crate::cli) fn artifact(file: &str) -> Value {
    let path = Path::new(file);
    let here = std::env::current_dir().unwrap_or_default();
    let relative = path.strip_prefix(&here).unwrap_or(path);
    let words: Vec<String> = (relative.components())
        .filter(|component| !matches!(component, Component::CurDir | Component::RootDir))
        .map(|component| escaped(&component.as_os_str().to_string_lossy()))
        .collect();
    let uri = words.join("/");
    if relative.is_absolute() {
        json!({"uri": format!("file:///{uri}")})
    } else {
        json!({"uri": uri, "uriBaseId": ROOT})
    }
}

/// Percent-encoded, but for what RFC 3986 leaves unreserved.
fn escaped(word: &str) -> String {
    word.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// Returns a fingerprint that stays the same while lines before the finding come and go: a
/// hash of code, file, message and line, and the number of the finding among equal ones.
fn fingerprint(diagnostic: &Diagnostic, texts: &Texts<'_>, seen: &mut HashMap<u64, u32>) -> String {
    let line = texts.excerpt(diagnostic).map_or("", |excerpt| excerpt.line);
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    for part in [
        &diagnostic.code,
        &diagnostic.file,
        &diagnostic.message,
        line.trim(),
    ] {
        hash.write(part.as_bytes());
        hash.write(&[0]);
    }
    let hash = hash.finish();
    let count = seen.entry(hash).or_default();
    *count += 1;
    format!("{hash:016x}:{count}")
}

/// FNV-1a: the hasher of the standard library may be another one tomorrow.
struct Fnv(u64);

impl std::hash::Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
